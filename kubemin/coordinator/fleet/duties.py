"""When the leader's duties run in a fleet, by Redis' clock: the counterpart of `coordinator/duties.py`.

Each duty is idempotent, bounded, and carries the term's number; what the store refuses as fenced ends the term here.
"""

from __future__ import annotations

from collections.abc import Callable

from kubemin import clock, faults
from kubemin.clock import SECOND
from kubemin.config import Settings
from kubemin.coordinator.fleet.timing import Every
from kubemin.leader import promote, prune
from kubemin.leader.schedule import Scheduler
from kubemin.store.base import Retention
from kubemin.store.redis.node import NodeStore
from kubemin.telemetry import log
from kubemin.telemetry.metrics import Histograms

ADVANCE_SLICE = 500
ADVANCE_SECONDS = 0.1  # between looks at what a crash left half done; whoever began it goes on with it meanwhile
LOOK_SECONDS = 0.1  # between looks at due times
SCHEDULES_SECONDS = 2.0  # between reads of the published schedules: other nodes publish too
FORGET_SECONDS = 3600.0
ORPHANS_SECONDS = 1.0  # between looks whether claims were lost


class FleetDuties:
    """`valid` says whether the term goes on: asked before each duty, because each may take its time."""

    def __init__(self, store: NodeStore, settings: Settings, valid: Callable[[], bool]) -> None:
        self._store = store
        self._valid = valid
        self._scheduler: Scheduler | None = None
        self._retention = Retention()
        self._lapsed = Every(max(settings.lock.ttl / 15, 0.2))
        self._advance = Every(ADVANCE_SECONDS)
        self._promotion = Every(LOOK_SECONDS)
        self._slot = Every(LOOK_SECONDS)
        self._schedules = Every(SCHEDULES_SECONDS)
        self._prune = Every(prune.PERIOD)
        self.configure(settings)
        self._forget = Every(FORGET_SECONDS)
        self._orphans = Every(ORPHANS_SECONDS)
        self.seconds = Histograms()  # that duties took, by name
        self._duties: tuple[tuple[str, Every, Callable[[], None]], ...] = (
            ("advance", self._advance, self._go_on),
            ("promote", self._promotion, self._promote),
            ("schedule", self._slot, self._fire),
            ("recover", self._lapsed, self._recover),
            ("orphans", self._orphans, self._take_back),
            ("prune", self._prune, self._drop),
            ("forget", self._forget, store.forget_long_gone),
        )

    def configure(self, settings: Settings) -> None:
        """At the start, and after a reload: the retention is looked at at once."""
        self._prune.soon()
        kept = settings.retention
        self._retention = Retention(days=kept.days, runs=kept.runs, minimum=kept.min)

    def left(self) -> float:
        return min(self._advance.left(), self._promotion.left(), self._slot.left(), self._lapsed.left())

    def turn(self) -> None:
        for name, every, duty in self._duties:
            if every.due():
                if not self._valid():
                    return
                began = clock.monotonic()
                faults.point(f"leader.{name}")
                duty()
                self.seconds.observe((name,), clock.monotonic() - began)

    def invalidate(self) -> None:
        """A new term, new files: read the schedules again."""
        self._scheduler = None

    def _go_on(self) -> None:
        if self._store.advance(ADVANCE_SLICE):
            self._advance.soon()

    def _promote(self) -> None:
        if promote.promote_due(self._store, self._store.now()):
            self._promotion.soon()

    def _fire(self) -> None:
        now = self._store.now()
        if self._scheduler is None:
            self._scheduler = Scheduler(self._store)
        elif self._schedules.due():
            self._scheduler.reload()
        slot = self._scheduler.next_due()
        if slot is not None and slot <= now and self._valid():
            self._scheduler.fire_due(now)
        elif slot is not None:
            self._slot.soon((slot - now) / SECOND)

    def _recover(self) -> None:
        count, _ = self._store.recover_lapsed()
        if count:
            log.warning("tasks of a lost node were queued again", tasks=count)

    def _take_back(self) -> None:
        count, more = self._store.take_back_orphans()
        if count:
            log.warning("tasks whose claims somebody deleted were queued again", tasks=count)
        if more:
            self._orphans.soon(ADVANCE_SECONDS)

    def _drop(self) -> None:
        if prune.prune_slice(self._store, self._retention):
            self._prune.soon(ADVANCE_SECONDS)
