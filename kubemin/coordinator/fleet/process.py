"""The loop of a fleet's coordinator: read what came, then one step after the other, each bounded.

```
while not finishing:  wait → collect → settle deaths → batches → beat → renew locks → rescue → the leader's office
```

Redis away is ordinary: the loop goes on, what was told waits in `Pending`, workers keep their results; the outage is
told once at its start and once at its end. If this process dies at any instruction, its successor gets the living
workers and the recent deaths from the supervisor, claims from Redis, and goes on.
"""

from __future__ import annotations

import contextlib
import os
import select
import time

from kubemin import clock, faults
from kubemin.channel import WorkerMode
from kubemin.clock import boottime
from kubemin.config import Settings
from kubemin.coordinator.control import Control, Died
from kubemin.coordinator.exposition import serve
from kubemin.coordinator.fleet.batches import Batches
from kubemin.coordinator.fleet.carrying import Carrier
from kubemin.coordinator.fleet.gauges import Gauges
from kubemin.coordinator.fleet.locks import Locks
from kubemin.coordinator.fleet.membership import Membership, Started
from kubemin.coordinator.fleet.office import Office
from kubemin.coordinator.fleet.outages import SHORTEST_PAUSE, Outages
from kubemin.coordinator.fleet.refusals import Refusals
from kubemin.coordinator.fleet.rescues import Rescues
from kubemin.coordinator.fleet.timing import Every
from kubemin.coordinator.fleet.versions import Newer
from kubemin.coordinator.fleet.workers import FleetPool
from kubemin.coordinator.history import History, begin_tally
from kubemin.coordinator.link import Link
from kubemin.coordinator.pending import Pending
from kubemin.coordinator.publishing import take_over, was_checked
from kubemin.errors import Invalid, KubeminError, NoRoom, StoreUnavailable
from kubemin.modes import Mode
from kubemin.proctitle import set_title
from kubemin.pulse import WORK
from kubemin.scoreboard import Scoreboard
from kubemin.store.redis.identity import OTHER_FLEET
from kubemin.store.redis.node import WORKER_NAME, NodeRecord, NodeStore
from kubemin.store.redis.opening import trust
from kubemin.store.telling import tell
from kubemin.telemetry import log

LONGEST_WAIT = 1.0
RECORD_SECONDS = 1.0  # between heartbeats in the scoreboard
CALLS_SECONDS = 0.5  # between looks for calls of onFailure that a killed worker has left
LOOK_SECONDS = 2.0  # between looks whether Redis is still this fleet's
# For what is pending at the end; a successor does the rest. The supervisor waits 10 s, and an exchange that was under
# way may have taken 5 of them.
FINISH_SECONDS = 2.5
HURRIED_SECONDS = 1.5  # for a reply in that time
RELEASE_SECONDS = 0.5  # for the lease to be given back, at least


