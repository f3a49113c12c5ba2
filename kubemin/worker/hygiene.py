"""What a Python step must not leave behind: threads, descriptors, directory, umask, environment, signal handlers.

A worker in which something of that is found finishes what it does and is replaced (engine rule 28). Children are not
looked for here: they are killed after each step. The check costs about 40 µs, so it is made when the queue has run
empty, after the first task of each kind, after a task of more than 10 ms, and otherwise every 50 ms; between tasks of
different kinds there is a glance at what costs little.

A function that keeps a file or a socket in a variable of its module opens it in every life of a worker, and a new
worker for each of its tasks would do hardly anything else: what stands there is the module's (kept.py). What is kept
elsewhere (in an object's depth, in C) looks like a leak. There only the first such worker is replaced at once: those
after it in its slot have a growing `patience` (supervisor/slots.py) with a few open descriptors, and with nothing else.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from kubemin import kernel

_WATCHED: Final = [n for n in range(1, 32) if n not in (signal.SIGKILL, signal.SIGSTOP)]  # all but real-time signals
_Fingerprint = dict[str, Any]
MOST_KEPT: Final = 16  # descriptors that modules may keep, counted each time that one is opened
MOST_OPEN: Final = 64  # descriptors that patience is had with: more are a leak


class Left(NamedTuple):
    """What a step left, in words; `only_open` when it is a few open descriptors, which nobody trips over."""

    what: str
    only_open: bool


class Hygiene:
    """Compares the process with what it was when this was made: after everything of the worker's own is open."""

    def __init__(self, held: Callable[[Iterable[int]], set[int]]) -> None:
        """`held`: which of some descriptors a module keeps."""
        self.own: set[int] = set()  # descriptors that the worker opened since, and may close
        self._held = held
        self._kept: dict[int, tuple[int, int]] = {}  # a module's, as they were found
        self._times_kept = 0
        self._umask = os.umask(0o022)
        os.umask(self._umask)
        self._before = self._look()

    def check(self) -> Left | None:
        """What was left, if anything."""
        now = self._look()
        for fd in self.own:
            now["descriptors"].pop(fd, None)
        self._leave_out_kept(now["descriptors"])
        return self._differences(now)

    def _leave_out_kept(self, found: dict[int, tuple[int, int]]) -> None:
        """What a module closed, or opened anew, is looked at again: so one that does that on and on is told."""
        self._kept = {fd: file for fd, file in self._kept.items() if found.get(fd) == file}
        opened = found.keys() - self._before["descriptors"].keys() - self._kept.keys()
        if opened and self._times_kept < MOST_KEPT:
            for fd in self._held(opened):
                self._kept[fd] = found[fd]
                self._times_kept += 1
        for fd in self._kept:
            del found[fd]

    def glance(self) -> Left | None:
        """The same without descriptors and threads, for a tenth of the cost."""
        return self._differences(self._glance())

    def _differences(self, now: _Fingerprint) -> Left | None:
        changed = [name for name, value in now.items() if value != self._before[name]]
        if not changed:
            return None
        what = "; ".join(_difference(name, self._before[name], now[name]) for name in changed)
        only_open = changed == ["descriptors"] and _are_a_few_more(self._before["descriptors"], now["descriptors"])
        return Left(what, only_open)

    def _look(self) -> _Fingerprint:
        return {
            "threads": os.stat("/proc/self/task").st_nlink,  # and two more
            "descriptors": _descriptors(),
            **self._glance(),
        }

    def _glance(self) -> _Fingerprint:
        return {
            "directory": _directory(),
            "umask": self._current_umask(),
            "environment": _environment(),
            "signals": [kernel.handler_of(number) for number in _WATCHED],
            "mask": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        }

    def _current_umask(self) -> int:
        now = os.umask(self._umask)
        if now != self._umask:
            os.umask(now)
        return now


def _descriptors() -> dict[int, tuple[int, int]]:
    """Number -> which file: a descriptor that was closed and opened as something else is found as well."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            status = os.fstat(int(name))
        except OSError:
            continue  # the listing's own
        found[int(name)] = (status.st_dev, status.st_ino)
    return found


def _environment() -> dict[bytes, bytes]:
    """As it is kept: decoding it takes longer than the rest of a glance. A step may have put another in its place."""
    return dict(getattr(os.environ, "_data", os.environ))


def _directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "(removed)"


def _difference(name: str, before: Any, now: Any) -> str:
    match name:
        case "threads":
            return f"{now - before} more threads" if now > before else f"{before - now} fewer threads"
        case "descriptors":
            return _descriptor_difference(before, now)
        case "directory":
            return f"the working directory is {now}"
        case "umask":
            return f"the umask is {now:03o}"
        case "environment":
            names = sorted(os.fsdecode(key) for key in before.keys() | now.keys() if before.get(key) != now.get(key))
            return f"the environment has changed ({', '.join(names)[:200]})"
        case "signals":
            changed = [_signal_name(n) for n, was, is_ in zip(_WATCHED, before, now, strict=True) if was != is_]
            return f"signal handlers have changed ({', '.join(changed)[:200]})"
        case _:
            return "signals are blocked"


def _are_a_few_more(before: dict[int, tuple[int, int]], now: dict[int, tuple[int, int]]) -> bool:
    return before.items() <= now.items() and len(now) - len(before) <= MOST_OPEN


def _descriptor_difference(before: dict[int, tuple[int, int]], now: dict[int, tuple[int, int]]) -> str:
    opened = sorted(now.keys() - before.keys())
    if opened:
        return f"{len(opened)} open descriptors ({', '.join(map(_target, opened[:3]))})"
    return "descriptors of the worker were closed or replaced"


def _target(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return f"descriptor {fd}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
