"""What upgraded nodes have written and this one cannot read is left to them, and said once (engine rule 10).

Their tasks stand in lists of their own, which this node never pops: so it looks at the queues' names now and then, for
the operator's sake alone.
"""

from __future__ import annotations

from kubemin.coordinator.fleet.timing import Every
from kubemin.store.redis.node import NodeStore
from kubemin.telemetry import log

LOOK_SECONDS = 5.0


class Newer:
    def __init__(self, store: NodeStore) -> None:
        self._store = store
        self._look = Every(LOOK_SECONDS, jitter=0.2)
        self._told = store.version

    def turn(self) -> None:
        if self._look.due() and (newest := self._store.newest_version()) > self._told:
            self._told = newest
            log.warning(
                "the fleet has records of a newer version; they are left to upgraded nodes; upgrade this one too",
                version=newest,
                known=self._store.version,
            )
