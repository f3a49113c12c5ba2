"""How long the elector waits between its requests. Pure, but for chance.

A leader renews a retry period after it *sent* the last renewal; candidates look up to a fifth less often, so that they
do not march in step; writes that met a conflict are repeated at once, a storm of them with growing pauses.
"""

from __future__ import annotations

from collections.abc import Callable

JITTER = 0.2  # a candidate's period is up to this much longer
CONFLICTS_AT_ONCE = 3  # writes repeated without a pause after a 409 that was our own; then a short one
CONFLICT_PAUSE = 0.05


class Pace:
    """`retry_period` in seconds; `now` is the term's clock."""

    def __init__(self, retry_period: float, now: Callable[[], float], chance: Callable[[], float]) -> None:
        self._retry_period, self._now, self._chance = retry_period, now, chance
        self._conflicts = 0

    def period(self) -> float:
        return self._retry_period * (1 + JITTER * self._chance())

    def until_renewal(self, sent: float) -> float:
        return max(sent + self._retry_period - self._now(), 0.0)

    def after_conflict(self) -> float:
        self._conflicts += 1
        beyond = self._conflicts - CONFLICTS_AT_ONCE
        if beyond <= 0:
            return 0.0
        return min(CONFLICT_PAUSE * 2.0 ** min(beyond, 10) * (1 + self._chance()), self._retry_period)

    def calm(self) -> None:
        """A write went through, or somebody else leads."""
        self._conflicts = 0
