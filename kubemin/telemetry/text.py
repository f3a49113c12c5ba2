"""From a message and its fields to one line that nobody can forge. Pure text; no I/O but the clock.

A line ends only where we end it: every character that a terminal, a pager or a log collector might take for an order
(newlines, escapes, Unicode line separators, bidirectional overrides) is written as an escape.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

WORDS = {10: "debug", 20: "info ", 30: "warn ", 40: "error"}
NAMES = {10: "debug", 20: "info", 30: "warning", 40: "error"}
_COLOURS = {10: "\x1b[2m", 20: "", 30: "\x1b[33m", 40: "\x1b[31m"}
_RESET = "\x1b[0m"
_NEEDS_QUOTES = frozenset(' "=\\')

_second = -1
_second_text = ""


def stamp(now_ns: int) -> str:
    """`2026-11-24T07:18:28.123Z`. The part up to the second is kept: most lines share theirs with the one before."""
    global _second, _second_text
    second, rest = divmod(now_ns, 1_000_000_000)
    if second != _second:
        _second_text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
        _second = second
    return f"{_second_text}{rest // 1_000_000:03d}Z"


def _escaped(char: str) -> str:
    if char.isprintable() or char == "\t":
        return char
    return ascii(char)[1:-1]


def printable(text: str) -> str:
    """The text with everything that is not a visible character (but tab) as an escape: `\\n`, `\\x1b`, `\\u2028`."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def value_text(value: Any) -> str:
    """A field's value as text, unquoted. Never raises: a log line is not worth a crash."""
    if type(value) is str:
        return value
    if type(value) is bool:
        return "true" if value else "false"
    if type(value) is float:
        return f"{value:.3f}".rstrip("0").rstrip(".")
    if isinstance(value, (list, tuple, dict)):
        return _json_text(value)
    try:
        return str(value)
    except Exception:  # a broken __str__ of whatever was passed
        return f"<{type(value).__name__}>"


def _json_text(value: Any) -> str:
    import msgspec

    try:
        return msgspec.json.encode(value, enc_hook=str).decode("utf-8", "replace")
    except Exception:  # cycles, keys that are no text, a broken __str__
        return f"<{type(value).__name__}>"


def quoted(text: str) -> str:
    """Bare when it is one visible word, else in double quotes with escapes."""
    if text and text.isprintable() and _NEEDS_QUOTES.isdisjoint(text):
        return text
    inner = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + (inner if inner.isprintable() else "".join(map(_quoted_char, inner))) + '"'


def _quoted_char(char: str) -> str:
    return "\\t" if char == "\t" else _escaped(char)


def with_fields(message: str, fields: Mapping[str, Any]) -> str:
    """`message key=value …`; fields that are None are left out."""
    if not fields:
        return printable(message)
    parts = [printable(message)]
    for name, value in fields.items():
        if value is not None:
            parts.append(f"{name}={quoted(value if type(value) is str else value_text(value))}")
    return " ".join(parts)


def head(level: int, role: str, *, colour: bool) -> str:
    """`2026-11-24T07:18:28.123Z info  worker 1: `"""
    word = WORDS[level]
    if colour and _COLOURS[level]:
        word = f"{_COLOURS[level]}{word}{_RESET}"
    return f"{stamp(time.time_ns())} {word} {role}: "
