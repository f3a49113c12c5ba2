"""What a worker tells of the changes that its requests made: a line in the log, the coordinator's counts, and the calls
that `onFailure` is owed.

May touch: the log, the report channel (counts.py), the store.
"""

from __future__ import annotations

from kubemin.errors import KubeminError
from kubemin.store.failhook import FAILURES
from kubemin.store.redis.node import NodeStore
from kubemin.store.telling import tell
from kubemin.telemetry import log
from kubemin.worker.fleet.counts import Sender


class Teller:
    def __init__(self, store: NodeStore, counts: Sender) -> None:
        self._store = store
        self._counts = counts

    def tell(self) -> None:
        """What has changed since the last call."""
        changes = self._store.changes()
        if not changes:
            return
        self._counts.note(changes)
        tell(changes)
        if not any(not change.step and change.state in FAILURES for change in changes):
            return
        try:
            self._store.pay_calls()
        except KubeminError as error:
            log.warning("onFailure is left to the coordinators", reason=str(error))
