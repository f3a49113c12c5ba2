"""References `${{ … }}`: how a step reads parameters, outputs of earlier steps, its item and its run.

There is no expression language: a reference is a path, looked up. Each text is rendered once, and what was pasted in is
never looked at again, so that an output that looks like a reference stays what it is. `$${{` is a literal `${{`.

The compiler checks references, and rewrites `steps.NAME` to full step paths, so that rendering needs no scope.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from kubemin.errors import KubeminError

_OPEN = "${{"
_MAX_CACHED = 4096  # characters: longer texts are rare, and would make the cache large
_SEGMENT = r"[^\s.{}]+"
_PATH = rf"(?P<path>(?:\.{_SEGMENT})*)"
_STEP = r"[a-z0-9-]+(?:/[a-z0-9-]+)*"
_FORMS = {
    "params": re.compile(rf"params\.(?P<name>[A-Za-z_][A-Za-z0-9_-]*){_PATH}"),
    "steps": re.compile(rf"steps\.(?P<name>{_STEP})\.output{_PATH}"),
    "item": re.compile(rf"item(?P<name>){_PATH}"),
    "run": re.compile(r"run\.(?P<name>id|name|scheduledAt|attempt)(?P<path>)"),
}
_USAGE = "params.NAME, steps.NAME.output, item, run.id, run.name, run.scheduledAt or run.attempt"


class ReferenceMissing(KubeminError):
    """A reference has no value now: its step made no output, or the output has no such key."""

    code = "reference"

    def __init__(self, reference: Reference, reason: str) -> None:
        super().__init__(f"{reference} has no value: {reason}")
        self.reference = reference


class Reference(msgspec.Struct, frozen=True):
    """`root` is params, steps, item or run; `name` the parameter, the step's path or the run's field."""

    root: str
    name: str
    path: tuple[str, ...] = ()

    def __str__(self) -> str:
        words = [self.root, self.name] if self.name else [self.root]
        if self.root == "steps":
            words.append("output")
        return f"${{{{ {'.'.join((*words, *self.path))} }}}}"


def find(text: str) -> list[Reference]:
    """The references in a text, in order. Raises ValueError, saying what is wrong, where one cannot be read."""
    return [part for part in _parts(text) if isinstance(part, Reference)]


def whole(text: str) -> Reference | None:
    """The reference when it is all of the text, which then takes its JSON type. Raises ValueError like `find`."""
    parts = _parts(text)
    return parts[0] if len(parts) == 1 and isinstance(parts[0], Reference) else None


def has_reference(value: Any) -> bool:
    """Whether a JSON value has to be rendered: some string in it holds a reference, or an escape of one."""
    if isinstance(value, str):
        return _OPEN in value
    if isinstance(value, Mapping):
        return any(map(has_reference, value.values()))
    return isinstance(value, list | tuple) and any(map(has_reference, value))


def references_in(value: Any) -> Iterator[Reference]:
    """All that a JSON value's strings refer to. Raises ValueError like `find`."""
    if isinstance(value, str):
        yield from find(value) if _OPEN in value else ()
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from references_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from references_in(item)


def rewrite(text: str, change: Callable[[Reference], Reference]) -> str:
    """The text with each reference replaced by another one, all else (escapes too) as it is. Raises ValueError."""
    return "".join(
        str(change(part)) if isinstance(part, Reference) else part.replace(_OPEN, "$" + _OPEN) for part in _parts(text)
    )


def render(value: Any, inputs: Mapping[str, Any]) -> Any:
    """A JSON value with its references filled in from `inputs` (as in `records.Claim`). Keys are left as they are.

    Raises ReferenceMissing, and ValueError for a reference that cannot be read (the compiler lets none through).
    """
    if isinstance(value, str):
        return _render_text(value, inputs) if _OPEN in value else value
    if isinstance(value, Mapping):
        return {key: render(item, inputs) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [render(item, inputs) for item in value]
    return value


def render_work(work: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A node's `work`, rendered; what the kernel takes as text (argv, env, workdir) becomes text."""
    done: dict[str, Any] = render(work, inputs)
    if "run" in done:
        done["run"] = [as_text(word) for word in done["run"]]
    if "workdir" in done:
        done["workdir"] = as_text(done["workdir"])
    if "env" in done:
        # A mapping is a secret's name only where the work says so: a value that was filled in never is.
        given = work["env"]
        done["env"] = {
            key: item if isinstance(given[key], Mapping) else as_text(item) for key, item in done["env"].items()
        }
    return done


def as_text(value: Any) -> str:
    """Strings as they are, other values as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _render_text(text: str, inputs: Mapping[str, Any]) -> Any:
    parts = _parts(text)
    if len(parts) == 1 and isinstance(parts[0], Reference):
        return _value(parts[0], inputs)
    return "".join(as_text(_value(part, inputs)) if isinstance(part, Reference) else part for part in parts)


def _value(reference: Reference, inputs: Mapping[str, Any]) -> Any:
    value = inputs.get(reference.root)
    if reference.root not in inputs:
        raise ReferenceMissing(reference, f'there is no "{reference.root}" here')
    if reference.name:
        if not isinstance(value, Mapping) or reference.name not in value:
            raise ReferenceMissing(reference, _absent(reference))
        value = value[reference.name]
    for depth, segment in enumerate(reference.path):
        try:
            value = _member(value, segment)
        except LookupError:
            above = ".".join(("the value", *reference.path[:depth]))
            raise ReferenceMissing(reference, f'{above} has no "{segment}"') from None
    return value


def _absent(reference: Reference) -> str:
    if reference.root == "steps":
        return f"step {reference.name} made no output"
    return f'"{reference.name}" is not set'


def _member(value: Any, segment: str) -> Any:
    if isinstance(value, Mapping):
        return value[segment]
    if isinstance(value, list) and segment.isascii() and segment.isdigit() and len(segment) < 10:
        return value[int(segment)]
    raise LookupError(segment)


def _parts(text: str) -> tuple[str | Reference, ...]:
    return _cached(text) if len(text) <= _MAX_CACHED else tuple(_split(text))


def _split(text: str) -> list[str | Reference]:
    """Literal texts (escapes undone) and references, in order; no two literals in a row."""
    parts: list[str | Reference] = []
    literal: list[str] = []
    at = 0
    while (start := text.find(_OPEN, at)) >= 0:
        if start > at and text[start - 1] == "$":
            literal += (text[at : start - 1], _OPEN)
            at = start + len(_OPEN)
            continue
        end = text.find("}}", start)
        if end < 0:
            raise ValueError(f'"{_shown(text[start:])}" has no closing }}}}; write $${{{{ for a literal ${{{{')
        if before := "".join((*literal, text[at:start])):
            parts.append(before)
        literal = []
        parts.append(_parse(text[start + len(_OPEN) : end]))
        at = end + 2
    if rest := "".join((*literal, text[at:])):
        parts.append(rest)
    return parts


_cached = lru_cache(maxsize=512)(lambda text: tuple(_split(text)))


def _parse(inner: str) -> Reference:
    word = inner.strip()
    root = word.partition(".")[0]
    match = _FORMS[root].fullmatch(word) if root in _FORMS else None
    if match is None:
        raise ValueError(f'"${{{{ {_shown(word)} }}}}" is not a reference; use {_USAGE}')
    path = match["path"]
    return Reference(root, match["name"], tuple(path[1:].split(".")) if path else ())


def _shown(text: str) -> str:
    return text if len(text) <= 64 else text[:64] + "…"
