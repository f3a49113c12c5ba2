"""What an operator wants: `runtimeDir/wanted.json`, written by `kubeminctl` before it signals.

Signals coalesce and carry nothing; so the wish (with a request id) is put into a file first, atomically, and the
scoreboard answers with the id and the outcome.
"""

from __future__ import annotations

import os

import msgspec

from kubemin.config.reload import write_file

NAME = "wanted.json"
_LIMIT = 64 * 1024  # bytes: more is not ours


class Wanted(msgspec.Struct, frozen=True):
    """`workers`, `drained`: None leaves it as it is."""

    request: str = ""
    workers: int | None = None
    drained: bool | None = None


def path_in(runtime_dir: str) -> str:
    return os.path.join(runtime_dir, NAME)


def write(runtime_dir: str, wanted: Wanted) -> None:
    """Raises OSError."""
    write_file(path_in(runtime_dir), msgspec.json.encode(wanted))


def read(runtime_dir: str) -> Wanted | None:
    """The wish, or None when there is none or it cannot be read."""
    try:
        fd = os.open(path_in(runtime_dir), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            return msgspec.json.decode(file.read(_LIMIT), type=Wanted)
    except (OSError, msgspec.MsgspecError):
        return None
