"""One value of the table, from what a YAML file or a text (flag, environment) holds; and back to text.

Pure: paths are made absolute here, but nothing is looked up. Every error is a ValueError whose text is for the user.
"""

from __future__ import annotations

import os
import re
from typing import Any

from kubemin.config.table import Key, Kind
from kubemin.model.durations import parse_duration, parse_size

_WORDS = {"true": True, "false": False}
_NONE = ("", "none", "null")
_LONGEST = 4096  # of a text or path, as of paths in Linux
_SIZES = ((2**60, "Ei"), (2**50, "Pi"), (2**40, "Ti"), (2**30, "Gi"), (2**20, "Mi"), (2**10, "Ki"))
_TIMES = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms"))


def from_file(key: Key, value: Any, base: str) -> Any:
    """The value as YAML or JSON gave it. None stands for the default and is left to the caller."""
    if key.kind in (Kind.LIST, Kind.PATHS, Kind.ARGV):
        return _list(key, value, base)
    if key.optional and value == "none":
        return None
    if key.kind is Kind.BOOL:
        return _typed(key, value, bool, "true or false")
    if key.kind is Kind.INT:
        return _ranged(key, _typed(key, value, int, "a whole number"))
    if key.kind is Kind.NUMBER:
        return _ranged(key, float(_typed(key, value, (int, float), "a number")))
    if key.kind in (Kind.DURATION, Kind.SIZE) and type(value) is int:
        value = str(value)
    return from_text(key, _typed(key, value, str, _wanted(key)), base)


def from_text(key: Key, text: str, base: str) -> Any:
    """The value as a flag or an environment variable gives it."""
    if key.optional and text in _NONE:
        return None
    if key.kind in (Kind.LIST, Kind.PATHS, Kind.ARGV):
        return _list(key, _split(key, text), base)
    if key.kind is Kind.BOOL:
        return _word(text)
    if key.kind is Kind.INT:
        return _ranged(key, _number(text, int, "a whole number"))
    if key.kind is Kind.NUMBER:
        return _ranged(key, _number(text, float, "a number"))
    if key.kind is Kind.DURATION:
        return _ranged(key, parse_duration(text))
    if key.kind is Kind.SIZE:
        return _ranged(key, parse_size(text))
    return _text(key, text, base)


def show(key: Key, value: Any) -> str:
    """The value as a user would write it: `15s`, `256Mi`, `default,etl`, `none`."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if key.kind is Kind.DURATION:
        return duration_text(value)
    if key.kind is Kind.SIZE:
        return _size_text(value)
    if isinstance(value, (tuple, list)):
        return ",".join(value) if value else "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def duration_text(seconds: float) -> str:
    """`1h30m`, `15s`, `500ms`, `0s`."""
    rest = round(seconds * 1000)
    parts = []
    for unit, name in _TIMES:
        count, rest = divmod(rest, unit)
        if count:
            parts.append(f"{count}{name}")
    return "".join(parts) or "0s"


def _size_text(size: int) -> str:
    for unit, name in _SIZES:
        if size and size % unit == 0:
            return f"{size // unit}{name}"
    return str(size)


def _wanted(key: Key) -> str:
    examples = {Kind.DURATION: "a duration such as 30s", Kind.SIZE: "a size such as 512Mi", Kind.PATH: "a path"}
    return examples.get(key.kind, "a text")


def _typed(key: Key, value: Any, kind: type | tuple[type, ...], words: str) -> Any:
    # bool is an int in Python, and not in YAML
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"must be {words}, not {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        return f'"{value[:60]}…"' if len(value) > 60 else f'"{value}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else str(value)[:60]


def _word(text: str) -> bool:
    if text.lower() not in _WORDS:
        raise ValueError(f"must be true or false, not {_shown(text)}")
    return _WORDS[text.lower()]


def _number(text: str, kind: type[int] | type[float], words: str) -> Any:
    digits = r"[+-]?[0-9]{1,18}" if kind is int else r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?"
    if not re.fullmatch(digits, text.strip()):
        raise ValueError(f"must be {words}, not {_shown(text)}")
    return kind(text.strip())


def _ranged(key: Key, value: Any) -> Any:
    low, high = key.minimum, key.maximum
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        raise ValueError(f"{show(key, value)} is out of range; it may be {limits(key)}")
    return value


def limits(key: Key) -> str:
    """`1 to 1024`"""
    kind = int if key.kind is Kind.SIZE else (lambda number: number)
    low, high = (None if bound is None else show(key, kind(bound)) for bound in (key.minimum, key.maximum))
    if low is not None and high is not None:
        return f"{low} to {high}"
    return f"at least {low}" if low is not None else f"at most {high}"


def _text(key: Key, text: str, base: str) -> str:
    if len(text) > _LONGEST or not (text.isprintable() or key.kind is Kind.ARGV) or "\0" in text:
        raise ValueError(f"must be one line of at most {_LONGEST} visible characters")
    if key.choices and text not in key.choices:
        raise ValueError(f"{_shown(text)} is not one of {', '.join(key.choices)}")
    if key.pattern and not re.fullmatch(key.pattern, text):
        raise ValueError(f"{_shown(text)} is not {key.shape}")
    return _path(text, base) if key.kind in (Kind.PATH, Kind.PATHS) else text


def _path(text: str, base: str) -> str:
    if not text:
        raise ValueError("must be a path, not empty")
    return os.path.normpath(os.path.join(base, os.path.expanduser(text)))


def _split(key: Key, text: str) -> list[Any]:
    """`a,b` — of a command `a b`, quoted as in a shell — or a JSON list."""
    if text.startswith("["):
        return _json_list(text)
    if text in _NONE:
        return []
    if key.kind is Kind.ARGV:
        import shlex

        return shlex.split(text)
    separator = ":" if key.kind is Kind.PATHS else ","
    return [item.strip() for item in text.split(separator)]


def _json_list(text: str) -> list[Any]:
    import msgspec

    try:
        return msgspec.json.decode(text, type=list[Any])
    except msgspec.MsgspecError as exc:
        raise ValueError(f"is not a JSON list: {exc}") from exc


def _list(key: Key, value: Any, base: str) -> tuple[str, ...]:
    items = _typed(key, value, list, "a list")
    texts = [_text(key, _typed(key, item, str, "a list of texts"), base) for item in items]
    if not texts and key.name == "queues":
        raise ValueError("must name at least one queue")
    if key.kind is Kind.LIST and len(set(texts)) != len(texts):
        raise ValueError("names the same item twice")
    if key.kind is Kind.ARGV and texts and not texts[0]:
        raise ValueError("must begin with a command")
    return tuple(texts)
