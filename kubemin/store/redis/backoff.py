"""How long to wait after something failed: doubling, bounded, and jittered, so that a thousand clients that failed
together do not come back together. Pure, but for chance and the monotonic clock."""

from __future__ import annotations

from kubemin import chance, clock

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0  # seconds
CALM_SECONDS = 2 * LONGEST_PAUSE  # without a failure: the next one is a first one again


class Backoff:
    """Failures close to each other are one trouble, whatever succeeds in between: a server that takes no writes may
    answer every read."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._pause = 0.0
        self._failed_at = self._until = float("-inf")

    def failed(self) -> None:
        now = clock.monotonic()
        if now - self._failed_at > CALM_SECONDS:
            self._pause = 0.0
        self._failed_at = now
        self._pause = min(max(self._pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
        self._until = now + self._pause * chance.between(0.5, 1.0)

    def left(self) -> float:
        """Seconds until the next try."""
        return max(self._until - clock.monotonic(), 0.0)
