"""Batches of this node's workers: tasks that wait behind one that turns out long go back to Redis, and results that
wait for it are told.

While a worker runs batches (it says so, packet `B`), its scoreboard record is looked at every `LOOK_SECONDS`. One that
shows the same task at two looks is stalled: no task waits for longer than two looks behind another. What happens then:

1. The tickets in its channel are received. Who received a ticket owns the task: this never races a start.
2. The slot's record is read, and the scoreboard again. A worker claims nothing before it has told how its last task
   ended, and notes that a task has ended before it receives a ticket. So when the record still has the task of the
   first look, and the scoreboard shows it running, all that the record has was claimed before, and the worker can start
   nothing of it any more: what has a result in the outbox is told, all but the running one given back. Else only what
   was received is given back.

If this process dies after 1, claims are left that nobody will start. Its successor looks at every worker and does 2,
and the worker itself gives back what it cannot start when its task has ended; both are no-ops where it was done. A
worker that dies has its outbox told before its death is. The store takes a result once, whoever tells it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from kubemin import clock, faults
from kubemin.coordinator.fleet.timing import Every
from kubemin.coordinator.fleet.workers import FleetPool
from kubemin.coordinator.link import Link
from kubemin.coordinator.pending import Pending
from kubemin.model.records import Owner
from kubemin.outbox import drop, left_behind, path_of, read
from kubemin.scoreboard import Scoreboard, SlotState
from kubemin.store.redis.node import NodeStore
from kubemin.telemetry import log

LOOK_SECONDS = 0.006
WATCH_SECONDS = 1.0  # after a worker's last word that it runs batches

Task = tuple[str, int, int]  # run, idx, token


class Batches:
    def __init__(self, store: NodeStore, board: Scoreboard, pool: FleetPool, runtime_dir: str) -> None:
        self._store, self._board, self._pool, self._folder = store, board, pool, runtime_dir
        self._look = Every(LOOK_SECONDS)
        self._seen: dict[Owner, int] = {}  # the token that it ran at the last look
        self._done: dict[Owner, int] = {}  # and that everything behind was seen to
        self._ours: dict[Owner, list[Task]] = {}  # received and not given back

    def left(self) -> float:
        return self._look.left() if self._ours or any(self._watched()) else float("inf")

    def turn(self) -> None:
        if not self._look.due():
            return
        for link in list(self._watched()):
            self._look_at(link)
        self._give_back()

    def _watched(self) -> Iterable[Link]:
        since = clock.monotonic() - WATCH_SECONDS
        return (link for link in self._pool.links if link.batched > since)

    # --- a worker that is stalled -------------------------------------------------------------------------------------

    def _look_at(self, link: Link) -> None:
        owner, token = link.owner, self._running(link)
        stalled = token != 0 and token == self._seen.get(owner) and token != self._done.get(owner)
        self._seen[owner] = token
        if stalled:
            self._settle(link, token)
            self._done[owner] = token

    def _running(self, link: Link) -> int:
        record = self._board.read_slot(link.slot)
        there = record is not None and record.pid == link.pid and record.state is SlotState.RUNNING
        return record.token if record is not None and there else 0

    def _settle(self, link: Link, token: int) -> None:
        owner = link.owner
        if received := link.receive_tickets():
            faults.point("coordinator.received")
            self._ours.setdefault(owner, []).extend(received)
        held = [(run, idx, number) for _, run, idx, number in self._store.held(owner)]
        told, whole = read(path_of(self._folder, owner))
        if not whole or self._running(link) != token or all(number != token for _, _, number in held):
            return  # it has gone on
        ended = {outcome.token for outcome in told}
        self._ours[owner] = [task for task in held if task[2] != token and task[2] not in ended]
        if told:
            self._store.deliver(owner, told)

    def _give_back(self) -> None:
        for owner, tasks in list(self._ours.items()):
            if tasks:
                self._store.give_back(owner, tasks)
                log.debug("tasks behind a long one were given back", worker=owner.slot, tasks=len(tasks))
            del self._ours[owner]

    # --- the dead -----------------------------------------------------------------------------------------------------

    def bring(self, pending: Pending) -> None:
        """Results of workers whose deaths are to be told, before them."""
        for owner, _ in pending.deaths:
            pending.report(owner, read(path_of(self._folder, owner))[0])

    def forget(self, dead: Iterable[Owner]) -> None:
        """They are buried."""
        for owner in dead:
            drop(path_of(self._folder, owner))
            for known in (self._seen, self._done, self._ours):
                known.pop(owner, None)

    def deliver_left_behind(self, live: Collection[Owner]) -> None:
        """Of workers that died with their coordinator, or with an earlier daemon, whose lock we have."""
        for path, owner in left_behind(self._folder):
            if owner in live or self._was_forked(owner):
                continue
            outcomes, _ = read(path)
            if outcomes:
                self._store.finish(owner, outcomes)
                log.info("results of a dead worker were delivered", worker=owner.slot, tasks=len(outcomes))
            drop(path)

    def _was_forked(self, owner: Owner) -> bool:
        """A worker of this daemon is on the scoreboard, and has its outbox, before we read that it was forked."""
        if owner.instance != self._pool.instance:
            return False
        record = self._board.read_slot(owner.slot)
        return record is None or (record.incarnation == owner.incarnation and record.state is not SlotState.DEAD)
