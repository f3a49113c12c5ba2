"""What the checker (the child that reads configuration and workflow files) leaves in the runtime directory.

`settings.json` is a `ReloadResult`, `definitions.json` a list of compiled workflows. Both are replaced atomically, so
that a reader sees the old or the new one whole.
"""

from __future__ import annotations

import contextlib
import os
from typing import TypeVar

import msgspec

from kubemin.config.settings import Settings
from kubemin.config.table import Change
from kubemin.errors import Invalid, Problem, Unreachable
from kubemin.model.records import Definition

_T = TypeVar("_T")

_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
RESULT_FILE = "settings.json"
DEFINITIONS_FILE = "definitions.json"


class Origin(msgspec.Struct, frozen=True):
    """Where the daemon's settings come from, so that a later check (`reload --dry-run`) reads the same."""

    config: str | None = None
    flags: dict[str, str] = {}
    environ: dict[str, str] = {}  # only what settings come from


class ReloadResult(msgspec.Struct, frozen=True):
    """`ok` False: `settings` are the old ones and `problems` say why; each problem's message names its file.

    `definitions` is the path of the compiled workflows, or None when there are none to take over. `complete` False
    (only at a start): some files were wrong, so what was published before and is not in the list has to be kept.
    """

    ok: bool
    settings: Settings | None
    problems: tuple[Problem, ...] = ()
    changes: tuple[Change, ...] = ()
    definitions: str | None = None
    complete: bool = True
    origin: Origin = Origin()


def write_file(path: str, data: bytes) -> None:
    """Replace `path` by `data` in one act; readable for the group. Raises OSError."""
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(os.open(temporary, _WRITE, 0o640), "wb") as file:
            file.write(data)
        os.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def write_result(runtime_dir: str, result: ReloadResult) -> None:
    """Raises Unreachable."""
    path = os.path.join(runtime_dir, RESULT_FILE)
    try:
        write_file(path, msgspec.json.encode(result))
    except OSError as exc:
        raise Unreachable(f"cannot write {path}: {exc.strerror}") from exc


def write_definitions(runtime_dir: str, definitions: list[Definition]) -> str:
    """The path. Raises Unreachable."""
    path = os.path.join(runtime_dir, DEFINITIONS_FILE)
    try:
        write_file(path, msgspec.json.encode(definitions))
    except OSError as exc:
        raise Unreachable(f"cannot write {path}: {exc.strerror}") from exc
    return path


def read_result(runtime_dir: str) -> ReloadResult:
    """The last check's outcome. Raises Unreachable (not there, not readable) or Invalid (not what we wrote)."""
    return _read(os.path.join(runtime_dir, RESULT_FILE), ReloadResult)


def read_definitions(path: str) -> list[Definition]:
    """Raises Unreachable or Invalid."""
    return _read(path, list[Definition])


def _read(path: str, kind: type[_T]) -> _T:
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=kind)
    except OSError as exc:
        raise Unreachable(f"cannot read {path}: {exc.strerror}; is the daemon running?") from exc
    except msgspec.MsgspecError as exc:
        raise Invalid(f"{path} is not what kubemin wrote: {exc}") from exc
