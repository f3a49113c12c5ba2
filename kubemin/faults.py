"""Named points at which a test can make a process die or stop, exactly there.

`KUBEMIN_FAULT="coordinator.committed=kill"` arms a point; several are separated by commas. Actions: `kill` (SIGKILL of
this process), `exit` (os._exit(70)), `stop` (SIGSTOP), `fail` (raise OSError ENOSPC), `hang` (go on never), `spin` (the
same in a loop of C that holds the GIL). `=kill@3` acts the third time a process passes. With `KUBEMIN_FAULT_ONCE=FILE`
a point acts once in all processes together: who makes `FILE.POINT` acts. Not armed, a point costs one comparison. May
touch: the environment, that file, this process.
"""

from __future__ import annotations

import errno
import os
import signal
from collections import deque
from itertools import repeat

_armed: dict[str, tuple[str, int]] = {}
_passed: dict[str, int] = {}


def _parse(text: str) -> dict[str, tuple[str, int]]:
    armed = {}
    for entry in filter(None, text.split(",")):
        name, _, action = entry.partition("=")
        action, _, count = action.partition("@")
        armed[name.strip()] = (action or "kill", int(count or 1))
    return armed


_armed = _parse(os.environ.get("KUBEMIN_FAULT", ""))


def armed() -> bool:
    return bool(_armed)


def point(name: str) -> None:
    """A place where a test may strike."""
    if _armed and name in _armed:
        _strike(name)


def _strike(name: str) -> None:
    action, wanted = _armed[name]
    _passed[name] = _passed.get(name, 0) + 1
    if _passed[name] != wanted or not _first(name):
        return
    if action == "exit":
        os._exit(70)
    elif action == "fail":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    elif action == "hang":
        while True:
            signal.pause()
    elif action == "spin":
        deque(repeat(None), maxlen=0)
    else:
        os.kill(os.getpid(), signal.SIGSTOP if action == "stop" else signal.SIGKILL)


def _first(name: str) -> bool:
    once = os.environ.get("KUBEMIN_FAULT_ONCE")
    if not once:
        return True
    try:
        os.close(os.open(f"{once}.{name}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return False
    return True
