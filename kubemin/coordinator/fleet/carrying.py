"""The runs of this node's own SQLite when it is in the fleet: they move there, each as soon as none of its tasks runs.

Nothing is handed out from here any more. What workers still execute for this store is settled here; between two tasks
the run moves (`carriage.py`), and goes on wherever the fleet has a free worker. The mode is `carrying` until all have
moved or ended. Ended runs stay in the file, and can be looked at on this machine.

A disk that fails does not take the node out of the fleet: this store's own errors are told once, what was reported for
it is kept and settled later.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence

from kubemin.clock import wall
from kubemin.config import Settings
from kubemin.coordinator.fleet.carriage import Carriage
from kubemin.coordinator.fleet.timing import Every
from kubemin.coordinator.fleet.workers import FleetPool
from kubemin.coordinator.pending import Pending
from kubemin.errors import NoRoom, Refused, StoreUnavailable
from kubemin.leader import promote
from kubemin.modes import Mode
from kubemin.scoreboard import Scoreboard
from kubemin.store import failhook
from kubemin.store.base import Blame
from kubemin.store.redis.node import NodeStore
from kubemin.store.sqlite.moving import Moving
from kubemin.store.sqlite.store import SqliteStore
from kubemin.store.telling import tell
from kubemin.telemetry import log

LOOK_SECONDS = 0.25  # between looks for what can move now; after a report at once
LEFT_SECONDS = 1.0  # between looks whether anything is left
WISH_SECONDS = 0.25  # between looks whether a run that is still here is to be cancelled
FAILED_SECONDS = 1.0  # before this store is tried again
ADVANCE_SLICE = 500  # records a step: unpacking batches and graphs goes before moving them


class Carrier:
    """`tasks`: what workers execute for this node's own store, as (run, idx)."""

    def __init__(
        self,
        settings: Settings,
        instance: str,
        target: NodeStore,
        board: Scoreboard,
        predecessor: Sequence[tuple[str, int, int]],
    ) -> None:
        self._settings, self._instance, self._target, self._board = settings, instance, target, board
        self._predecessor = predecessor
        self._path = os.path.join(settings.state_dir, "kubemin.db")
        self._here = False  # there is such a store, and not all of it has moved or ended
        self._store: SqliteStore | None = None  # None: not opened yet
        self._look, self._wishes, self._count = Every(LOOK_SECONDS), Every(WISH_SECONDS), Every(LEFT_SECONDS)
        self._pending = Pending()  # told by workers, not yet in this store
        self._expected: set[str] = set()  # runs of which the fleet was told that they will come
        self._busy = False
        self._failure = ""
        self.tasks: set[tuple[str, int]] = set()

    @property
    def active(self) -> bool:
        return self._here

    @property
    def unsettled(self) -> bool:
        """Workers are not to be told that what they reported is kept."""
        return bool(self._pending)

    def left(self) -> float:
        """Seconds until `turn` has something to do."""
        if not self._here:
            return float("inf")
        return 0.0 if self._busy else self._look.left()

    def open(self, pool: FleetPool, pending: Pending) -> None:
        """Take note of what is here, and take back what workers have not begun. Nothing moves yet."""
        if not self._here and os.path.exists(self._path):
            self._here = True
            self._guarded(lambda: self._open(pool, pending))

    def turn(self, pool: FleetPool, pending: Pending) -> None:
        """One step of the move. Raises StoreUnavailable when the fleet's store is."""
        if not self._here or not (self._busy or self._look.due()):
            return
        pool.release_never_handed(self._board, pending)
        if self._store is None:
            self._guarded(lambda: self._open(pool, pending))
        else:
            self._busy = self._guarded(lambda: self._step(pool))

    def settle(self, pending: Pending) -> None:
        """What workers told through their channels is this store's. Left in `pending` are deaths, and what a burial
        said of them: nobody but a living worker itself tells the fleet of its tasks."""
        ours, theirs = self._pending, Pending(deaths=pending.deaths)
        dead = {owner for owner, _ in pending.deaths}
        for owner, outcomes in pending.outcomes.items():
            ours.report(owner, outcomes)
            put_back = [one for one in outcomes if one.state is None and (one.run, one.idx) not in self.tasks]
            theirs.report(owner, put_back if owner in dead else [])
        for owner, claims in pending.returned.items():
            ours.give_back(owner, claims)
        ours.deaths += pending.deaths
        pending.outcomes, pending.returned = theirs.outcomes, {}
        if not self._here:
            ours.clear()
        elif self._store is not None:
            self._guarded(self._settle)
            self._busy = True

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
        self._store = None
        self._here = self._busy = False
        self.tasks = set()

    # --- steps --------------------------------------------------------------------------------------------------------

    def _guarded(self, step: Callable[[], bool | None]) -> bool:
        """An error of this node's own store concerns what is in it alone."""
        try:
            busy = bool(step())
        except StoreUnavailable as exc:
            if exc.code not in (StoreUnavailable.code, NoRoom.code):
                raise  # the fleet's
            if not self._failure:
                log.error("this machine's own store fails; its runs stay there until it can be used", reason=str(exc))
            self._failure = str(exc)
            self._look.put_off(FAILED_SECONDS)
            return False
        if self._failure:
            log.info("this machine's own store can be used again")
            self._failure = ""
        return busy

    def _open(self, pool: FleetPool, pending: Pending) -> None:
        store = SqliteStore(
            self._path,
            instance=self._instance,
            node=self._settings.node_id,
            task_timeout=self._settings.task_timeout,
            beat=self._board.pulse.beat,
        )
        store.enter(Mode.CARRYING)
        running, live = store.running(), set(pool.owners())
        dead = [(run, idx, token) for owner, run, idx, token in running if owner not in live]
        store.recover(pool.owners(), {(run, idx): token for run, idx, token in (self._predecessor or dead)})
        self._store, self._moving = store, Moving(store)
        self._carriage = Carriage(self._moving, self._target, self._settings.durability)
        pool.adopt(entry for entry in running if entry[0] in live)
        pool.take_back_all(pending)
        self._note_running()
        if left := self._moving.left():
            log.info("runs of this machine's own store move into the fleet", runs=left)

    def _step(self, pool: FleetPool) -> bool:
        """True: there is more to do at once."""
        assert self._store is not None
        self._settle()
        with self._store.group():
            unfinished = self._store.advance(ADVANCE_SLICE)
            promote.promote_due(self._store, wall())
        self._hear_wishes(self._store)
        self._tell(self._store)
        pool.end(self._store.stops(), self._board)
        moved = self._carriage.step()
        if not moved and not unfinished and not self.tasks and self._count.due() and not self._moving.left():
            self._all_done()
        return moved or unfinished

    def _all_done(self) -> None:
        assert self._store is not None
        self._target.arrivals.expect_no_more(self._settings.node_id)
        self._store.enter(Mode.DISTRIBUTED)
        self.close()
        if self._carriage.moved or self._expected:
            log.info("all runs of this machine's own store have moved or ended", moved=self._carriage.moved)

    def _settle(self) -> None:
        assert self._store is not None
        if not self._pending:
            return
        self._drop_repeats()
        with self._store.group():
            self._pending.apply(self._store)
        self._pending.clear()
        self._note_running()
        self._tell(self._store)

    def _drop_repeats(self) -> None:
        """What a worker tells again to a new coordinator may be of a run that has moved since."""
        for owner, outcomes in self._pending.outcomes.items():
            self._pending.outcomes[owner] = [one for one in outcomes if (one.run, one.idx) in self.tasks]
        self._pending.deaths = [(owner, self._ours(blame)) for owner, blame in self._pending.deaths]

    def _ours(self, blame: Blame | None) -> Blame | None:
        return blame if blame is not None and (blame.run, blame.idx) in self.tasks else None

    def _note_running(self) -> None:
        assert self._store is not None
        self.tasks = {(run, idx) for _, run, idx, _ in self._store.running()}

    def _hear_wishes(self, store: SqliteStore) -> None:
        """Of a run that a worker still has, the fleet knows that it will come; who cancels it there means this one."""
        runs = {run for run, _ in self.tasks}
        if runs - self._expected:
            self._target.arrivals.expect(runs - self._expected)
            self._expected |= runs
        if runs and self._wishes.due():
            for run in self._target.arrivals.cancelled(sorted(runs)):
                with contextlib.suppress(Refused):
                    store.cancel(run)

    def _tell(self, store: SqliteStore) -> None:
        changes = store.changes()
        tell(changes)
        failhook.submit_for(store, changes, self._settings, into=self._target)
