"""Points in time as users write them: `--at`, `--since`, `Client.submit(at=…)`. Pure, but for the machine's time zone.

Accepted are RFC 3339 (`2026-11-24T10:00:00Z`, `…+01:00`), the same without seconds or without a zone (local time
of this machine then), a date alone, and for the past a duration (`1h` = an hour ago).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from kubemin.clock import LAST, SECOND, Micros
from kubemin.model.durations import parse_duration

_INSTANT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?([Zz]|[+-][0-9]{2}:[0-9]{2})?)?"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EXAMPLES = "write 2026-11-24T10:00, 2026-11-24T10:00:00Z or 2026-11-24T10:00:00+01:00"


def from_datetime(at: datetime) -> Micros:
    """A datetime without a zone is local time. Raises ValueError for years that no clock reaches."""
    try:
        micros: Micros = (at.astimezone(UTC) - _EPOCH) // timedelta(microseconds=1)
    except OverflowError:
        micros = LAST + 1
    if not 0 <= micros <= LAST:
        raise ValueError(f"{at.isoformat()} is out of range: 1970 to 9998")
    return micros


def parse_instant(text: str) -> Micros:
    """Microseconds since the epoch. Raises ValueError with a sentence for the user."""
    word = text.strip()
    if not _INSTANT.fullmatch(word):
        raise ValueError(f'"{word[:64]}" is not a time; {EXAMPLES}')
    try:
        return from_datetime(datetime.fromisoformat(word.upper().replace(" ", "T")))
    except ValueError as exc:
        raise ValueError(f'"{word[:64]}" is not a time: {exc}; {EXAMPLES}') from None


def parse_since(text: str, now: Micros) -> Micros:
    """A duration before `now`, or an instant."""
    if _INSTANT.fullmatch(text.strip()):
        return parse_instant(text)
    try:
        return now - round(parse_duration(text) * SECOND)
    except ValueError:
        raise ValueError(f'"{text[:64]}" is neither a duration such as 1h nor a time; {EXAMPLES}') from None
