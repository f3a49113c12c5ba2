"""A file a user wrote, as plain data, and the line of each value: the only module here that opens a file.

YAML (1.2 core) or JSON, UTF-8, one document. Whatever is wrong is one `Problem` with its line, raised as `Invalid`.
Nothing is read that is no regular file (a FIFO would block) or too large (looked at before reading).
"""

from __future__ import annotations

import errno
import os
import stat
from array import array
from functools import cached_property
from typing import Any

from kubemin.errors import Invalid, Problem
from kubemin.files.plain import MAX_BYTES, DocumentError, check_number, check_plain, one_line, shown_path, too_deep

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_KINDS = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}


class Document:
    """`data` is plain JSON data; `source` names the file in errors. Lines and spellings are known for YAML only."""

    def __init__(
        self,
        data: Any,
        source: str = "",
        lines: array[int] | None = None,
        spellings: dict[tuple[int, str | int], str] | None = None,
    ) -> None:
        self.data = data
        self.source = source
        self._flat = lines
        self._spellings = spellings or {}

    @cached_property
    def lines(self) -> dict[str, int]:
        """`steps[2].retry.limit` -> line. Made when first asked for: only a document with a problem needs it."""
        return line_map(self.data, self._flat) if self._flat else {}

    def line(self, field: str) -> int | None:
        """The line of a field, or of the nearest one around it that the document has."""
        while field not in self.lines:
            if not field:
                return 1 if self._flat is not None else None
            field = field[: max(field.rfind("."), field.rfind("["), 0)]
        return self.lines[field]

    def spelling(self, container: Any, key: str | int) -> str | None:
        """How a number was written, where its value does not tell (`1.10`, `010`): for places where it means text."""
        return self._spellings.get((id(container), key))


def child(field: str, key: str | int) -> str:
    """The path of a value inside the one at `field`."""
    if isinstance(key, int):
        return f"{field}[{key}]"
    return f"{field}.{key}" if field else key


def load_document(path: str | os.PathLike[str]) -> Document:
    """Read a file. Raises Invalid with one problem."""
    source = shown_path(path)
    try:
        return _parse(_decode(_read(os.fspath(path))), source)
    except DocumentError as exc:
        raise _invalid(exc, source) from None


def parse_document(text: str, source: str = "") -> Document:
    """Read a text; a `source` that ends in `.json` says that it is JSON. Raises Invalid with one problem."""
    try:
        if len(text) > MAX_BYTES:
            raise _too_large(len(text))
        return _parse(text.removeprefix("\ufeff"), source)
    except DocumentError as exc:
        raise _invalid(exc, source) from None


def line_map(data: Any, flat: array[int]) -> dict[str, int]:
    """Paths to lines. `flat` has, in document order, one line for each mapping entry and each list item."""
    from kubemin.files.yaml_events import ALIAS

    found: dict[str, int] = {}
    position = 0
    pending: list[tuple[str, Any]] = [("", data)]
    while pending:
        field, value = pending.pop()
        if field:
            line = flat[position]
            position += 1
            found[field] = line & ~ALIAS
            if line & ALIAS:
                continue
        if isinstance(value, dict):
            pending += reversed([(child(field, key), item) for key, item in value.items()])
        elif isinstance(value, list):
            pending += reversed([(child(field, index), item) for index, item in enumerate(value)])
    return found


def _read(path: str) -> bytes:
    try:
        descriptor = os.open(path, _READ)
    except OSError as exc:
        reason = "there is no such file" if exc.errno == errno.ENOENT else f"cannot be opened: {exc.strerror}"
        raise DocumentError("unreadable", reason) from None
    except ValueError:
        raise DocumentError("unreadable", "there is no such file") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "a device")
            raise DocumentError("unreadable", f"it is {kind}; give a regular file")
        if status.st_size > MAX_BYTES:
            raise _too_large(status.st_size)
        return _read_all(descriptor)
    except OSError as exc:
        raise DocumentError("unreadable", f"cannot be read: {exc.strerror}") from None
    finally:
        os.close(descriptor)


def _read_all(descriptor: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := os.read(descriptor, 1024 * 1024):
        parts.append(part)
        size += len(part)
        if size > MAX_BYTES:  # it grew since it was looked at
            raise _too_large(size)
    return b"".join(parts)


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise DocumentError("encoding", f"it is not UTF-8 (byte 0x{data[exc.start]:02x})", line) from None


def _parse(text: str, source: str) -> Document:
    if not text or text.isspace():
        raise DocumentError("empty", "it is empty")
    if source.endswith(".json"):
        return Document(_json(text), source)
    if text.lstrip()[:1] in "{[":
        try:
            return Document(_json(text), source)
        except DocumentError as exc:
            if exc.code != "syntax":  # else YAML's own flow style
                raise
    from kubemin.files.yaml_events import YamlReader

    reader = YamlReader(text)
    data = reader.read()
    return Document(data, source, reader.lines, reader.spellings)


def _json(text: str) -> Any:
    import json

    try:
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=lambda _: check_number(float("inf")))
    except json.JSONDecodeError as exc:
        message = f"not valid JSON at column {exc.colno}: {exc.msg[:1].lower()}{exc.msg[1:]}"
        raise DocumentError("syntax", message, exc.lineno) from None
    except RecursionError:
        raise too_deep() from None
    except ValueError:  # more digits than Python reads
        raise DocumentError("number", "a number does not fit 64 bits; put it in quotes if it is text") from None
    check_plain(data)
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise DocumentError("duplicate_key", f'the key "{twice}" is there twice; keep one')
    return mapping


def _too_large(size: int) -> DocumentError:
    return DocumentError("too_large", f"it has {size} bytes; {MAX_BYTES} are allowed")


def _invalid(exc: DocumentError, source: str) -> Invalid:
    return Invalid([Problem(field="", code=exc.code, message=one_line(str(exc)), line=exc.line)], source=source)
