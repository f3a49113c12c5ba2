"""What is unfinished in this node's own SQLite when it is in the fleet: it moves into Redis, or ends here."""

from __future__ import annotations

from collections.abc import Sequence

from kubemin.config import Settings
from kubemin.coordinator.pending import Pending
from kubemin.model.records import Owner
from kubemin.store.redis.node import NodeStore


class Carrier:
    def __init__(self, settings: Settings, instance: str, target: NodeStore) -> None:
        self._settings, self._instance, self._target = settings, instance, target
        self.tasks: set[tuple[str, int]] = set()

    @property
    def active(self) -> bool:
        return False

    def open(self, live: Sequence[Owner]) -> None:
        pass

    def settle(self, pending: Pending) -> None:
        pass

    def close(self) -> None:
        pass
