"""Processes as /proc shows them, and signals that cannot hit a stranger (engine rule 15).

A pid alone names nobody: it may be used again between looking and signalling. A pid with its start time (field 22 of
/proc/PID/stat, clock ticks since boot) does; `signal_process` opens a pidfd first and compares the start time
afterwards.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Process(NamedTuple):
    pid: int
    parent: int
    start: int  # clock ticks since boot
    state: str  # R, S, D, T, Z, …


def look(pid: int) -> Process | None:
    """The process, or None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except OSError:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()  # the name may hold spaces and brackets
    return Process(pid, int(fields[1]), int(fields[19]), fields[0].decode())


def processes() -> Iterator[Process]:
    for name in os.listdir("/proc"):
        if name.isdigit() and (process := look(int(name))) is not None:
            yield process


def children(pid: int) -> list[int]:
    """Children of a single-threaded process, zombies included."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            return [int(word) for word in file.read().split()]
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        return [process.pid for process in processes() if process.parent == pid]


def ended_child() -> int | None:
    """A child of this process that has ended. It is not reaped: how that is done depends on who it is."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if found is None else found.si_pid


def descendants(roots: Iterable[int]) -> list[Process]:
    """The processes `roots` and everything below them, parents first, by one pass over /proc."""
    known = {process.pid: process for process in processes()}
    below: dict[int, list[int]] = {}
    for process in known.values():
        below.setdefault(process.parent, []).append(process.pid)
    found, todo = [], list(roots)
    while todo:
        pid = todo.pop()
        if pid in known:
            found.append(known.pop(pid))
            todo += below.get(pid, ())
    return found


def open_process(process: Process) -> int | None:
    """A pidfd of exactly this process, or None when it is gone. The caller closes it."""
    try:
        fd = os.pidfd_open(process.pid)
    except OSError:
        return None
    now = look(process.pid)
    if now is not None and now.start == process.start:
        return fd
    os.close(fd)
    return None


def signal_process(process: Process, number: signal.Signals) -> bool:
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


def wait_for_exit(fds: Iterable[int], timeout: float) -> None:
    """Until one of the pidfds' processes has exited, or `timeout` seconds have passed."""
    poller = select.poll()
    for fd in fds:
        with contextlib.suppress(OSError):
            poller.register(fd, select.POLLIN)
    poller.poll(timeout * 1000)
