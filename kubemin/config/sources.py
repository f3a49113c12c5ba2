"""What the file, the environment and the flags say, each turned into checked values of the table.

Each source yields values and problems; which one wins is decided in `load.py`. Reads the file, and nothing else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from kubemin.config import values
from kubemin.config.table import KEYS, TABLE, Key, snake
from kubemin.errors import Invalid, Problem

_RUNTIME_DIR = re.compile(rb"""^[ \t]*["']?runtimeDir["']?[ \t]*:[ \t]+["']?([^"'#\r\n]+)""", re.MULTILINE)
_SALVAGED_BYTES = 1024 * 1024
_GROUPS = {key.name.split(".")[0] for key in TABLE if "." in key.name}
_VARIABLES = {variable: key for key in TABLE for variable in key.variables}
_NEARLY = 0.9  # of 1: how alike a variable has to be to a setting's to be taken for a slip


class Source(msgspec.Struct):
    """Values by key, problems, and the line of each key where there are lines."""

    values: dict[str, Any] = {}
    problems: list[Problem] = []
    lines: dict[str, int] = {}


# --- the file -----------------------------------------------------------------------------------------------------


def from_file(path: str) -> Source:
    """The file's settings. Raises Invalid when it cannot be read at all (unreadable, no YAML, half a file)."""
    from kubemin.files.document import load_document

    try:
        document = load_document(path)
    except Invalid as exc:
        return _only_comments(exc, path)
    source, data = Source(lines=document.lines), document.data
    if not isinstance(data, dict):
        text = "must be a mapping of settings, such as `maxWorkers: 10`"
        raise Invalid([Problem("", "wrong_type", text, source.lines.get(""))], source=path)
    base = os.path.dirname(os.path.abspath(path))
    for name, value in _flat(source, data):
        _take(source, KEYS[name], value, base)
    return source


def salvage(path: str) -> Source:
    """Of a file that cannot be read as a whole: where its daemon lives, so that somebody can look at that one."""
    source = Source()
    if not os.path.isfile(path):  # a FIFO would be waited for
        return source
    with suppress(OSError), open(path, "rb") as file:
        found = _RUNTIME_DIR.search(file.read(_SALVAGED_BYTES))
        if found is not None:
            text = found.group(1).decode("utf-8", "replace").strip()
            _take(source, KEYS["runtimeDir"], text, os.path.dirname(os.path.abspath(path)))
    return Source(source.values)


def _only_comments(error: Invalid, path: str) -> Source:
    """A file of comments stands for the defaults; one of no bytes at all is more likely half written."""
    if error.problems[0].code != "empty":
        raise error
    if os.path.getsize(path) == 0:
        text = "it is empty; a file that holds only comments stands for the defaults"
        raise Invalid([Problem("", "empty", text)], source=path)
    return Source()


def _flat(source: Source, data: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    """The known keys, nested ones with dots; unknown ones become problems."""
    for name, value in data.items():
        if name in KEYS:
            yield name, value
        elif name in _GROUPS:
            yield from _members(source, name, value)
        else:
            _unknown(source, str(name), [*(key for key in KEYS if "." not in key), *_GROUPS])


def _members(source: Source, group: str, value: Any) -> Iterator[tuple[str, Any]]:
    members = [key for key in KEYS if key.startswith(group + ".")]
    if not isinstance(value, dict):
        if value is not None:
            text = f"must be a mapping with {', '.join(member.split('.')[1] for member in members)}"
            source.problems.append(Problem(group, "wrong_type", text, source.lines.get(group)))
        return
    for name, inner in value.items():
        if f"{group}.{name}" in members:
            yield f"{group}.{name}", inner
        else:
            _unknown(source, f"{group}.{name}", members)


def _unknown(source: Source, name: str, known: list[str]) -> None:
    source.problems.append(Problem(name, "unknown_key", f"unknown setting{_hint(name, known)}", source.lines.get(name)))


def _hint(name: str, known: list[str]) -> str:
    """`max_worker`: maxWorkers; `log_level` and `ttl` at the top: log.level and lock.ttl."""
    import difflib

    plain = {_plain(candidate): candidate for candidate in [*KEYS, *known]}
    last = {_plain(key.rpartition(".")[2]): key for key in reversed(KEYS)}
    close = difflib.get_close_matches(_plain(name), plain, 1, 0.7)
    meant = last.get(_plain(name.rpartition(".")[2])) or (plain[close[0]] if close else None)
    return f"; did you mean {meant}?" if meant else "; see `kubemind --help` for all of them"


def _plain(name: str) -> str:
    return snake(name.lstrip("-")).replace(".", "_").replace("-", "_")


def _take(source: Source, key: Key, value: Any, base: str) -> None:
    if value is None:  # `user:` with nothing after it: the default
        return
    try:
        source.values[key.name] = values.from_file(key, value, base)
    except ValueError as exc:
        source.problems.append(Problem(key.name, _code(exc), str(exc), source.lines.get(key.name)))


# --- the environment and the flags ----------------------------------------------------------------------------------


def from_environment(environ: Mapping[str, str]) -> Source:
    """An empty variable is one that is not set, as units and container files write it."""
    source = Source()
    for key in TABLE:
        for variable in reversed(key.variables):
            if environ.get(variable):
                _take_text(source, key, environ[variable], f"environment variable {variable}")
    for variable in environ:
        if variable.startswith("KUBEMIN_") and variable not in _VARIABLES:
            _check_variable(source, variable)
    return source


def _check_variable(source: Source, variable: str) -> None:
    """A variable that is nearly a setting is a slip; others (`KUBEMIN_TOKEN`, `KUBEMIN_PORT`) have other meanings."""
    import difflib

    close = difflib.get_close_matches(
        variable, [name for name in _VARIABLES if name.startswith("KUBEMIN_")], 1, _NEARLY
    )
    if close:
        text = f"unknown environment variable; did you mean {close[0]}?"
        source.problems.append(Problem(variable, "unknown_key", text))


def from_flags(flags: Mapping[str, str]) -> Source:
    """`flags` by key (`lock.ttl`) or flag (`--lock-ttl`); an empty value is a value."""
    source = Source()
    names = {key.flag: key for key in TABLE}
    for name, text in flags.items():
        key = KEYS.get(name) or names.get(name)
        if key is None:
            _unknown(source, name, [*names])
        else:
            _take_text(source, key, text, key.flag)
    return source


def _take_text(source: Source, key: Key, text: str, where: str) -> None:
    try:
        source.values[key.name] = values.from_text(key, text, os.getcwd())
    except ValueError as exc:
        source.problems.append(Problem(key.name, _code(exc), f"{exc} (from {where})"))


def _code(exc: ValueError) -> str:
    return getattr(exc, "code", "invalid_value")
