"""The folder of one attempt, gone when the attempt has ended: `$KUBEMIN_OUTPUT` and `$KUBEMIN_TMP` are in it.

Who is killed under its step leaves one behind: the next worker in its slot takes it away, or, where there is none, the
supervisor, before its first worker and after its last one.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from types import TracebackType
from typing import Final

from kubemin.config import Settings
from kubemin.steps.base import start_failed
from kubemin.steps.identity import identity_of

_FOLDER: Final = "tmp"


class Place:
    """Where scratch folders are made: below stateDir, or, when steps have a user of their own who may not enter
    stateDir, in the system's place."""

    def __init__(self, settings: Settings, slot: int, marker: str) -> None:
        self._user = settings.user
        self._parent = _parent(settings)
        self._prefix = f"kubemin-{marker}-{slot}-"

    def clear(self) -> None:
        """Take away what a killed predecessor in this slot left."""
        with suppress(OSError):
            for name in os.listdir(self._parent):
                if name.startswith(self._prefix):
                    _remove(os.path.join(self._parent, name))

    def make(self) -> Scratch:
        """Raises StartFailed when it cannot be made (disk full, read-only)."""
        try:
            os.makedirs(self._parent, mode=0o700, exist_ok=True)
            scratch = Scratch(self._new_folder())
        except OSError as error:
            raise start_failed(f"cannot make a folder for the step in {self._parent}", error) from error
        try:
            scratch.hand_over(self._user)
        except BaseException:
            scratch.remove()
            raise
        return scratch

    def _new_folder(self) -> str:
        """Nobody else's: in the system's place others may have made what a guess told them."""
        while True:
            path = os.path.join(self._parent, self._prefix + os.urandom(8).hex())
            with suppress(FileExistsError):
                os.mkdir(path, 0o700)
                return path


def clear_slots(settings: Settings, marker: str, first: int = 0) -> None:
    """What killed workers left in the slots from `first` on. For whoever knows that none of them lives."""
    parent, prefix = _parent(settings), f"kubemin-{marker}-"
    with suppress(OSError):
        for name in os.listdir(parent):
            slot, _, _ = name.removeprefix(prefix).partition("-")
            if name.startswith(prefix) and slot.isdecimal() and int(slot) >= first:
                _remove(os.path.join(parent, name))


def _parent(settings: Settings) -> str:
    return _system_folder() if settings.user else os.path.join(settings.state_dir, _FOLDER)


def _system_folder() -> str:
    import tempfile  # imports `random`, which costs every fork

    return tempfile.gettempdir()


class Scratch:
    def __init__(self, path: str) -> None:
        self.path = path
        self.output = os.path.join(path, "output")
        self.tmp = os.path.join(path, "tmp")

    def hand_over(self, user: str | None) -> None:
        os.mkdir(self.tmp, 0o700)
        identity = identity_of(user)
        if identity is not None:
            for path in (self.tmp, self.path):
                os.chown(path, identity.uid, identity.gid)

    def remove(self) -> None:
        _remove(self.path)

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.remove()


def _remove(path: str) -> None:
    shutil.rmtree(path, ignore_errors=True)
    if os.path.lexists(path):
        _open_up(path)
        shutil.rmtree(path, ignore_errors=True)


def _open_up(path: str) -> None:
    """A step may have taken write permission from its folders. Nothing else is touched: a link leads out of here, a
    hard link is the same file elsewhere, and another process of the step's user may exchange one for the other."""
    _allow_all(path)
    for _, names, _, above in os.fwalk(path):
        for name in names:
            _allow_all(name, above)


def _allow_all(folder: str, above: int | None = None) -> None:
    with suppress(OSError):
        fd = os.open(folder, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=above)
        try:
            os.chmod(f"/proc/self/fd/{fd}", 0o700)
        finally:
            os.close(fd)
