"""What plain data from users may be: JSON that every process, store and executor can take. Limits, and their errors.

Numbers have to fit 64 bits and be finite (msgspec, SQLite, other languages), text has to be Unicode (no half
surrogate pairs), and depth and size are bounded, so that whatever walks the data later may recurse.
"""

from __future__ import annotations

import os
from typing import Any

MAX_BYTES = 16 * 1024 * 1024  # of a file
MAX_PATH = 4096  # PATH_MAX
MAX_DEPTH = 100  # lists and mappings inside each other
MAX_NODES = 4_000_000  # values, those that aliases repeat counted each time
TEXT_WEIGHT = 8  # so many characters count like one more value: aliases can repeat long texts, too
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1


class DocumentError(Exception):
    """A text cannot be read at all: one problem, with a stable code and, where it is known, the 1-based line."""

    def __init__(self, code: str, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.line = line


def check_number(value: int | float) -> int | float:
    """The number, if JSON on every wire can hold it. Raises DocumentError."""
    if isinstance(value, int) and not _INT_MIN <= value <= _INT_MAX:
        raise DocumentError("number", "a number does not fit 64 bits; put it in quotes if it is text")
    if value - value != 0:  # infinite, or not a number
        raise DocumentError("number", "a number is infinite or too large; put it in quotes if it is text")
    return value


def check_plain(data: Any) -> None:
    """Raises DocumentError unless `data` is plain JSON data within the limits. Does not recurse."""
    stack: list[tuple[Any, int]] = [(data, 0)]
    nodes = 0
    while stack:
        value, depth = stack.pop()
        nodes += 1
        if isinstance(value, dict | list | tuple):
            _check_size(nodes, depth + 1)
            stack += [(child, depth + 1) for child in _children(value)]
        else:
            _check_scalar(value)


def one_line(text: str, longest: int = 1000) -> str:
    """A text that may hold anything, fit for a message: one line, printable, not too long."""
    if len(text) > longest:
        text = text[:longest] + "…"
    return text if text.isprintable() else "".join(map(_printable, text))


def shown_path(path: str | os.PathLike[str]) -> str:
    """A path inside a message: names of files may hold newlines, and bytes that are not UTF-8."""
    return one_line(os.fspath(path), MAX_PATH)


def _printable(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape", "replace").decode()


def too_deep(line: int | None = None) -> DocumentError:
    return DocumentError("too_deep", f"it is nested more than {MAX_DEPTH} levels deep", line)


def too_many(line: int | None = None) -> DocumentError:
    return DocumentError(
        "too_large", f"it holds more than {MAX_NODES} values or too much text (aliases repeat what they name)", line
    )


def _check_size(nodes: int, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise too_deep()
    if nodes > MAX_NODES:
        raise too_many()


def _children(value: dict[Any, Any] | list[Any] | tuple[Any, ...]) -> list[Any]:
    if not isinstance(value, dict):
        return list(value)
    for key in value:
        if not isinstance(key, str):
            raise DocumentError("type", f"a key is {type(key).__name__}, not text")
        _check_scalar(key)
    return list(value.values())


def _check_scalar(value: Any) -> None:
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise DocumentError("encoding", "a text holds half a surrogate pair, which is not Unicode")
    elif isinstance(value, int | float):
        check_number(value)
    elif value is not None:
        raise DocumentError("type", f"a value is {type(value).__name__}, which JSON cannot hold")
