"""The few system calls a worker needs that Python has no function for. Nothing else is in here."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import struct
import threading
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_F_SETOWN_EX: Final = 15
_F_OWNER_TID: Final = 0
_IN_MODIFY: Final = 2
_FALLOC_FL_KEEP_SIZE: Final = 1
_FALLOC_FL_PUNCH_HOLE: Final = 2
_IOLBF: Final = 1

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def die_with_parent(parent: int) -> None:
    """SIGKILL when the parent goes. A parent that went before this call is noticed by the check. See prctl(2)."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def become_subreaper() -> None:
    """Orphaned descendants become our children, so that a double fork does not escape."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def watch_writes(*fds: int) -> int | None:
    """A descriptor that sends SIGIO to this thread when one of the files `fds` is written to; None: not possible here.

    The signal comes once; reading the descriptor arms it again. A memfd cannot be watched (Linux 6.14), a file can.
    """
    watch: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if watch < 0:
        return None  # fs.inotify.max_user_instances is used up
    if any(_libc.inotify_add_watch(watch, b"/proc/self/fd/%d" % fd, _IN_MODIFY) < 0 for fd in fds):
        os.close(watch)
        return None
    fcntl.fcntl(watch, _F_SETOWN_EX, struct.pack("ii", _F_OWNER_TID, threading.get_native_id()))
    fcntl.fcntl(watch, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
    return watch


def forget(fd: int, length: int) -> bool:
    """Give back the memory of the first `length` bytes of a file; its size stays. See fallocate(2)."""
    mode = _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE
    return bool(_libc.fallocate(fd, mode, ctypes.c_int64(0), ctypes.c_int64(length)) == 0)


def line_buffer_c_streams() -> None:
    """C code's stdout would keep 4 KiB to itself, as it is no terminal; line by line it reaches the right task."""
    for name in ("stdout", "stderr"):
        stream = ctypes.c_void_p.in_dll(_libc, name)
        _libc.setvbuf(stream, None, _IOLBF, ctypes.c_size_t(0))


def flush_c_streams() -> None:
    _libc.fflush(None)
