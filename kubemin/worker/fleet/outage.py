"""What a worker does with results while Redis does not answer: it keeps them and tries again. When it has to end
first it puts them on disk, from where its node delivers them before anything is adopted (engine rule 14).

May touch: `undelivered` in the state directory, the log, the slot's record.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kubemin import clock
from kubemin.errors import StoreUnavailable
from kubemin.model.records import Outcome, Owner
from kubemin.scoreboard import SlotWriter
from kubemin.store import undelivered
from kubemin.telemetry import log
from kubemin.worker.interrupts import Interrupts
from kubemin.worker.loop import poll_of

SHORTEST_PAUSE: Final = 0.05  # seconds between tries


class Outage:
    """One at a time. Its length is told when it ends, not each try."""

    def __init__(self, owner: Owner, state_dir: str, writer: SlotWriter, interrupts: Interrupts) -> None:
        self._owner = owner
        self._state_dir = state_dir
        self._writer = writer
        self._interrupts = interrupts
        self._poll = poll_of(interrupts.fd)
        self._since: float | None = None

    def met(self, outcomes: Sequence[Outcome], error: StoreUnavailable, done: int) -> None:
        """A try was in vain. `done`: tasks of this life."""
        if self._since is not None:
            return
        self._since = clock.monotonic()
        self._writer.idle(done)  # whoever kills it now does not do so under its task
        slot, reason = self._owner.slot, str(error)
        log.warning("Redis cannot be reached; a result is kept", worker=slot, task=_tasks(outcomes), reason=reason)

    def wait(self, seconds: float) -> bool:
        """Until the next try. False: told to end first."""
        deadline = clock.monotonic() + max(seconds, SHORTEST_PAUSE)
        while (left := deadline - clock.monotonic()) > 0 and not self._interrupts.stopping:
            self._poll.poll(left * 1000)
            self._interrupts.read()
        return not self._interrupts.stopping

    def keep(self, outcomes: list[Outcome]) -> bool:
        """On disk; False: they are lost, and their tasks are run again."""
        try:
            path = undelivered.keep(self._state_dir, self._owner, outcomes)
        except OSError as error:
            log.error("a result could not be kept; its task is run again", task=_tasks(outcomes), reason=error.strerror)
            return False
        log.warning("a result is kept until Redis can be reached", task=_tasks(outcomes), file=path)
        return True

    def is_over(self, outcomes: Sequence[Outcome]) -> None:
        """The store has them, perhaps at the first try."""
        if self._since is None:
            return
        seconds = round(clock.monotonic() - self._since, 1)
        self._since = None
        slot = self._owner.slot
        log.info("the result was delivered after the outage", worker=slot, task=_tasks(outcomes), seconds=seconds)


def _tasks(outcomes: Sequence[Outcome]) -> str:
    first = f"{outcomes[0].run}.{outcomes[0].idx}"
    return first if len(outcomes) == 1 else f"{first} and {len(outcomes) - 1} more"
