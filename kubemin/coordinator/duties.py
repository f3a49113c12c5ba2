"""When the leader's duties run on this node: the clockwork around `kubemin/leader/`.

Called inside the loop's transaction; each call is bounded. Alone on a machine this node is always the leader.
"""

from __future__ import annotations

from kubemin import clock
from kubemin.config import Settings
from kubemin.leader import promote, prune
from kubemin.leader.schedule import Scheduler
from kubemin.store.base import Retention, Store

ADVANCE_SLICE = 500  # records a round that go on with what is large: about 5 ms, so that hand-outs are not held up
LOOK_EVERY = 0.05  # seconds between looks at due times while the loop is busy


class Duties:
    """Knows what is due next. After a failed transaction, and after definitions changed, call `invalidate`."""

    def __init__(self, store: Store, settings: Settings, *, schedules: bool = True) -> None:
        self._store = store
        self._schedules = schedules  # False: nothing fires by itself here
        self._scheduler = Scheduler(store)
        self._stale = False
        self._unfinished = True  # something large was left by a predecessor, perhaps
        self._looked = 0.0
        self._wait = 0.0
        self._pruned = 0.0
        self.retention = Retention()
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """At the start, and after a reload: the retention is looked at at once."""
        self._pruned = 0.0
        kept = settings.retention
        self.retention = Retention(days=kept.days, runs=kept.runs, minimum=kept.min)

    def invalidate(self) -> None:
        """What is remembered of schedules and due times may be wrong: read it again in the next round."""
        self._stale = self._unfinished = True
        self._wait = 0.0

    def seconds_to_next(self) -> float:
        """How long the loop may sleep for their sake."""
        if self._unfinished:
            return 0.0
        now = clock.monotonic()
        return max(min(self._looked + self._wait, self._pruned + prune.PERIOD) - now, 0.0)

    def due(self, touched: bool) -> bool:
        """Whether `run` has something to do; `touched`: this round writes, so due times may have changed."""
        now = clock.monotonic()
        if touched:
            self._wait = min(self._wait, max(now - self._looked, 0.0) + LOOK_EVERY)
            self._unfinished = True
        return self._unfinished or self.seconds_to_next() <= 0.0

    def run(self) -> None:
        now, wall = clock.monotonic(), clock.wall()
        if self._stale:
            self._scheduler.reload()
            self._stale = False
        self._unfinished = self._store.advance(ADVANCE_SLICE)
        if now >= self._looked + self._wait:
            more = promote.promote_due(self._store, wall)
            if self._schedules:
                self._scheduler.fire_due(wall)
            self._looked = now
            self._wait = 0.0 if more else self._until_due(wall)
        if now >= self._pruned + prune.PERIOD and not prune.prune_slice(self._store, self.retention):
            self._pruned = now

    def _until_due(self, wall: clock.Micros) -> float:
        wait = promote.seconds_to_next(self._store, wall)
        slot = self._scheduler.next_due() if self._schedules else None
        return wait if slot is None else min(wait, max((slot - wall) / clock.SECOND, 0.0))
