"""When something is due again, by the monotonic clock. Pure, but for chance."""

from __future__ import annotations

import random

from kubemin import clock


class Every:
    """`jitter` 0.2: up to a fifth more, so that the nodes of a fleet do not march in step."""

    def __init__(self, seconds: float, jitter: float = 0.0) -> None:
        self.seconds = seconds
        self._jitter = jitter
        self._next = 0.0

    def due(self) -> bool:
        """True once a period."""
        now = clock.monotonic()
        if now < self._next:
            return False
        self._next = now + self.seconds * (1 + random.uniform(0.0, self._jitter))
        return True

    def left(self) -> float:
        return max(self._next - clock.monotonic(), 0.0)

    def soon(self, seconds: float = 0.0) -> None:
        self._next = min(self._next, clock.monotonic() + seconds)

    def put_off(self, seconds: float) -> None:
        self._next = max(self._next, clock.monotonic() + seconds)
