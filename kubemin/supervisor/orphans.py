"""Processes that nobody owns any more: what dead workers left, and what a `kill -9` of the whole daemon left (promise
P8).

The supervisor is a child subreaper (or PID 1 of a container): what a dead worker leaves becomes its child. A child
that it did not fork is an orphan, and is killed with everything below it until none is left. What was there before
the daemon (a shell that became kubemind by exec may have children) is only reaped.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Collection

from kubemin import clock, processes

MARKER = "KUBEMIN_INSTANCE"
_PAUSES = 0.01, 1.0  # seconds between sweeps: the first, doubled up to the longest while something cannot be killed
_ROUNDS = 8  # of freezing within one sweep; a fork bomb goes on in the next one
_LEFTOVER_SECONDS = 5.0
_FLOCK = re.compile(rb"^lock:\t\d+: FLOCK +ADVISORY +WRITE (-?\d+) [^ ]*:(\d+) ", re.MULTILINE)  # proc_pid_fdinfo(5)


class Orphans:
    """Sweeps; each is short, and the loop comes back while something is left."""

    def __init__(self) -> None:
        self._me = os.getpid()
        self._spared = set(processes.children(self._me))
        self.killed = 0
        self.next_due = float("inf")  # monotonic seconds
        self._pause = _PAUSES[0]

    def sweep(self, known: Collection[int], now: float) -> None:
        """Kill and reap all children that are neither `known` nor spared; `next_due` says when to come back."""
        strangers = self._strangers(known)
        if not strangers:
            self.next_due, self._pause = float("inf"), _PAUSES[0]
            return
        for pid in strangers:
            _reap(pid)
        self._freeze_and_kill(known)
        self.next_due = now + self._pause
        self._pause = min(self._pause * 2, _PAUSES[1])

    def reap(self, pid: int) -> None:
        """An unknown child ended."""
        _reap(pid)
        self._spared.discard(pid)

    def _freeze_and_kill(self, known: Collection[int]) -> None:
        frozen = processes.freeze(lambda: processes.tree(self._strangers(known)), _ROUNDS)
        self.killed += sum(processes.send(process, signal.SIGKILL) for process in frozen)

    def _strangers(self, known: Collection[int]) -> set[int]:
        return set(processes.children(self._me)).difference(known, self._spared)


def kill_leftovers(marker: str) -> int:
    """Kill every process of this user (of any, as root) that carries `KUBEMIN_INSTANCE=marker`, within 5 s; returns
    how many."""
    entry = f"{MARKER}={marker}".encode()
    deadline = clock.monotonic() + _LEFTOVER_SECONDS
    killed: set[processes.Process] = set()
    while clock.monotonic() < deadline:
        found = [process for process in processes.everyone() if _carries(process, entry)]
        if not found:
            break
        _kill_and_wait(found, deadline)
        killed.update(process._replace(parent=0, state="") for process in found)
    return len(killed)


def kill_heirs(inode: int, supervisor: int) -> int:
    """Kill the processes that still hold the lock which a dead supervisor took on the file `inode`; returns how many.

    A child that a Python step forked, and that runs no other program, carries no marker, has no parent-death signal,
    and holds the lock until it ends. That it holds this very lock proves whose it is: /proc names the taker.
    """
    found = [process for process in processes.everyone() if not process.dead and _holds(process, inode, supervisor)]
    return sum(processes.send(process, signal.SIGKILL) for process in found)


def _holds(process: processes.Process, inode: int, taker: int) -> bool:
    """Whether a descriptor of it holds the lock. In a container's pid namespace a dead taker is shown as 0."""
    folder = f"/proc/{process.pid}/fdinfo"
    try:
        for name in os.listdir(folder):
            with open(f"{folder}/{name}", "rb") as file:
                if any((int(pid), int(on)) in ((taker, inode), (0, inode)) for pid, on in _FLOCK.findall(file.read())):
                    return True
    except OSError:  # it ended, or is another user's
        pass
    return False


def _kill_and_wait(found: Collection[processes.Process], deadline: float) -> None:
    fds = [fd for fd in map(processes.open_process, found) if fd is not None]
    try:
        for fd in fds:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
        for fd in fds:
            processes.wait_for_exit([fd], max(0.0, deadline - clock.monotonic()))
    finally:
        for fd in fds:
            os.close(fd)


def _carries(process: processes.Process, entry: bytes) -> bool:
    if process.pid == os.getpid() or process.dead:
        return False
    try:
        if os.geteuid() not in (0, os.stat(f"/proc/{process.pid}").st_uid):
            return False
        with open(f"/proc/{process.pid}/environ", "rb") as file:
            return entry in file.read().split(b"\0")
    except OSError:
        return False


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
