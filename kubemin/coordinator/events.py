"""The counters that `status` shows, kept from the transitions that this coordinator hears of."""

from __future__ import annotations

from kubemin.store.base import Change
from kubemin.store.telling import tell as tell

RATE_SECONDS = 20.0  # weight of the past in the rate: a change shows after a few of them
_LOST = frozenset({"worker-lost", "node-lost"})
_ENDS = frozenset({"finished", "cancelled", "skipped", "quarantined"})


class Counters:
    """Totals since this coordinator's start."""

    def __init__(self) -> None:
        self.finished = 0
        self.failed = 0
        self.requeued = 0
        self.recovered = 0  # of those: from a dead worker or daemon
        self.ended = 0  # tasks, whatever their end
        self.rate = 0.0  # of those a second, over the last minute or so
        self._measured = (0.0, 0)

    def note(self, change: Change) -> None:
        if change.event == "requeued":
            self.requeued += 1
            self.recovered += change.cause in _LOST
        elif not change.step and change.event == "finished":
            self.finished += 1
            self.failed += change.state != "completed"
        if change.event in _ENDS and (change.step or change.quiet):
            self.ended += 1

    def measure(self, now: float) -> None:
        """Called about once a second, with the monotonic time: keeps the rate."""
        (before, ended), self._measured = self._measured, (now, self.ended)
        if before:
            fresh = (self.ended - ended) / max(now - before, 1e-3)
            self.rate = round(self.rate + (fresh - self.rate) * min(1.0, (now - before) / RATE_SECONDS), 2)
