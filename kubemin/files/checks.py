"""Reading plain data by type, with every problem noted and none raised: what the validators are built on.

A reader returns the value, or a harmless stand-in (None, "", {}, []) after noting the problem, so that validation goes
on and one pass finds all problems.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice
from typing import Any

from kubemin.errors import Problem
from kubemin.files.document import Document, child
from kubemin.files.plain import one_line
from kubemin.model.durations import parse_duration, parse_size

MAX_PROBLEMS = 1000
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")  # RFC 1123, section 2.1
MAX_NAME = 63
_MAX_COMPARED = 1000  # known words that a suggestion is looked for in


class Enough(Exception):
    """So many problems were noted that nobody would read more."""


class Checks:
    """The problems of one document, and the readers that note them."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []

    def problem(self, at: str, code: str, message: str) -> None:
        """Note a problem with the value at the path `at`. Raises Enough at the thousandth."""
        line = self.document.line(at)
        self.problems.append(Problem(field=one_line(at, 200), code=code, message=one_line(message), line=line))
        if len(self.problems) >= MAX_PROBLEMS:
            more = Problem(field="", code="too_many", message="there are more problems than these; correct these first")
            self.problems.append(more)
            raise Enough

    def wrong_type(self, at: str, value: Any, wanted: str) -> None:
        if value is None:
            self.problem(at, "type", f"it has no value; give it {wanted}, or remove it")
        else:
            self.problem(at, "type", f"it has to be {wanted}, not {type_name(value)}")

    def mapping(self, value: Any, at: str, keys: Collection[str] | None = None) -> dict[str, Any]:
        """A mapping with no keys but `keys` (None: any)."""
        if not isinstance(value, dict):
            self.wrong_type(at, value, "a mapping")
            return {}
        if keys is not None:
            for key in value:
                if key not in keys:
                    self.unknown_key(child(at, key), key, keys)
        return value

    def unknown_key(self, at: str, key: str, keys: Iterable[str]) -> None:
        self.problem(at, "unknown_key", f'there is no key "{shown(key)}" here{suggestion(key, keys)}')

    def items(self, value: Any, at: str, wanted: str = "a list") -> list[Any]:
        if isinstance(value, list):
            return value
        self.wrong_type(at, value, wanted)
        return []

    def text(self, value: Any, at: str, *, longest: int | None = None) -> str:
        """Text that is not empty and can be handed to the kernel."""
        if not isinstance(value, str):
            self.wrong_type(at, value, "text")
        elif not value.strip():
            self.problem(at, "empty", "it is empty; give it a value, or remove it")
        elif longest is not None and len(value) > longest:
            self.problem(at, "too_large", f"it has {len(value)} characters; {longest} are allowed")
        elif self.clean(value, at):
            return value
        return ""

    def clean(self, value: str, at: str) -> bool:
        if "\0" in value:
            self.problem(
                at, "value", "it holds a NUL character, which no command, file name or variable can; remove it"
            )
        return "\0" not in value

    def name(self, value: Any, at: str, *, shortest: int = 1) -> str:
        """A DNS-1123 label."""
        if not isinstance(value, str):
            self.wrong_type(at, value, "text")
        elif not shortest <= len(value) <= MAX_NAME or not _LABEL.fullmatch(value):
            self.problem(
                at,
                "name",
                f'"{shown(value)}" is not a name; use {shortest} to {MAX_NAME} lower-case letters, digits and hyphens, '
                "with no hyphen at the start or end",
            )
        else:
            return value
        return ""

    def flag(self, value: Any, at: str) -> bool:
        if not isinstance(value, bool):
            self.wrong_type(at, value, "true or false")
        return value is True

    def integer(self, value: Any, at: str, low: int, high: int) -> int | None:
        if isinstance(value, bool) or not isinstance(value, int):
            self.wrong_type(at, value, "a whole number")
        elif not low <= value <= high:
            self.problem(at, "range", f"{value} is out of range; it has to be {low} to {high}")
        else:
            return value
        return None

    def number(self, value: Any, at: str, low: float, high: float) -> float | None:
        if not is_number(value):
            self.wrong_type(at, value, "a number")
        elif not low <= value <= high:
            self.problem(at, "range", f"{value} is out of range; it has to be {low:g} to {high:g}")
        else:
            return float(value)
        return None

    def duration(self, value: Any, at: str, *, zero: bool = False) -> float | None:
        """Seconds, more than 0 unless `zero` is allowed."""
        if is_number(value) and value:
            self.problem(at, "duration", f"{value} has no unit; write {value}s for seconds")
            return None
        return self._quantity("0" if is_number(value) else value, at, "duration", parse_duration, zero)

    def size(self, value: Any, at: str) -> int | None:
        """Bytes, more than 0."""
        size = self._quantity(str(value) if is_number(value) else value, at, "size", parse_size, False)
        return None if size is None else int(size)

    def _quantity(self, value: Any, at: str, code: str, parse: Callable[[str], float], zero: bool) -> float | None:
        if not isinstance(value, str):
            self.wrong_type(at, value, f"a {code}")
            return None
        try:
            quantity = parse(value)
        except ValueError as exc:
            self.problem(at, code, str(exc))
            return None
        if quantity == 0 and not zero:
            self.problem(at, code, "it has to be more than 0")
            return None
        return quantity

    def choice(self, value: Any, at: str, choices: Sequence[str]) -> str:
        if isinstance(value, str) and value in choices:
            return value
        wanted = f"{', '.join(choices[:-1])} or {choices[-1]}"
        if isinstance(value, str):
            hint = suggestion(value, choices)
            self.problem(
                at, "value", f'"{shown(value)}" is not known here; it has to be {wanted}{hint and ";" + hint[1:]}'
            )
        else:
            self.wrong_type(at, value, wanted)
        return choices[0]


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean "retry"?`, or nothing."""
    import difflib

    lower = {candidate.lower(): candidate for candidate in islice(known, _MAX_COMPARED)}
    close = difflib.get_close_matches(word[:MAX_NAME].lower(), lower, n=1, cutoff=0.6)
    return f'; did you mean "{lower[close[0]]}"?' if close else ""


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def type_name(value: Any) -> str:
    """How a message calls a value of the wrong type."""
    if isinstance(value, bool):
        word = "true" if value else "false"
        return f'{word} (write "{word}" for text)'
    if is_number(value):
        return f'the number {value} (write "{value}" for text)'
    names: dict[type, str] = {str: "text", list: "a list", dict: "a mapping", type(None): "null"}
    return names[type(value)]


def shown(text: str) -> str:
    """A user's word inside a message."""
    return one_line(text, MAX_NAME)
