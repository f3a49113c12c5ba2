"""Entries that were popped and never claimed: looked for all the time, and at once when one of our workers died.

Every node looks, not the leader alone: 17 s without a leader must not keep a popped task. A scan costs O(log n) where
nothing is wrong, and scans of several nodes do not disturb each other.
"""

from __future__ import annotations

from collections.abc import Sequence

from kubemin import clock
from kubemin.coordinator.fleet.timing import Every
from kubemin.store.redis.node import RESCUE_AFTER, NodeStore
from kubemin.telemetry import log

PERIOD = 0.8  # seconds; with RESCUE_AFTER and a look before it: within 3 s of the pop
AT_ONCE_AFTER = 0.2  # seconds that an entry may be suspect when one of our workers died
URGENT_PERIOD = 0.1
URGENT_SECONDS = 0.6  # for so long after a death


class Rescues:
    def __init__(self, store: NodeStore, queues: Sequence[str]) -> None:
        self.queues = queues
        self._store = store
        self._every = Every(PERIOD, jitter=0.2)
        self._urgent = Every(URGENT_PERIOD)
        self._urgent_until = 0.0

    def ask(self) -> None:
        """A worker died, or was cut off inside its wait."""
        self._urgent_until = clock.monotonic() + URGENT_SECONDS
        self._urgent.soon()

    @property
    def _is_urgent(self) -> bool:
        return clock.monotonic() < self._urgent_until

    def left(self) -> float:
        return min(self._urgent.left(), self._every.left()) if self._is_urgent else self._every.left()

    def turn(self) -> None:
        if self._is_urgent and self._urgent.due():
            self._scan(AT_ONCE_AFTER)
        elif self._every.due():
            self._scan(RESCUE_AFTER)

    def _scan(self, wait: float) -> None:
        pushed, _ = self._store.rescue(self.queues, wait)
        for task in pushed:
            log.info("a popped task that nobody claimed was queued again", task=task)
