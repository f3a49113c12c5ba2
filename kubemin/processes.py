"""Processes as /proc shows them, and signals that cannot hit a stranger (engine rule 15).

A pid alone names nobody: it may be used again between looking and signalling. A pid with its start time (field 22 of
/proc/PID/stat, clock ticks since boot) does: `open_process` opens a pidfd first and compares the start time afterwards.
May read /proc and signal; reaps nothing.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from kubemin import clock

_PROC = "/proc"
_TICKS = os.sysconf("SC_CLK_TCK")


class Process(NamedTuple):
    pid: int
    parent: int
    start: int  # clock ticks since boot
    state: str  # one letter, as in /proc/PID/stat: R, S, D, T, Z, …
    cpu: float = 0.0  # seconds of processor time that it has used, all its threads

    @property
    def dead(self) -> bool:
        return self.state in "ZX"


def look(pid: int) -> Process | None:
    """The process, or None when it is gone."""
    try:
        with open(f"{_PROC}/{pid}/stat", "rb", buffering=0) as file:
            fields = file.read(4096).rpartition(b")")[2].split()  # the name may hold spaces and brackets
    except OSError:
        return None
    if len(fields) <= 19:
        return None
    return Process(
        pid, int(fields[1]), int(fields[19]), fields[0].decode(), (int(fields[11]) + int(fields[12])) / _TICKS
    )


def is_halted(pid: int) -> bool:
    """Any process, by a signal or a debugger."""
    process = look(pid)
    return process is not None and process.state in "Tt"


def everyone() -> Iterator[Process]:
    for name in os.listdir(_PROC):
        if name.isdigit() and (process := look(int(name))) is not None:
            yield process


# --- families --------------------------------------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    """Children of all its threads, zombies included."""
    if _lists_children(pid):
        return _listed(pid)
    return [process.pid for process in everyone() if process.parent == pid]


def tree(roots: Iterable[int]) -> list[Process]:
    """The processes `roots` and all below them, parents first. One look: what forks meanwhile is seen by the next."""
    found, pids = [], list(roots)
    below = _listed if any(map(_lists_children, pids)) else _families()
    for pid in pids:  # grows as it goes
        if (process := look(pid)) is not None:
            found.append(process)
            pids += below(pid)
    return found


def _lists_children(pid: int) -> bool:
    """Whether the kernel has CONFIG_PROC_CHILDREN."""
    return os.path.exists(f"{_PROC}/{pid}/task/{pid}/children")


def _listed(pid: int) -> list[int]:
    pids: list[int] = []
    with contextlib.suppress(OSError):  # it has gone, and its children have another parent: the next look finds them
        for thread in os.listdir(f"{_PROC}/{pid}/task"):
            with open(f"{_PROC}/{pid}/task/{thread}/children", "rb", buffering=0) as file:
                pids += map(int, file.read().split())
    return pids


def _families() -> Callable[[int], list[int]]:
    """What `_listed` does, by one pass over all processes."""
    families: dict[int, list[int]] = {}
    for process in everyone():
        families.setdefault(process.parent, []).append(process.pid)
    return lambda pid: families.pop(pid, [])


# --- signals ---------------------------------------------------------------------------------------------------------


def open_process(process: Process) -> int | None:
    """A pidfd of exactly this process, or None when it is gone or dead. The caller closes it."""
    try:
        fd = os.pidfd_open(process.pid)
    except OSError:
        return None
    now = look(process.pid)
    if now is not None and now.start == process.start and not now.dead:
        return fd
    os.close(fd)
    return None


def send(process: Process, number: int) -> bool:
    """Send a signal to exactly this process; False when it is gone or may not be signalled."""
    fd = open_process(process)
    if fd is None:
        return False
    try:
        signal.pidfd_send_signal(fd, number)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def freeze(find: Callable[[], Iterable[Process]], rounds: int, deadline: float = float("inf")) -> list[Process]:
    """Stop all that `find` finds, parents before children, until it finds nothing that moves: so nothing can fork away
    from the kill that follows. At most so many rounds, and to the monotonic `deadline`: a fork bomb may be faster.
    """
    frozen: dict[tuple[int, int], Process] = {}
    for _ in range(rounds):
        fresh = [process for process in find() if not process.dead and (process.pid, process.start) not in frozen]
        if not fresh or clock.monotonic() > deadline:
            break
        for process in fresh:
            send(process, signal.SIGSTOP)
            frozen[process.pid, process.start] = process
    return list(frozen.values())


def wait_for_exit(fds: Iterable[int], timeout: float) -> None:
    """Until one of the pidfds' processes has exited, or `timeout` seconds have passed."""
    poller = select.poll()
    for fd in fds:
        with contextlib.suppress(OSError):
            poller.register(fd, select.POLLIN)
    poller.poll(timeout * 1000)


# --- own children ----------------------------------------------------------------------------------------------------


def is_stopped(pid: int) -> bool:
    """A child, by a signal. waitid leaves the stop to be seen again; /proc would be another read a look."""
    try:
        return os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


def ended_child() -> int | None:
    """A child of this process that has ended. It is not reaped: how that is done depends on who it is."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if found is None else found.si_pid


def has_children() -> bool:
    """Whether this process has any child, living or not yet reaped."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