class FleetCoordinator:
    """One life of the coordinator process. `predecessor`: what a dead daemon's workers had started."""

    def __init__(
        self,
        instance: str,
        settings: Settings,
        board: Scoreboard,
        control: Control,
        store: NodeStore,
        predecessor: Started,
    ) -> None:
        self.instance, self.settings, self.board = instance, settings, board
        self.control, self.store = control, store
        store.client.beat = board.pulse.beat
        self.poller = select.epoll()
        self.poller.register(control.fileno(), select.EPOLLIN)
        self.pool = FleetPool(instance, self.poller)
        self.pending = Pending()
        self.membership = Membership(store, settings, instance, predecessor)
        self.locks = Locks(store, board, self.pool, settings.lock.ttl, settings.lock.renew, self._kill)
        self.batches = Batches(store, board, self.pool, settings.runtime_dir)
        self.rescues = Rescues(store, settings.queues)
        self.newer = Newer(store)
        self.office = Office(store, settings)
        self.carrier = Carrier(settings, instance, store, board, predecessor)
        self.joined = False
        self.paused = self.unblocking = self.publishing = self.astray = False
        self._stopping = False
        self.outages = Outages(store.client)
        self.refusals = Refusals()
        self._record, self._look = Every(RECORD_SECONDS), Every(LOOK_SECONDS, jitter=0.1)
        self._calls = Every(CALLS_SECONDS, jitter=0.2)
        self.tally = begin_tally(settings, board.read_coordinator())
        self.history = History()
        self._title = ""

    # --- start --------------------------------------------------------------------------------------------------------

    def attach(self) -> None:
        """Until the supervisor has named all that live."""
        self.control.attach(self._collect)
        gauges = Gauges(self.settings, self.outages)
        sources = (self.office.values, self.locks.values, self.outages.values, gauges.values)
        serve(self.settings, self.board, self.tally, gauges.store, *sources)

    def join(self) -> None:
        """Become a member: name, predecessors, files; then workers may claim. Raises NotAdmitted, StoreUnavailable."""
        self.membership.enter(self._node_record, lambda: self.batches.deliver_left_behind(self.pool.owners()))
        self.carrier.open(self.pool, self.pending)  # before anything that was reported is settled
        self._settle()
        requeued = self.store.recover(self.pool.owners(), {})
        self._tell()
        if requeued:
            log.info("tasks of dead workers were queued again", tasks=requeued)
        for link in self.pool.links:
            link.hello()
        self._publish(was_checked(self.settings))
        self.joined = True
        self._tell_workers()
        self.office.open()
        self._write_record()
        self.control.send(type="ready")

    # --- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        while not self.control.finishing:
            self._turn()
            self._collect(self._timeout())
        self._finish()

    def _timeout(self) -> float:
        if self.outages.reason:
            return self.outages.left()
        if not self.joined or self.pending:
            return 0.0
        steps = (
            self.batches.left(),
            self.locks.left(),
            self.rescues.left(),
            self.office.left(),
            self.membership.left(),
            self.carrier.left(),
            self._record.left(),
        )
        return min(LONGEST_WAIT, *steps)

    def _turn(self) -> None:
        self.office.campaign.beat()
        if not self.outages.left():
            try:
                self._steps()
            except StoreUnavailable as exc:
                if isinstance(exc, NoRoom) and not self.joined:
                    raise  # the disk of this node, not Redis: a start that is tried again
                self._cannot_go_on(exc)
            else:
                self._answers()
        if self._record.due():
            self.history.measure(self.tally.totals, clock.monotonic())
            self._write_record()
        self.control.flush()

    def _steps(self) -> None:
        if not self.joined:
            self.join()
        first = (self._recognise, self._settle, self._take_back, self._carry, self._renew)
        for step in (*first, self._beat, self._rescue, self._wishes, self._lead):
            self.refusals.guard(step)
        self._tell()

    def _recognise(self) -> None:
        """After an outage, and now and then: this may be another server than before, or have lost what it knew."""
        if (self.outages.reason or self._look.due()) and self.membership.recognise():
            self.publishing = True
            self.membership.beat_soon()

    def _take_back(self) -> None:
        self.batches.turn()
        self._tell_workers()  # what was received with the tickets and was not ours

    def _carry(self) -> None:
        self.carrier.turn(self.pool, self.pending)

    def _renew(self) -> None:
        self.locks.leave_out(self.carrier.tasks)
        self.locks.turn()

    def _beat(self) -> None:
        self.membership.turn(self._node_record)

    def _rescue(self) -> None:
        self.rescues.turn()
        self.newer.turn()
        if self._calls.due():
            self.store.pay_calls()

    def _wishes(self) -> None:
        if self.publishing:
            self._publish()
        if self.unblocking:
            self.store.unblock(f"{WORKER_NAME}{self.instance}:")
            self.unblocking = False

    def _lead(self) -> None:
        if not self._stopping:
            led = self.office.leading
            self.office.turn()
            if led != self.office.leading:
                self.membership.beat_soon()
                self._record.soon()

    # --- what came ----------------------------------------------------------------------------------------------------

    def _collect(self, timeout: float) -> None:
        self.board.pulse.beat(timeout + WORK)
        for fd, _ in self.poller.poll(timeout):
            if self.pool.owns(fd):
                self.pool.read(fd, self.pending)
            elif fd == self.control.fileno():
                self.control.obey(self)
        if self.pool.cut_off():
            self.rescues.ask()
        self._add_counts()

    # --- what the supervisor tells (control.Orders) -------------------------------------------------------------------

    def worker_lives(self, slot: int, incarnation: int, pid: int, fds: list[int]) -> None:
        self.pool.attach(slot, incarnation, pid, fds)
        self._tell_workers()

    def worker_died(self, died: Died) -> None:
        self.pool.bury(died, self.pending)
        self.rescues.ask()

    def reload(self) -> None:
        self.publishing = True

    def drain(self, on: bool) -> None:
        self._pause(on)

    def stop(self) -> None:
        self._stopping = True
        self._pause(True)
        self.office.close(0.0)

    def _pause(self, on: bool) -> None:
        self.paused = on or self._stopping
        self.unblocking = on
        self.membership.beat_soon()
        self._tell_workers()

    def _tell_workers(self) -> None:
        if self.joined:
            self.pool.tell_mode(WorkerMode(distributed=True, paused=self.paused or self.astray))

    # --- steps --------------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Deaths: what was left on disk counts first, then what a dead worker held goes back or is charged."""
        if not self.pending:
            return
        faults.point("coordinator.collected")
        self.carrier.settle(self.pending)
        self.membership.deliver()
        self.batches.bring(self.pending)
        self.pending.apply(self.store)
        self.batches.forget([owner for owner, _ in self.pending.deaths])
        self.pending.clear()
        if not self.carrier.unsettled:
            self.pool.acknowledge()
        self.rescues.ask()

    def _publish(self, checked: bool = True) -> None:
        self._take_keys()
        if checked:
            self.settings = take_over(self.store, self.settings, self.control)
        if checked and self._take_keys():  # of another file
            self.settings = take_over(self.store, self.settings, self.control)
        self.rescues.queues = self.settings.queues
        self.store.on_failure = self.settings.on_failure
        self.office.duties.configure(self.settings)
        self.office.duties.invalidate()
        self.publishing = False

    def _take_keys(self) -> bool:
        """The signing keys as the file has them now; whether they are others."""
        try:
            changed = trust(self.store, self.settings)
        except Invalid as exc:
            log.error("the signing keys cannot be read; the old ones stay", reason=str(exc))
            return False
        if changed:
            log.info("signing keys were read", keys=" ".join(self.store.signer.ids if self.store.signer else ()))
            self.membership.beat_soon()
        return changed

    def _tell(self) -> None:
        changes = self.store.changes()
        if not changes:
            return
        self.tally.note(changes)
        tell(changes)

    def _add_counts(self) -> None:
        for link, packet in self.pool.counts():
            try:
                self.tally.add(packet)
            except ValueError as exc:
                log.warning("a packet that cannot be read was dropped", worker=link.slot, error=str(exc))

    def _kill(self, link: Link, token: int, reason: str) -> None:
        self.control.kill(link.owner, token, reason)

    def _cannot_go_on(self, exc: StoreUnavailable) -> None:
        self._go_astray(exc.code == OTHER_FLEET)
        self.outages.goes_on(exc, LOOK_SECONDS if self.astray else SHORTEST_PAUSE)

    def _answers(self) -> None:
        if self.outages.ends():
            self._go_astray(False)
            self.publishing = True  # a server that came back without its data has no definitions either
            self.rescues.ask()

    def _go_astray(self, astray: bool) -> None:
        """The server is another fleet's: workers take nothing from it meanwhile."""
        if astray != self.astray:
            self.astray = astray
            self._tell_workers()

    # --- the scoreboard -----------------------------------------------------------------------------------------------

    def _node_record(self) -> NodeRecord:
        busy = sum(1 for _ in self.pool.running(self.board))
        return self.membership.record(
            capacity=len(self.pool.owners()),
            busy=busy,
            term=self.office.term(),
            drained=self.paused,
            failures=self.history.failures(),
        )

    def _write_record(self) -> None:
        title = f"kubemin: coordinator [{'leader' if self.office.leading else 'follower'}]"
        if title != self._title:
            self._title = title
            set_title(title)
        self.board.write_coordinator(
            pid=os.getpid(),
            mode=(Mode.CARRYING if self.carrier.active else Mode.DISTRIBUTED).value,
            leader=self.office.leader,
            epoch=self.office.epoch,
            term_until=boottime() + self.office.campaign.term.remaining() if self.office.leading else 0.0,
            tick=boottime(),
            ready=self.joined,
            finished=self.tally.totals.finished,
            failed=self.tally.totals.failed,
            requeued=self.tally.totals.requeued,
            recoveries=self.tally.totals.recovered,
            rate=self.history.rate,
            redis="down" if self.outages.reason else "up",
            error=self.outages.reason or self.refusals.reason,
        )

    # --- the end ------------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """All workers are gone: what is known of them is told before this process ends, if Redis answers."""
        self.store.client.hurry(HURRIED_SECONDS)
        deadline = clock.monotonic() + FINISH_SECONDS
        while True:
            try:
                self._settle()
                if self.joined and not self.store.running():
                    self.membership.leave()
                break
            except StoreUnavailable as exc:
                if clock.monotonic() > deadline:
                    log.warning("leaving without Redis; the next start takes back what was held", reason=str(exc))
                    break
                time.sleep(max(self.store.client.retry_in(), SHORTEST_PAUSE))
        tell(self.store.changes())
        self.office.close(max(RELEASE_SECONDS, deadline - clock.monotonic()))
        self.carrier.close()
        with contextlib.suppress(KubeminError, OSError):
            self.store.close()
