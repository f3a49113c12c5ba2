"""One worker slot: its channel, the life that is in it, how that is ended, and when it may be forked again."""

from __future__ import annotations

import os
import signal
import socket
from typing import NamedTuple

import msgspec

from kubemin.supervisor.forking import Forker
from kubemin.telemetry import log

YOUNG = 1.0  # seconds: a life that ends sooner, or never got idle, is one that failed to start
FREE_DEATHS = 2  # young deaths in a row that are answered at once: a killed worker is back within 50 ms
FIRST_PAUSE = 0.1  # seconds, doubled for each further young death
LONGEST_PAUSE = 10.0
FIRST_PATIENCE = 1.0  # seconds, doubled for each further life that was soiled
LONGEST_PATIENCE = 60.0
_SEND_BUFFER = 1 << 20  # bytes; the kernel gives what net.core.wmem_max allows


class Channel(NamedTuple):
    """All four ends of a worker's channel (docs/design.md section 4), held until its death was told."""

    tasks_write: int
    tasks_read: int
    reports_ours: int  # the coordinator's end
    reports_theirs: int  # the worker's end

    @classmethod
    def open(cls, forker: Forker) -> Channel:
        """Raises OSError (no more descriptors)."""
        tasks = _pair()
        forker.own(tasks)
        try:
            reports = _pair()
        except OSError:
            forker.disown(tasks)
            raise
        forker.own(reports)
        return cls(*tasks, *reports)

    @property
    def of_coordinator(self) -> tuple[int, int, int]:
        return self.tasks_write, self.tasks_read, self.reports_ours

    @property
    def of_worker(self) -> tuple[int, int, int]:
        """The write end as well: in a fleet a worker puts tickets of its own claims into its channel."""
        return self.tasks_write, self.tasks_read, self.reports_theirs


def _pair() -> tuple[int, int]:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (left, right):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    return left.detach(), right.detach()


class Kill(NamedTuple):
    """Why the supervisor sent SIGKILL, and the token of the task that it was meant for (0: none)."""

    reason: str
    token: int


class Life(msgspec.Struct, eq=False):
    """One worker process. Times are monotonic seconds."""

    slot: int
    pid: int
    incarnation: int
    generation: int
    born: float
    channel: Channel
    was_idle: bool = False
    told_at: float | None = None  # TERM was sent: it ends after its task
    signals: set[int] = msgspec.field(default_factory=set)  # TERM, INT: what we sent and it may die of
    kill: Kill | None = None


def tell_to_end(life: Life, now: float, number: signal.Signals = signal.SIGTERM) -> None:
    """TERM: end after the running task. INT: end the running task now."""
    life.told_at = life.told_at or now
    life.signals.add(number)
    os.kill(life.pid, number)  # our own child, not reaped: the pid is its


def kill(life: Life, reason: str, token: int = 0) -> None:
    """SIGKILL; the first reason counts. `token` is the task that it is meant for, 0 none."""
    if life.kill is None:
        life.kill = Kill(reason, token)
        log.warning("killing worker", worker=life.slot, pid=life.pid, reason=reason)
    os.kill(life.pid, signal.SIGKILL)


def ending(status: int) -> str:
    """A wait status in words: `ended with exit code 3`, `was killed by SIGKILL`."""
    if os.WIFEXITED(status):
        return f"ended with exit code {os.WEXITSTATUS(status)}"
    number = os.WTERMSIG(status)
    return f"was killed by {signal.Signals(number).name if number in signal.valid_signals() else number}"


class Slot:
    """A place in the pool. `life` is None between two lives."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.life: Life | None = None
        self.not_before = 0.0
        self.patience = 0.0  # of its next life, with descriptors that steps leave open
        self._young_deaths = 0
        self._last_soiled = float("-inf")

    def ended(self, now: float, *, young: bool) -> float:
        """A life ended; returns the pause before the next one. Not young: the pause starts afresh."""
        self.life = None
        self._young_deaths = self._young_deaths + 1 if young else 0
        pause = self._pause()
        self.not_before = now + pause
        return pause

    def was_soiled(self, now: float) -> None:
        """Its life was replaced for what a step left. When that goes on, the next one lasts longer."""
        again = now - self._last_soiled < 2 * LONGEST_PATIENCE
        self.patience = min(max(FIRST_PATIENCE, 2 * self.patience), LONGEST_PATIENCE) if again else FIRST_PATIENCE
        self._last_soiled = now

    def could_not_fork(self, now: float) -> float:
        """No process or descriptor to be had: the same pauses."""
        self._young_deaths = max(self._young_deaths, FREE_DEATHS)
        return self.ended(now, young=True)

    def _pause(self) -> float:
        over = self._young_deaths - FREE_DEATHS
        if over <= 0:
            return 0.0
        return jittered(min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(over - 1, 20)))


def jittered(seconds: float) -> float:
    """Between 75 and 100 %, so that a whole fleet does not come back at once."""
    return seconds * (1.0 - os.urandom(1)[0] / 1023)  # not `random`: its hook at forks costs every child memory
