"""YAML text to plain data, by the events of libyaml: the 1.2 core schema, and no more of YAML than these files need.

PyYAML's own constructors read YAML 1.1 (`on`, dates, octal), keep the last of two equal keys, recurse, and repeat what
aliases name without bound. This reads the events itself: flat, bounded, in one pass. It touches no file.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable
from typing import Any

import yaml

from kubemin.files.plain import MAX_DEPTH, MAX_NODES, TEXT_WEIGHT, DocumentError, check_number, too_deep, too_many

ALIAS = 1 << 31  # a bit of an entry of `lines`: what the alias stands for has no entries of its own

_NO_KEY: Any = object()
_CONSTANTS: dict[str, bool | None] = dict.fromkeys(("", "~", "null", "Null", "NULL"))
_CONSTANTS |= dict.fromkeys(("true", "True", "TRUE"), True) | dict.fromkeys(("false", "False", "FALSE"), False)
_SPECIAL_START = frozenset("0123456789+-.~nNtTfF")  # a plain scalar that starts otherwise is text
_INTEGER = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_MAX_DIGITS = 40  # more do not fit 64 bits, and take Python long to read
_TAG = "tag:yaml.org,2002:"
_TYPES: dict[str, type | tuple[type, ...]] = {
    _TAG + "int": int,
    _TAG + "float": (int, float),
    _TAG + "bool": bool,
    _TAG + "null": type(None),
}


class _Open:
    """A list or mapping whose end is not yet read. `height`: the levels below it, seen so far."""

    __slots__ = ("anchor", "before", "height", "is_mapping", "key", "value")

    def __init__(self, value: Any, anchor: str | None, before: int) -> None:
        self.value = value
        self.is_mapping = isinstance(value, dict)
        self.key = _NO_KEY
        self.anchor = anchor
        self.before = before
        self.height = 1


class YamlReader:
    """Reads one text, once.

    `lines` has a line for each entry of a mapping and each item of a list, in document order (see `document.line_map`).
    `spellings` tells how a number was written where the number alone does not (`1.10`), by id of its container and key.
    """

    def __init__(self, text: str) -> None:
        self.lines = array("I")
        self.spellings: dict[tuple[int, str | int], str] = {}
        self._text = text
        self._anchors: dict[str, tuple[Any, int, int]] = {}  # name -> value, values in it, its height
        self._nodes = 0
        self._stack: list[_Open] = []
        self._line = 1

    def read(self) -> Any:
        """The one document. Raises DocumentError."""
        try:
            return self._document(yaml.CSafeLoader(self._text).get_event)
        except yaml.MarkedYAMLError as exc:
            raise _syntax_error(exc) from None
        except yaml.reader.ReaderError as exc:
            raise self._character_error(exc) from None
        except DocumentError as exc:
            exc.line = exc.line or self._line
            raise

    def _document(self, next_event: Callable[[], Any]) -> Any:
        next_event()  # the stream's start
        if isinstance(next_event(), yaml.StreamEndEvent):
            raise DocumentError("empty", "it is empty")
        value = self._tree(next_event)
        next_event()  # the document's end
        following = next_event()
        if not isinstance(following, yaml.StreamEndEvent):
            line = following.start_mark.line + 1
            raise DocumentError("documents", "it holds more than one YAML document; keep one in a file", line)
        return value

    def _tree(self, next_event: Callable[[], Any]) -> Any:
        lines, stack = self.lines, self._stack
        top: _Open | None = None
        while True:
            event = next_event()
            kind = type(event)
            if kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                assert top is not None
                value, height = self._close(top)
                stack.pop()
                top = stack[-1] if stack else None
            else:
                self._line = line = event.start_mark.line + 1
                if top is not None and (not top.is_mapping or top.key is _NO_KEY):
                    lines.append(line)
                if kind is yaml.ScalarEvent:
                    if top is not None and top.is_mapping and top.key is _NO_KEY:
                        top.key = self._key(event, top)
                        continue
                    value, height = self._scalar(event, top), 0
                elif kind is yaml.AliasEvent:
                    value, height = self._alias(event, top)
                else:
                    top = self._open(event, top, {} if kind is yaml.MappingStartEvent else [])
                    continue
            if top is None:
                return value
            _put(top, value, height)

    def _open(self, event: Any, top: _Open | None, value: Any) -> _Open:
        self._refuse_key(top)
        if event.tag not in (None, "!", _TAG + "map", _TAG + "seq"):
            raise _tag_error(event.tag)
        if len(self._stack) >= MAX_DEPTH:
            raise too_deep()
        self._stack.append(_Open(value, event.anchor, self._nodes))
        self._count(1)
        return self._stack[-1]

    def _close(self, opened: _Open) -> tuple[Any, int]:
        if opened.anchor is not None:
            self._anchors[opened.anchor] = (opened.value, self._nodes - opened.before, opened.height)
        return opened.value, opened.height

    def _key(self, event: Any, top: _Open) -> str:
        """Keys are text, as written: `8080: x` has the key "8080"."""
        key: str = event.value
        if key in top.value:
            raise DocumentError("duplicate_key", f'the key "{key}" is there twice; keep one')
        if event.tag not in (None, "!", _TAG + "str"):
            raise _tag_error(event.tag)
        if event.anchor is not None:
            self._anchors[event.anchor] = (key, 1, 0)
        return key

    def _scalar(self, event: Any, top: _Open | None) -> Any:
        text = event.value
        self._count(1 + len(text) // TEXT_WEIGHT)
        if event.tag is not None:
            value = _tagged(text, event.tag)
        elif event.implicit[0] and (not text or text[0] in _SPECIAL_START):
            value = _plain(text)
        else:
            value = text
        if value is not text and top is not None and type(value) in (int, float) and str(value) != text:
            self.spellings[id(top.value), top.key if top.is_mapping else len(top.value)] = text
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, 1, 0)
        return value

    def _alias(self, event: Any, top: _Open | None) -> tuple[Any, int]:
        self._refuse_key(top)
        if event.anchor not in self._anchors:
            raise DocumentError("alias", f"the alias *{event.anchor} names nothing that ends above it")
        value, nodes, height = self._anchors[event.anchor]
        if len(self._stack) + height > MAX_DEPTH:
            raise too_deep()
        self._count(nodes)
        if self.lines:
            self.lines[-1] |= ALIAS
        return value, height

    def _refuse_key(self, top: _Open | None) -> None:
        if top is not None and top.is_mapping and top.key is _NO_KEY:
            raise DocumentError("key", "a key has to be plain text")

    def _count(self, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise too_many()

    def _character_error(self, exc: yaml.reader.ReaderError) -> DocumentError:
        code = exc.character if isinstance(exc.character, int) else ord(exc.character[:1] or "\0")
        line = self._text.count("\n", 0, max(self._text.find(chr(code)), 0)) + 1
        return DocumentError("syntax", f"there is a control character (U+{code:04X}) in it; remove it", line)


def _put(top: _Open, value: Any, height: int) -> None:
    if top.is_mapping:
        top.value[top.key] = value
        top.key = _NO_KEY
    else:
        top.value.append(value)
    if height >= top.height:
        top.height = height + 1


def _plain(text: str) -> Any:
    """A scalar without quotes and tag, by the core schema (YAML 1.2.2, section 10.3.2)."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return check_number(int(text) if len(text) <= _MAX_DIGITS else 2**64)
    if _FLOAT.fullmatch(text):
        return check_number(float(text))
    if _BASED.fullmatch(text):
        return check_number(int(text, 0))
    if _NOT_FINITE.fullmatch(text):
        return check_number(float("inf"))
    return text


def _tagged(text: str, tag: str) -> Any:
    if tag in ("!", _TAG + "str"):
        return text
    if tag not in _TYPES:
        raise _tag_error(tag)
    value = _plain(text)
    if not isinstance(value, _TYPES[tag]) or (isinstance(value, bool) and tag != _TAG + "bool"):
        raise DocumentError("tag", f'"{text}" is not a value of !!{tag.removeprefix(_TAG)}')
    return value


def _tag_error(tag: str) -> DocumentError:
    return DocumentError("tag", f"the tag {tag.replace(_TAG, '!!')} is not known here; remove it")


def _syntax_error(exc: yaml.MarkedYAMLError) -> DocumentError:
    mark = exc.problem_mark or exc.context_mark
    if "nesting depth" in (exc.problem or ""):  # libyaml's own limit, met while it looks ahead
        return too_deep(mark.line + 1 if mark else None)
    context = (
        f" ({exc.context}" + (f" of line {exc.context_mark.line + 1})" if exc.context_mark else ")")
        if exc.context
        else ""
    )
    where = f" at column {mark.column + 1}" if mark else ""
    return DocumentError("syntax", f"not valid YAML{where}: {exc.problem}{context}", mark.line + 1 if mark else None)
