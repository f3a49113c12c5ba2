"""What a scrape asks Redis for: the server's own figures and the fleet's heartbeats, on the scraper's own connection.

Called in the thread that serves metrics. While the coordinator knows of an outage nothing is asked, so that a scrape
does not wait for a server that hangs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from kubemin.config import Settings
from kubemin.coordinator.fleet.outages import Outages
from kubemin.errors import KubeminError, StoreUnavailable
from kubemin.store.redis.node import NodeStore, NodeView
from kubemin.store.redis.opening import open_store
from kubemin.telemetry.metrics import Values

SCRAPE_SECONDS = 2.0  # that a reply may take
NODE_STATES = ("ready", "drained", "lost")
_SERVER = {
    "kubemin_redis_clients": "connected_clients",
    "kubemin_redis_memory_bytes": "used_memory",
    "kubemin_redis_memory_limit_bytes": "maxmemory",
    "kubemin_redis_replicas": "connected_slaves",
}


class Gauges:
    def __init__(self, settings: Settings, outages: Outages) -> None:
        self._settings, self._outages = settings, outages
        self._store: NodeStore | None = None

    def store(self) -> NodeStore:
        """Raises StoreUnavailable during an outage."""
        if self._outages.reason:
            raise StoreUnavailable(self._outages.reason)
        if self._store is None:
            self._store = open_store(self._settings, name="kubemin-metrics", reads=True)
            self._store.client.timeout = SCRAPE_SECONDS
        return self._store

    def values(self) -> Values:
        return {**self._try(self._server), **self._try(self._nodes)}

    def _try(self, ask: Callable[[], Values]) -> Values:
        """What cannot be asked now has no figures; that it is so is told by another."""
        try:
            return ask()
        except KubeminError:
            return {}

    def _server(self) -> Values:
        info = self.store().server_info()
        return {name: {(): float(info[field])} for name, field in _SERVER.items() if field in info}

    def _nodes(self) -> Values:
        states = Counter(dict.fromkeys(NODE_STATES, 0))
        states.update(state_of(view) for view in self.store().nodes())
        return {"kubemin_nodes": {(state,): count for state, count in states.items()}}


def state_of(view: NodeView) -> str:
    """One of NODE_STATES."""
    return "lost" if view.is_lost else "drained" if view.record.drained else "ready"
