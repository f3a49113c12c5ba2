"""What `status` shows of the past, kept from what this coordinator counts and is told."""

from __future__ import annotations

from collections import Counter, deque

from kubemin.config import Settings
from kubemin.scoreboard import CoordinatorRecord
from kubemin.store.counting import Tally, Totals

RATE_SECONDS = 20.0  # weight of the past in the rate: a change shows after a few of them
HOUR = 3600.0
STEP = 60.0  # seconds: failures are kept by the minute
NAMED = 50  # workflows in a heartbeat


def begin_tally(settings: Settings, known: CoordinatorRecord | None) -> Tally:
    """A coordinator goes on with the totals of its predecessor in the same daemon."""
    tally = Tally(metered=bool(settings.http_addr))
    if known is not None:
        tally.totals = Totals(known.finished, known.failed, known.requeued, known.recoveries)
    return tally


class History:
    """The rate of tasks, and the failures of the last hour, from totals that only rise."""

    def __init__(self) -> None:
        self.rate = 0.0  # tasks that ended a second, over the last minute or so
        self._measured = (0.0, 0)
        self._known: Counter[str] = Counter()
        self._minutes: deque[tuple[float, Counter[str]]] = deque()

    def measure(self, totals: Totals, now: float) -> None:
        """Called about once a second, with the monotonic time."""
        (before, ended), self._measured = self._measured, (now, totals.ended)
        if before:
            fresh = (totals.ended - ended) / max(now - before, 1e-3)
            self.rate = round(self.rate + (fresh - self.rate) * min(1.0, (now - before) / RATE_SECONDS), 2)
        self._note_failures(Counter(totals.failures), now)

    def failures(self) -> dict[str, int]:
        """Of the last hour, by workflow: the most frequent."""
        return dict(sum((failed for _, failed in self._minutes), Counter()).most_common(NAMED))

    def _note_failures(self, known: Counter[str], now: float) -> None:
        fresh, self._known = known - self._known, known
        if fresh:
            if not self._minutes or now - self._minutes[-1][0] >= STEP:
                self._minutes.append((now, Counter()))
            self._minutes[-1][1].update(fresh)
        while self._minutes and now - self._minutes[0][0] > HOUR:
            self._minutes.popleft()
