"""Durations (`1h30m`) and sizes (`512Mi`) as users write them in workflow files, settings and flags.

Pure text to number. One grammar for all places, so that a value that works in one works in the others.
"""

from __future__ import annotations

import re

_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}  # in milliseconds, largest first
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|[dhms]))+")
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|[dhms])")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([kKMGTPE]i?)?B?")
_POWERS = {"K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}

LONGEST = 36_500 * 86_400.0  # seconds: what timers and calendars can still hold
LARGEST = 2**63 - 1  # bytes: what the kernel takes
_MAX_TEXT = 64


def parse_duration(text: str) -> float:
    """Seconds of `500ms`, `5s`, `10m`, `1h30m`, `7d`, `0`: each unit at most once, largest first. Raises ValueError."""
    word = text.strip()
    if word == "0":
        return 0.0
    if len(word) > _MAX_TEXT or not _DURATION.fullmatch(word):
        raise ValueError(
            f"{_shown(word)} is not a duration; write a number and a unit, such as 500ms, 5s, 10m, 1h30m or 7d"
        )
    parts = _PART.findall(word)
    order = [list(_UNITS).index(unit) for _, unit in parts]
    if order != sorted(set(order)):
        raise ValueError(f"{_shown(word)} is not a duration; give each unit once and the largest first, such as 1h30m")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts) / 1000
    if seconds > LONGEST:
        raise ValueError(f"{_shown(word)} is too long; the longest duration is 36500d")
    return seconds


def parse_size(text: str) -> int:
    """Bytes of `512Mi` (1024 based), `1G` (1000 based) or `65536`; a `B` may follow. Raises ValueError."""
    word = text.strip()
    match = _SIZE.fullmatch(word) if len(word) <= _MAX_TEXT else None
    if not match:
        raise ValueError(f"{_shown(word)} is not a size; write a number and a unit, such as 512Mi, 2Gi, 1G or 65536")
    number, unit = match.groups()
    multiple = _multiple(unit or "")
    size = int(float(number) * multiple) if "." in number else int(number) * multiple
    if size > LARGEST:
        raise ValueError(f"{_shown(word)} is too large; the largest size is {LARGEST} bytes")
    return size


def _multiple(unit: str) -> int:
    if not unit:
        return 1
    return int((1024 if unit.endswith("i") else 1000) ** _POWERS[unit[0].upper()])


def _shown(word: str) -> str:
    return f'"{word}"' if len(word) <= _MAX_TEXT else f'"{word[:_MAX_TEXT]}…"'
