"""Redis away, as this coordinator sees it: told once at its start and once at its end, counted for the metrics."""

from __future__ import annotations

from kubemin import clock
from kubemin.errors import StoreUnavailable
from kubemin.store.redis.client import Client
from kubemin.telemetry import log
from kubemin.telemetry.metrics import Histogram, Values

SHORTEST_PAUSE = 0.05  # seconds between tries
_NONE: tuple[str, ...] = ()


class Outages:
    """One thread writes, another may read `values`."""

    def __init__(self, client: Client) -> None:
        self.reason = ""  # of the present one
        self.latencies = Histogram()
        self._client = client
        self._since = self._retry_at = 0.0
        self._count = 0
        self._seconds = 0.0  # of those that are over
        client.observe = self.latencies.observe

    def left(self) -> float:
        """Seconds until it is worth another try."""
        return max(self._retry_at - clock.monotonic(), 0.0) if self.reason else 0.0

    def goes_on(self, exc: StoreUnavailable, pause: float = SHORTEST_PAUSE) -> None:
        if not self.reason:
            self._since = clock.monotonic()
            self._count += 1
            log.warning("Redis cannot be used; running tasks go on, results are kept", reason=str(exc))
        self.reason = str(exc)
        self._retry_at = clock.monotonic() + max(self._client.retry_in(), pause)

    def ends(self) -> bool:
        """True when there was one."""
        if not self.reason:
            return False
        seconds = clock.monotonic() - self._since
        self._seconds += seconds
        self.reason = ""
        log.info("Redis can be used again", seconds=round(seconds, 1))
        return True

    def values(self) -> Values:
        present = clock.monotonic() - self._since if self.reason else 0.0
        return {
            "kubemin_redis_outages_total": {_NONE: self._count},
            "kubemin_redis_outage_seconds_total": {_NONE: self._seconds + present},
            "kubemin_redis_command_seconds": {_NONE: self.latencies},
            "kubemin_redis_connects_total": {_NONE: self._client.serial},
        }
