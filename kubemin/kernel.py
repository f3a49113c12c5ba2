"""System calls that Python has no function for, or one that costs too much. Nothing else is in here.

Functions of the C library are looked up here, before any fork: a look-up in a child makes it write to a hundred pages
that it would share with its siblings. `handle` and `handler_of` are what `signal.signal` and `signal.getsignal` call,
without the enums around it: those are fifty pages for each worker.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import ctypes
import fcntl
import os
import signal
import struct
from contextlib import suppress
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_F_SETOWN_EX: Final = 15
_F_OWNER_TID: Final = 0
_IN_MODIFY: Final = 2
_FALLOC_FL_KEEP_SIZE: Final = 1
_FALLOC_FL_PUNCH_HOLE: Final = 2
_IOLBF: Final = 1
_MADV_DONTNEED: Final = 4
handle, handler_of = _signal.signal, _signal.getsignal
DEFAULT, IGNORE = int(signal.SIG_DFL), int(signal.SIG_IGN)

_MASK_BYTES: Final = 128  # sizeof(sigset_t)

_libc = ctypes.CDLL(None, use_errno=True)
_prctl, _sigprocmask, _default, _fallocate = _libc.prctl, _libc.sigprocmask, _libc.signal, _libc.fallocate
_inotify_init1, _inotify_add_watch = _libc.inotify_init1, _libc.inotify_add_watch
_setvbuf, _fflush, _madvise = _libc.setvbuf, _libc.fflush, _libc.madvise
_STREAMS = [ctypes.c_void_p.in_dll(_libc, name) for name in ("stdout", "stderr")]
_default.argtypes = (ctypes.c_int, ctypes.c_void_p)
_default.restype = ctypes.c_void_p

SignalMask = ctypes.Array[ctypes.c_char]
EVERY_SIGNAL: Final[SignalMask] = ctypes.create_string_buffer(b"\xff" * _MASK_BYTES, _MASK_BYTES)
NO_SIGNAL: Final[SignalMask] = ctypes.create_string_buffer(_MASK_BYTES)


def die_with_parent(parent: int, *, code: int = 1) -> None:
    """SIGKILL when the parent (its thread that forked us) goes. One that went before this call is noticed by the
    check, and this process exits with `code`. See prctl(2). Raises OSError."""
    _control(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(code)


def become_subreaper() -> None:
    """Orphaned descendants become our children, so that a double fork does not escape. Raises OSError."""
    _control(_PR_SET_CHILD_SUBREAPER, 1)


def _control(option: int, argument: int) -> None:
    if _prctl(option, argument, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def set_mask(mask: SignalMask) -> SignalMask:
    """Set the signal mask of this thread and return the old one. The signal module does the same in 0.2 ms, making
    sets of enums."""
    before = ctypes.create_string_buffer(_MASK_BYTES)
    _sigprocmask(signal.SIG_SETMASK, mask, before)
    return before


def default_signals() -> None:
    """SIG_DFL for all, behind the back of the signal module: for a child that is about to exec, or call a function."""
    for number in range(1, signal.NSIG):
        _default(number, None)  # refused for the few that nobody may change


def watch_writes(*fds: int) -> int | None:
    """A descriptor that sends SIGIO to this thread when one of the files `fds` is written to; None: not possible here.

    The signal comes once; reading the descriptor arms it again. A memfd cannot be watched (Linux 6.14), a file can.
    """
    watch: int = _inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if watch < 0:
        return None  # fs.inotify.max_user_instances is used up
    if any(_inotify_add_watch(watch, b"/proc/self/fd/%d" % fd, _IN_MODIFY) < 0 for fd in fds):
        os.close(watch)
        return None
    # The main thread's number is the process'.
    fcntl.fcntl(watch, _F_SETOWN_EX, struct.pack("ii", _F_OWNER_TID, os.getpid()))
    fcntl.fcntl(watch, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
    return watch


def forget(fd: int, length: int) -> bool:
    """Give back the memory of the first `length` bytes of a file; its size stays. See fallocate(2)."""
    mode = _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE
    return bool(_fallocate(fd, mode, ctypes.c_int64(0), ctypes.c_int64(length)) == 0)


def line_buffer_c_streams() -> None:
    """C code's stdout would keep 4 KiB to itself, as it is no terminal; line by line it reaches the right task."""
    for stream in _STREAMS:
        _setvbuf(stream, None, _IOLBF, ctypes.c_size_t(0))


def flush_c_streams() -> None:
    _fflush(None)


def forget_code() -> None:
    """Give back the memory of machine code: what only the start of a process ran is not needed again, and the rest
    comes back from the page cache as it runs. Program text alone, which nobody writes to: see madvise(2)."""
    with suppress(OSError), open("/proc/self/maps", "rb") as maps:
        for line in maps:
            fields = line.split()
            if fields[1] == b"r-xp" and len(fields) > 5 and fields[5].startswith(b"/"):
                start, end = (int(each, 16) for each in fields[0].split(b"-"))
                _madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)
