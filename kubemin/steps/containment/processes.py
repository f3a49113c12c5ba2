"""Finding and killing the processes below this one, by /proc and pidfds.

The worker is a child subreaper, so whatever a step starts stays below the worker however often it forks and calls
setsid. Signals go to own unreaped children by pid, to all others only through a pidfd whose start time was checked
after opening, so that a number that was used again is never hit (engine rule 15). Every loop here has a deadline.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field

from kubemin import clock

SWEEP_SECONDS = 3.0  # without any progress until a sweep gives up: what ignores SIGKILL for so long sits in the kernel
_SWEEP_LIMIT = 60.0  # in all: something forks faster than it can be killed
_FREEZE_ROUNDS = 64  # scans that find new processes before they are killed without standing still
_PAUSE_MILLISECONDS = 20
_PROC = "/proc"


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    ppid: int
    start: int  # clock ticks since boot: with the pid, a name that is never used again
    state: str  # one letter, as in /proc/PID/stat

    @property
    def dead(self) -> bool:
        return self.state in "ZX"


@dataclass(slots=True)
class Swept:
    """What a sweep killed and what that had used. `left` are processes that did not die."""

    killed: int = 0
    cpu: float = 0.0
    memory: int = 0
    left: list[int] = field(default_factory=list)


def read_process(pid: int) -> Process | None:
    """None: there is no such process (any more)."""
    try:
        with open(f"{_PROC}/{pid}/stat", "rb", buffering=0) as file:
            fields = file.read(4096).rpartition(b")")[2].split()
    except OSError:
        return None
    return Process(pid, int(fields[1]), int(fields[19]), fields[0].decode()) if len(fields) > 19 else None


def has_children() -> bool:
    """Whether this process has any child, living or not yet reaped. Reaps nothing."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def descendants(root: int) -> list[Process]:
    """All processes below `root`, parents first; one look, so a forking tree needs several."""
    if os.path.exists(f"{_PROC}/{root}/task/{root}/children"):
        return list(_walk(root))
    return list(_below(root, _all_processes()))


def _walk(root: int) -> Iterator[Process]:
    found = [root]
    for pid in found:
        for child in _children(pid):
            process = read_process(child)
            if process is not None:
                found.append(child)
                yield process


def _children(pid: int) -> list[int]:
    pids: list[int] = []
    try:
        for thread in os.listdir(f"{_PROC}/{pid}/task"):
            with open(f"{_PROC}/{pid}/task/{thread}/children", "rb", buffering=0) as file:
                pids += map(int, file.read().split())
    except OSError:
        pass  # it has gone, and its children have another parent: the next look finds them there
    return pids


def _all_processes() -> dict[int, list[Process]]:
    """Parent's pid -> its children. Where the kernel lists no children (CONFIG_PROC_CHILDREN)."""
    families: dict[int, list[Process]] = {}
    for name in os.listdir(_PROC):
        if name.isdigit() and (process := read_process(int(name))) is not None:
            families.setdefault(process.ppid, []).append(process)
    return families


def _below(root: int, families: dict[int, list[Process]]) -> Iterator[Process]:
    parents = [root]
    for pid in parents:
        for child in families.pop(pid, ()):
            parents.append(child.pid)
            yield child


def send(process: Process, signum: int) -> bool:
    """Signal exactly this process. False: it has gone, or may not be signalled."""
    try:
        if process.ppid == os.getpid() and not process.dead:
            return _send_child(process.pid, signum)
        fd = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        now = read_process(process.pid)
        if now is None or now.start != process.start or now.dead:
            return False
        signal.pidfd_send_signal(fd, signum)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _send_child(pid: int, signum: int) -> bool:
    """The number of an own child that was not reaped cannot be used again: peek first whether it is one."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    os.kill(pid, signum)
    return True


def terminate_descendants() -> None:
    """Ask everything below this process to end. CONT after TERM, so that stopped ones hear it."""
    for process in descendants(os.getpid()):
        if send(process, signal.SIGTERM):
            send(process, signal.SIGCONT)


def kill_descendants(seconds: float = SWEEP_SECONDS) -> Swept:
    """Kill and reap everything below this process; afterwards it has no child, unless `left` says otherwise."""
    swept = Swept()
    killed: set[tuple[int, int]] = set()
    limit = clock.monotonic() + max(_SWEEP_LIMIT, seconds)
    deadline = clock.monotonic() + seconds
    while has_children():
        alive = _freeze(deadline)
        before = len(killed)
        killed.update((process.pid, process.start) for process in alive if send(process, signal.SIGKILL))
        _reap_children(swept)
        if len(killed) > before:  # on a loaded machine one look at /proc may take seconds
            deadline = min(clock.monotonic() + seconds, limit)
        elif clock.monotonic() > deadline:
            swept.left = [process.pid for process in descendants(os.getpid()) if not process.dead]
            break
        _await_death(alive)
        _reap_children(swept)
    swept.killed = len(killed)
    return swept


def _freeze(deadline: float) -> list[Process]:
    """Stop everything below, until a look finds nothing that moves: a fork bomb must not outrun its killer."""
    stopped: dict[tuple[int, int], Process] = {}
    for _ in range(_FREEZE_ROUNDS):
        found = [process for process in descendants(os.getpid()) if not process.dead]
        fresh = [process for process in found if (process.pid, process.start) not in stopped]
        if not fresh or clock.monotonic() > deadline:
            break
        for process in fresh:
            send(process, signal.SIGSTOP)
            stopped[process.pid, process.start] = process
    return list(stopped.values())


def _await_death(processes: list[Process]) -> None:
    """Wait a moment for the first own child among them, so that the loop does not spin while the kernel cleans up."""
    own = next((process for process in processes if process.ppid == os.getpid()), None)
    try:
        fd = os.pidfd_open(own.pid) if own else -1
    except OSError:
        return
    poller = select.poll()
    if fd >= 0:
        poller.register(fd, select.POLLIN)
    try:
        poller.poll(_PAUSE_MILLISECONDS)
    finally:
        if fd >= 0:
            os.close(fd)


def _reap_children(swept: Swept) -> None:
    """Reap what is dead among the own children, each by its pid."""
    while True:
        try:
            dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if dead is None:
                return
            _, _, usage = os.wait4(dead.si_pid, os.WNOHANG)
        except ChildProcessError:
            return
        swept.cpu += usage.ru_utime + usage.ru_stime
        swept.memory = max(swept.memory, usage.ru_maxrss * 1024)
