"""Ending all that is below this process.

The worker is a child subreaper, so whatever a step starts stays below the worker however often it forks and calls
setsid. Children are reaped by their own pid. Every loop here has a deadline.
"""

from __future__ import annotations

import os
import signal

import msgspec

from kubemin import clock
from kubemin.processes import (
    Process,
    children,
    ended_child,
    freeze,
    has_children,
    open_process,
    send,
    tree,
    wait_for_exit,
)

SWEEP_SECONDS = 3.0  # without any progress until a sweep gives up: what ignores SIGKILL for so long sits in the kernel
_SWEEP_LIMIT = 60.0  # in all: something forks faster than it can be killed
_FREEZE_ROUNDS = 64  # scans that find new processes before they are killed without standing still
_PAUSE = 0.02  # seconds, while the kernel cleans up


class Swept(msgspec.Struct):
    """What a sweep killed and what that had used. `left` are processes that did not die."""

    killed: int = 0
    cpu: float = 0.0
    memory: int = 0
    left: list[int] = []


def descendants() -> list[Process]:
    """All processes below this one, parents first; one look, so a forking tree needs several."""
    return tree(children(os.getpid()))


def terminate_descendants() -> None:
    """Ask everything below this process to end. CONT after TERM, so that stopped ones hear it."""
    for process in descendants():
        if send(process, signal.SIGTERM):
            send(process, signal.SIGCONT)


def kill_descendants(seconds: float = SWEEP_SECONDS) -> Swept:
    """Kill and reap everything below this process; afterwards it has no child, unless `left` says otherwise."""
    swept = Swept()
    killed: set[tuple[int, int]] = set()
    limit = clock.monotonic() + max(_SWEEP_LIMIT, seconds)
    deadline = clock.monotonic() + seconds
    while has_children():
        alive = freeze(descendants, _FREEZE_ROUNDS, deadline)
        before = len(killed)
        killed.update((process.pid, process.start) for process in alive if send(process, signal.SIGKILL))
        _reap_children(swept)
        if len(killed) > before:  # on a loaded machine one look at /proc may take seconds
            deadline = min(clock.monotonic() + seconds, limit)
        elif clock.monotonic() > deadline:
            swept.left = [process.pid for process in descendants() if not process.dead]
            break
        _await_death(alive)
        _reap_children(swept)
    swept.killed = len(killed)
    return swept


def _await_death(processes: list[Process]) -> None:
    """Wait a moment for the first own child among them, so that the loop does not spin while the kernel cleans up."""
    own = next((process for process in processes if process.parent == os.getpid()), None)
    fd = open_process(own) if own is not None else None
    try:
        wait_for_exit([] if fd is None else [fd], _PAUSE)
    finally:
        if fd is not None:
            os.close(fd)


def _reap_children(swept: Swept) -> None:
    """Reap what is dead among the own children, each by its pid."""
    while (pid := ended_child()) is not None:
        try:
            _, _, usage = os.wait4(pid, os.WNOHANG)
        except ChildProcessError:
            return
        swept.cpu += usage.ru_utime + usage.ru_stime
        swept.memory = max(swept.memory, usage.ru_maxrss * 1024)
