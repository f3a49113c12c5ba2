"""What is unfinished in this node's own SQLite when it is in the fleet: it moves into Redis, or ends here.

A run of which nothing was started moves: submitted under its own id, then forgotten here, so that a crash in between
makes it arrive once. A run that has begun has attempts, outputs and tokens in this store: its tasks are handed to idle
workers through their channels, as before, until it has ended. The mode is `carrying` for so long.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

from kubemin import faults
from kubemin.clock import wall
from kubemin.config import Settings
from kubemin.coordinator.fleet.timing import Every
from kubemin.coordinator.fleet.workers import FleetPool
from kubemin.coordinator.pending import Pending
from kubemin.leader import promote
from kubemin.model.records import Claim, Owner, Rejection, Submission
from kubemin.scoreboard import Scoreboard, SlotState, boottime
from kubemin.store.base import Blame
from kubemin.store.redis.node import NodeStore
from kubemin.store.sqlite import SqliteStore
from kubemin.store.sqlite.moving import Moving
from kubemin.store.telling import tell
from kubemin.telemetry import log

AT_ONCE = 500  # runs moved in one go
LOOK_SECONDS = 0.05  # between hand-outs
COUNT_SECONDS = 1.0  # between looks whether all have ended
STUCK_SECONDS = 0.2  # that a task may stand in the channel of a worker that took one of the fleet's meanwhile


class Carrier:
    """`tasks`: what workers execute for this node's own store, as (run, idx)."""

    def __init__(self, settings: Settings, instance: str, target: NodeStore, board: Scoreboard) -> None:
        self._settings, self._instance, self._target, self._board = settings, instance, target, board
        self._path = os.path.join(settings.state_dir, "kubemin.db")
        self._store: SqliteStore | None = None
        self._look, self._count = Every(LOOK_SECONDS), Every(COUNT_SECONDS)
        self.tasks: set[tuple[str, int]] = set()

    @property
    def active(self) -> bool:
        return self._store is not None

    def open(self, live: Sequence[Owner]) -> None:
        """Move what can be moved. Raises StoreUnavailable; what was moved by then has been moved."""
        if self.active or not os.path.exists(self._path):
            return
        store = self._make()
        try:
            store.recover(live, {})
            while store.advance():
                pass
            moved = self._move(Moving(store))
            left = Moving(store).unfinished()
        finally:
            store.close()
        if moved or left:
            log.info("runs of this machine's own store move into the fleet", moved=moved, end_here=left)
        if left:
            self._store = self._make()
            self._note_running()

    def turn(self, pool: FleetPool, pending: Pending, paused: bool) -> None:
        """Hand out what is ready to workers that are idle, and take back what one of them cannot begin."""
        if self._store is None or not self._look.due():
            return
        self._take_back_stuck(pool, pending)
        with self._store.group():
            self._store.advance()
            promote.promote_due(self._store, wall())
            grants = [] if paused else self._claim(self._store, pool)
        for owner, claims in grants:
            link = pool.link(owner)
            if link is not None:
                link.hand(claims)
        if grants:
            self._note_running()
        tell(self._store.changes())
        pool.end(self._store.stops(), self._board)
        if self._count.due() and not Moving(self._store).unfinished():
            self.close()
            log.info("all runs of this machine's own store have moved or ended")

    def settle(self, pending: Pending) -> None:
        """What workers told through their channels is this store's. Left in `pending` are deaths, and what a burial
        said of them: nobody but a living worker itself tells the fleet of its tasks."""
        dead = {owner for owner, _ in pending.deaths}
        left = {
            owner: [one for one in outcomes if one.state is None and (one.run, one.idx) not in self.tasks]
            for owner, outcomes in pending.outcomes.items()
            if owner in dead
        }
        if self._store is not None:
            self._settle_here(self._store, pending)
        pending.outcomes, pending.returned = left, {}

    def _settle_here(self, store: SqliteStore, pending: Pending) -> None:
        with store.group():
            for owner, outcomes in pending.outcomes.items():
                store.finish(owner, [one for one in outcomes if (one.run, one.idx) in self.tasks])
            for owner, claims in pending.returned.items():
                store.give_back(owner, claims)
            for owner, blame in pending.deaths:
                store.lose(owner, self._ours(blame))
        self._note_running()
        tell(store.changes())

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
        self._store = None
        self.tasks = set()

    # --- moving -------------------------------------------------------------------------------------------------------

    def _move(self, moving: Moving) -> int:
        count, known, refused = 0, set[str](), set[str]()
        while batch := [one for one in moving.unstarted(AT_ONCE + len(refused)) if one.id not in refused]:
            for digest in {one.definition for one in batch if one.definition} - known:
                definition = moving.definition(digest)
                if definition is not None:
                    self._target.define([definition])
                known.add(digest)
            arrived = self._submit(batch)
            faults.point("carrier.submitted")
            moving.moved(arrived)
            count += len(arrived)
            refused |= {one.id for one in batch} - {one.id for one in arrived}
        return count

    def _submit(self, batch: Sequence[Submission]) -> list[Submission]:
        """Those that are in the fleet now. A key that another run has there is given up, the run is not."""
        arrived = []
        for one, answer in zip(batch, self._target.submit(batch), strict=True):
            if not isinstance(answer, Rejection) and answer.id == one.id:
                arrived.append(one)
                continue
            log.warning("the key of a run that moves into the fleet is another's there", run=one.id, key=one.key)
            again = self._target.submit([msgspec.structs.replace(one, key=None)])[0]
            if isinstance(again, Rejection):
                log.error("a run cannot move into the fleet; it ends here", run=one.id, reason=again.message)
            else:
                arrived.append(one)
        return arrived

    # --- what ends here -----------------------------------------------------------------------------------------------

    def _make(self) -> SqliteStore:
        return SqliteStore(
            self._path,
            instance=self._instance,
            node=self._settings.node_id,
            task_timeout=self._settings.task_timeout,
        )

    def _note_running(self) -> None:
        assert self._store is not None
        self.tasks = {(run, idx) for _, run, idx, _ in self._store.running()}

    def _claim(self, store: SqliteStore, pool: FleetPool) -> list[tuple[Owner, list[Claim]]]:
        grants = []
        for link in pool.links:
            record = self._board.read_slot(link.slot)
            idle = record is not None and record.pid == link.pid and record.state is SlotState.IDLE
            if not idle or link.held:
                continue
            claims = store.claim(link.owner, self._settings.queues, 1)
            if not claims:
                break
            grants.append((link.owner, claims))
        return grants

    def _take_back_stuck(self, pool: FleetPool, pending: Pending) -> None:
        now = boottime()
        for link, record in pool.running(self._board):
            if link.held and record.token not in link.held and now > record.started + STUCK_SECONDS:
                pending.give_back(link.owner, link.take_back())

    def _ours(self, blame: Blame | None) -> Blame | None:
        return blame if blame is not None and (blame.run, blame.idx) in self.tasks else None
