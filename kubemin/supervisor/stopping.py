"""The way out: stop claiming, let tasks end within the grace period, then make them, then kill; and commit what they
reported.

TERM to workers → (grace) → INT → (10 s) → KILL → `finish` to the coordinator → (10 s) → KILL. A second TERM or INT
ends the grace at once.
"""

from __future__ import annotations

import signal
from enum import IntEnum

from kubemin.supervisor.coordinator import Keeper
from kubemin.supervisor.enforcing import Enforcer
from kubemin.supervisor.pool import Pool
from kubemin.telemetry import log

INTERRUPT_SECONDS = 10.0  # between INT and KILL: a step's tree has 5 s after TERM
FINISH_SECONDS = 10.0  # for the coordinator to commit
_MARGIN = 5.0  # what the service manager is told on top
_LOOK = 0.5


class Phase(IntEnum):
    RUNNING = 0
    ENDING = 1  # TERM was sent: tasks may end by themselves
    INTERRUPTING = 2  # INT was sent: steps are ended
    KILLING = 3
    FINISHING = 4  # no worker is left; the coordinator commits
    DONE = 5


class Stop:
    def __init__(self, pool: Pool, enforcer: Enforcer, keeper: Keeper) -> None:
        self.phase = Phase.RUNNING
        self.exit_code = 0
        self._pool = pool
        self._enforcer = enforcer
        self._keeper = keeper
        self._deadline = float("inf")

    @property
    def active(self) -> bool:
        return self.phase is not Phase.RUNNING

    @property
    def done(self) -> bool:
        return self.phase is Phase.DONE

    def next_due(self, now: float) -> float:
        return max(0.0, min(_LOOK, self._deadline - now)) if self.active else float("inf")

    def seconds_left(self, now: float) -> float:
        """How long it may take from now: for the service manager."""
        later = {Phase.ENDING: INTERRUPT_SECONDS + FINISH_SECONDS, Phase.INTERRUPTING: FINISH_SECONDS}
        return max(0.0, self._deadline - now) + later.get(self.phase, 0.0) + _MARGIN

    def begin(self, grace: float, now: float, exit_code: int = 0) -> None:
        """Start to stop, or shorten the grace of a stop that is under way."""
        self.exit_code = self.exit_code or exit_code
        if not self.active:
            self.phase, self._deadline = Phase.ENDING, now + grace
            self._pool.forking = False
            self._keeper.stop()
            self._enforcer.signal_all(signal.SIGTERM, now)
        elif self.phase is Phase.ENDING:
            self._deadline = min(self._deadline, now + grace)

    def maintain(self, now: float) -> None:
        if not self.active or self.done:
            return
        if self.phase < Phase.FINISHING and self._pool.empty:
            self._enter(Phase.FINISHING, FINISH_SECONDS, now)
            self._keeper.finish()
        elif self.phase is Phase.FINISHING and (self._keeper.finished or self._keeper.failure):
            self.phase = Phase.DONE
        elif now >= self._deadline:
            self._escalate(now)

    def _escalate(self, now: float) -> None:
        if self.phase is Phase.ENDING:
            log.info("the grace period is over; running steps are ended", workers=len(self._pool.pids))
            self._enter(Phase.INTERRUPTING, INTERRUPT_SECONDS, now)
            self._enforcer.signal_all(signal.SIGINT, now)
        elif self.phase is Phase.INTERRUPTING:
            self._enter(Phase.KILLING, INTERRUPT_SECONDS, now)
            self._enforcer.kill_all("drain")
        elif self.phase is Phase.KILLING:  # a process that the kernel does not let go
            log.error("workers cannot be killed", pids=" ".join(map(str, sorted(self._pool.pids))))
            self._enter(Phase.FINISHING, FINISH_SECONDS, now)
            self._keeper.finish()
        else:
            log.error("the coordinator does not finish; it is killed", seconds=FINISH_SECONDS)
            self._keeper.kill()
            self.exit_code = self.exit_code or 1  # what workers reported last may not be committed: it is run again
            self.phase = Phase.DONE

    def _enter(self, phase: Phase, seconds: float, now: float) -> None:
        self.phase, self._deadline = phase, now + seconds
