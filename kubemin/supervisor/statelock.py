"""The lock on the state directory: flock on `stateDir/lock`, one daemon at a time.

One open file description is shared by supervisor, coordinator and workers (inherited by fork, closed by exec, so a
step never holds it). So whoever gets the lock has proof that the whole predecessor is gone, not only its supervisor
(engine rule 12). The file names the supervisor that holds it, for the message to the one who does not get it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections.abc import Callable

from kubemin import clock, processes
from kubemin.errors import NoRoom, Refused, StoreUnavailable, unwritable
from kubemin.supervisor import orphans
from kubemin.telemetry import log

CLIENT_SECONDS = 2.0  # a client that writes while no daemon runs holds the lock for a moment
DYING_SECONDS = 30.0  # processes of a dead daemon may hang in the kernel, in an fsync for example
_LOOK = 0.05  # seconds between two looks at who holds it


class StateLock:
    """The lock, held. Closing the descriptor in the last process that has it lets it go."""

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path

    @classmethod
    def take(cls, state_dir: str, give_up: Callable[[], bool] = lambda: False) -> StateLock:
        """Take the lock. Raises Refused, naming the process that holds it, or StoreUnavailable."""
        path = os.path.join(state_dir, "lock")
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as exc:
            raise StoreUnavailable(f"cannot open {path}: {exc.strerror}", fatal=True) from exc
        try:
            _wait_for(fd, state_dir, give_up)
            _name_holder(fd, path)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, path)

    def release(self) -> None:
        """Let go at a clean stop, when no child is left."""
        with contextlib.suppress(OSError):  # a file system that became read-only: its name is that of a dead one then
            os.pwrite(self.fd, b" " * os.fstat(self.fd).st_size, 0)  # keeps the room that the next name needs
        os.close(self.fd)


def _wait_for(fd: int, state_dir: str, give_up: Callable[[], bool]) -> None:
    begin, told = clock.monotonic(), False
    while not _lock(fd, state_dir):
        pid, alive = _holder(fd)
        waited = clock.monotonic() - begin
        if alive and waited > CLIENT_SECONDS:
            raise Refused(
                f"the state directory {state_dir} is in use by the daemon with pid {pid}; "
                "stop it first, or set another stateDir",
                code="state_locked",
            )
        if pid and not alive:
            _end_heirs(fd, pid)
        if waited > DYING_SECONDS or give_up():
            raise Refused(
                f"the state directory {state_dir} is still held by a process of a daemon that is gone; "
                f"see `fuser -v {state_dir}/lock`",
                code="state_locked",
            )
        if waited > CLIENT_SECONDS and not told:
            told = True
            log.warning("waiting for processes of a dead daemon to let go of the state directory", path=state_dir)


class _Alarm(Exception):
    """The time to look at something else."""


def _lock(fd: int, state_dir: str) -> bool:
    """Wait a moment for it, in the kernel's line: clients that write one after the other leave too little time
    between them for tries that come now and then."""
    waiting = True

    def wake(*_: object) -> None:
        if waiting:
            raise _Alarm

    before = signal.signal(signal.SIGALRM, wake)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})  # whoever started us may have blocked it
    try:
        signal.setitimer(signal.ITIMER_REAL, _LOOK)
        fcntl.flock(fd, fcntl.LOCK_EX)
        waiting = False
    except _Alarm:  # perhaps just after the lock was taken: the next call takes it again at once
        return False
    except OSError as exc:
        raise StoreUnavailable(f"cannot lock {state_dir}/lock: {exc.strerror}", fatal=True) from exc
    finally:
        waiting = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return True


def _holder(fd: int) -> tuple[int, bool]:
    """The pid of the supervisor that took it last, 0 when none is named, and whether it lives."""
    try:
        pid, start = (int(word) for word in os.pread(fd, 100, 0).split())
    except ValueError:
        return 0, False
    process = processes.look(pid)
    return pid, process is not None and process.start == start and process.state not in "ZX"


def _end_heirs(fd: int, pid: int) -> None:
    killed = orphans.kill_heirs(os.fstat(fd).st_ino, pid)
    if killed:
        log.warning("processes of a dead daemon that held its lock were killed", processes=killed)


def _name_holder(fd: int, path: str) -> None:
    me = processes.look(os.getpid())
    assert me is not None
    name = f"{me.pid} {me.start}\n".encode()
    try:
        os.pwrite(fd, name, 0)  # over what is there, which needs no room on a full disk
        os.ftruncate(fd, len(name))
    except OSError as exc:
        failure = unwritable(f"cannot write {path}", exc)
        if not isinstance(failure, NoRoom):  # the name is only for a message
            raise failure from exc
