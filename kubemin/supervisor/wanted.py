"""What an operator wants: `runtimeDir/wanted.json`, written by `kubeminctl` before it signals.

Signals coalesce and carry nothing; so the wish (with a request id) is put into a file first, atomically, and the
scoreboard answers with the id and the outcome.
"""

from __future__ import annotations

import os

import msgspec

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
    path = path_in(runtime_dir)
    temporary = f"{path}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    with open(fd, "wb") as file:
        file.write(msgspec.json.encode(wanted))
    os.rename(temporary, path)


def read(runtime_dir: str) -> Wanted | None:
    """The wish, or None when there is none or it cannot be read."""
    try:
        fd = os.open(path_in(runtime_dir), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            return msgspec.json.decode(file.read(_LIMIT), type=Wanted)
    except (OSError, msgspec.MsgspecError):
        return None
