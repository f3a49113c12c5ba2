"""When the leader's duties run in a fleet, by Redis' clock: the counterpart of `coordinator/duties.py`.

Each duty is idempotent, bounded, and carries the term's number; what the store refuses as fenced ends the term here.
"""

from __future__ import annotations

from collections.abc import Callable

from kubemin.clock import SECOND
from kubemin.config import Settings
from kubemin.coordinator.fleet.timing import Every
from kubemin.leader import promote, prune
from kubemin.leader.schedule import Scheduler
from kubemin.store.base import Retention
from kubemin.store.redis.node import NodeStore
from kubemin.telemetry import log

ADVANCE_SLICE = 500
ADVANCE_SECONDS = 0.1  # between looks at what a crash left half done; whoever began it goes on with it meanwhile
LOOK_SECONDS = 0.1  # between looks at due times
SCHEDULES_SECONDS = 2.0  # between reads of the published schedules: other nodes publish too
FORGET_SECONDS = 3600.0


class FleetDuties:
    """`valid` says whether the term goes on: asked before each duty, because each may take its time."""

    def __init__(self, store: NodeStore, settings: Settings, valid: Callable[[], bool]) -> None:
        self._store = store
        self._valid = valid
        self._scheduler: Scheduler | None = None
        kept = settings.retention
        self._retention = Retention(days=kept.days, runs=kept.runs, minimum=kept.min)
        self._lapsed = Every(max(settings.lock.ttl / 15, 0.2))
        self._advance = Every(ADVANCE_SECONDS)
        self._look = Every(LOOK_SECONDS)
        self._schedules = Every(SCHEDULES_SECONDS)
        self._prune = Every(prune.PERIOD)
        self._forget = Every(FORGET_SECONDS)

    def left(self) -> float:
        return min(self._advance.left(), self._look.left(), self._lapsed.left())

    def turn(self) -> None:
        for due, duty in (
            (self._advance, self._go_on),
            (self._look, self._promote_and_fire),
            (self._lapsed, self._recover),
            (self._prune, self._drop),
            (self._forget, self._store.forget_retired),
        ):
            if due.due():
                if not self._valid():
                    return
                duty()

    def invalidate(self) -> None:
        """A new term, new files: read the schedules again."""
        self._scheduler = None

    def _go_on(self) -> None:
        if self._store.advance(ADVANCE_SLICE):
            self._advance.soon()

    def _promote_and_fire(self) -> None:
        now = self._store.now()
        if promote.promote_due(self._store, now):
            self._look.soon()
        if self._scheduler is None:
            self._scheduler = Scheduler(self._store)
        elif self._schedules.due():
            self._scheduler.reload()
        slot = self._scheduler.next_due()
        if slot is not None and slot <= now and self._valid():
            self._scheduler.fire_due(now)
        elif slot is not None:
            self._look.soon((slot - now) / SECOND)

    def _recover(self) -> None:
        count, _ = self._store.recover_lapsed()
        if count:
            log.warning("tasks of a lost node were queued again", tasks=count)

    def _drop(self) -> None:
        if prune.prune_slice(self._store, self._retention):
            self._prune.soon(ADVANCE_SECONDS)
