"""What a Python step must not leave behind: threads, descriptors, directory, umask, environment, signal handlers.

A worker in which something of that is found finishes what it does and is replaced (engine rule 28). Children are not
looked for here: they are killed after each step. The check costs about 60 µs, so it is made when the queue has run
empty, after the first of several tasks of one kind, after a task of more than 10 ms, and otherwise every 50 ms.
"""

from __future__ import annotations

import os
import signal
from typing import Any, Final

from kubemin import kernel

_WATCHED: Final = [n for n in range(1, 32) if n not in (signal.SIGKILL, signal.SIGSTOP)]  # all but real-time signals
_Fingerprint = dict[str, Any]


class Hygiene:
    """Compares the process with what it was when this was made: after everything of the worker's own is open."""

    def __init__(self) -> None:
        self.own: set[int] = set()  # descriptors that the worker opened since, and may close
        self._umask = os.umask(0o022)
        os.umask(self._umask)
        self._before = self._look()

    def check(self) -> str | None:
        """What was left, in words, or None."""
        now = self._look()
        for fd in self.own:
            now["descriptors"].pop(fd, None)
        if now == self._before:
            return None
        return "; ".join(
            _difference(name, self._before[name], now[name]) for name in now if now[name] != self._before[name]
        )

    def _look(self) -> _Fingerprint:
        return {
            "threads": len(os.listdir("/proc/self/task")),
            "descriptors": _descriptors(),
            "directory": _directory(),
            "umask": self._current_umask(),
            "environment": os.environ.copy(),
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
            names = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
            return f"the environment has changed ({', '.join(names)[:200]})"
        case "signals":
            changed = [_signal_name(n) for n, was, is_ in zip(_WATCHED, before, now, strict=True) if was != is_]
            return f"signal handlers have changed ({', '.join(changed)[:200]})"
        case _:
            return "signals are blocked"


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
