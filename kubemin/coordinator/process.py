"""The coordinator's loop: read, apply in one transaction, commit, send.

```
while not finished:  wait → collect (no effects) → apply (one transaction) → publish (after the commit)
```

Who owns what: this process alone writes the store (the daemon holds the state lock). Links, waiters and pending input
are its memory, and all of it can be had again: claims from the store, reports from the workers, who keep them until
they are acknowledged, deaths from the supervisor. If it dies at any instruction, what was not committed was not sent.

A store that fails (disk full, read-only) undoes the transaction: clients are refused with the reason; reports and
deaths stay in `Pending` and are applied again, with a growing pause, until the store answers.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import time

from kubemin import clock, faults
from kubemin.channel import PacketConnection
from kubemin.clock import boottime
from kubemin.config import Settings
from kubemin.coordinator.control import Control, Died
from kubemin.coordinator.duties import Duties
from kubemin.coordinator.health import PAUSES, StoreHealth, cannot_start
from kubemin.coordinator.history import History, begin_tally
from kubemin.coordinator.pending import Pending
from kubemin.coordinator.pool import Grant, Pool
from kubemin.coordinator.publishing import take_over
from kubemin.coordinator.requests import carry_out
from kubemin.coordinator.server import Reply, Request, Server
from kubemin.coordinator.trimming import Trimmer
from kubemin.coordinator.waiters import Waiters
from kubemin.errors import KubeminError, StoreUnavailable
from kubemin.exits import EXIT_SWITCH
from kubemin.modes import RULES, Mode, in_fleet
from kubemin.pulse import WORK
from kubemin.scoreboard import Scoreboard
from kubemin.store import failhook
from kubemin.store.base import Change, Reader
from kubemin.store.sqlite.moving import Moving
from kubemin.store.sqlite.reader import SqliteReader
from kubemin.store.sqlite.store import SqliteStore
from kubemin.store.telling import tell
from kubemin.telemetry import log

TICK = 5.0  # seconds: the longest sleep, and the heartbeat in the scoreboard
STALL_LOOK = 0.01  # seconds between looks at workers that have tasks queued
STOP_LOOK = 0.5  # seconds between looks at tasks that were asked to end
MERGE_SECONDS = 0.0004  # a commit that nobody waits for lets this much more come in
YOUNG_OBJECTS = 10_000  # between two looks of the collector: thousands of claims live a moment, and none is in a cycle


class _Poisoned(Exception):
    """One request made the store raise what it should not: the others are applied without it."""

    def __init__(self, index: int, cause: Exception) -> None:
        super().__init__(str(cause))
        self.index = index
        self.cause = cause


class Coordinator:
    """One life of the coordinator process. `switch`: a descriptor that becomes readable when Redis answers."""

    def __init__(
        self,
        instance: str,
        settings: Settings,
        board: Scoreboard,
        control: PacketConnection,
        mode: Mode = Mode.LOCAL,
        switch: int | None = None,
    ) -> None:
        self.settings = settings
        self.mode = mode
        self.board = board
        self.store = SqliteStore(
            os.path.join(settings.state_dir, "kubemin.db"),
            instance=instance,
            node=settings.node_id,
            task_timeout=settings.task_timeout,
            beat=board.pulse.beat,
        )
        self.poller = select.epoll()
        self.control = Control(control)
        self.poller.register(control.fileno(), select.EPOLLIN)
        self.pool = Pool(instance, self.poller)
        self.switching = False
        self._switch = switch
        if switch is not None:
            self.poller.register(switch, select.EPOLLIN)
        self.duties = Duties(self.store, settings, schedules=RULES[mode].schedules)
        self.trimmer = Trimmer(self.store)
        self.waiters = Waiters()
        self.pending = Pending()
        self.requests: list[tuple[Request, Reply]] = []
        self.tally = begin_tally(settings, board.read_coordinator())
        self.meter = self.tally.meter  # what /metrics tells, when somebody may ask
        self.history = History()
        self._metrics_reader: Reader | None = None
        self.handing = True
        self._quiet_only = False
        self._dirty = True  # the next round is a transaction whatever came in
        self._stopping = False  # something running has to be stopped
        self._health = StoreHealth()
        self._beat = 0.0
        self._taking_over = False

    # --- start --------------------------------------------------------------------------------------------------------

    def start(self, predecessor: list[tuple[str, int, int]]) -> None:
        """Open for work: who lives, what they hold, what the dead left. Raises StoreUnavailable."""
        self.control.attach(self._collect)
        self._recover(predecessor)
        self.server = Server(os.path.join(self.settings.runtime_dir, "kubemin.sock"), self.poller)
        self._write_record(ready=True)
        self._serve_metrics()
        self.control.send(type="ready")
        self.store.reserve_log()

    def _serve_metrics(self) -> None:
        if self.settings.http_addr:
            from kubemin.coordinator.exposition import serve

            serve(self.settings, self.board, self.tally, self._reader)

    def _reader(self) -> Reader:
        """Of the thread that serves metrics."""
        if self._metrics_reader is None:
            self._metrics_reader = SqliteReader(os.path.join(self.settings.state_dir, "kubemin.db"))
        return self._metrics_reader

    def _recover(self, predecessor: list[tuple[str, int, int]]) -> None:
        live = self.pool.owners()
        self.store.enter(Mode.LOCAL)
        running = self.store.running()
        dead = [(run, idx, token) for owner, run, idx, token in running if owner not in set(live)]
        # Without the dead instance's scoreboard (a reboot) every claimed task may have been started.
        started = {(run, idx): token for run, idx, token in (predecessor or dead)}
        if count := self.store.recover(live, started):
            log.info("tasks of a dead predecessor were queued again", tasks=count)
        self.pool.adopt(entry for entry in running if entry[0] in set(live))
        if carried := Moving(self.store).carrying():
            log.warning("runs were on their way into the fleet; they go on when this node reaches it", runs=carried)

    # --- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        while not (self.control.finishing or self.switching):
            self._collect(self._timeout())
            self._apply_and_publish()
            self._heartbeat()
            self.trimmer.trim_when_idle()
        self._finish()

    def _timeout(self) -> float:
        if self._health.failing:
            return self._health.pause
        timeout = min(TICK, self.duties.seconds_to_next(), self.trimmer.seconds_to_next())
        if self.pool.any_queued_behind():
            timeout = min(timeout, STALL_LOOK)
        if self._dirty:
            timeout = 0.0
        return min(timeout, STOP_LOOK) if self._stopping else timeout

    def _collect(self, timeout: float) -> None:
        """Read everything that has come in; no effects on the store."""
        self.board.pulse.beat(timeout + WORK)
        self._quiet_only = True
        self._read(self.poller.poll(timeout))
        if self._quiet_only and self.pending and not self._health.failing:
            select.select([self.poller.fileno()], [], [], MERGE_SECONDS)
            self._read(self.poller.poll(0))
        self.pool.take_back_stalled(self.pending)

    def _read(self, ready: list[tuple[int, int]]) -> None:
        for fd, happened in ready:
            if self.pool.owns(fd):
                self._quiet_only &= self.pool.read(fd, self.pending)
                continue
            self._quiet_only = False
            if fd == self.control.fileno():
                self.control.obey(self)
            elif fd == self._switch:
                self._hand_out_again(False)
                self.switching = True
            else:
                self.requests += self.server.on_event(fd, happened)

    def _apply_and_publish(self) -> None:
        replies = [reply for _, reply in self.requests]
        touched = bool(self.pending or self.requests)
        if touched or self._dirty or self.duties.due(touched):
            try:
                grants, changes = self._apply_without_poison(touched)
            except StoreUnavailable as exc:
                self._store_failed(exc)
            else:
                self._health.works()
                self.trimmer.worked()
                self.pending.clear()
                self._publish(grants, changes)
        self.requests.clear()
        self.server.flush(replies)
        if self._stopping:
            self._stop_what_has_to_stop()

    def _apply_without_poison(self, touched: bool) -> tuple[list[Grant], list[Change]]:
        while True:
            try:
                return self._apply(touched)
            except _Poisoned as exc:
                request, reply = self.requests.pop(exc.index)
                log.error("a request failed; this is a bug", op=request.op, reason=repr(exc.cause))
                reply.error(KubeminError(f"{request.op} failed inside the daemon: {exc.cause!r}", code="internal"))
                self._forget_transaction()

    def _apply(self, touched: bool) -> tuple[list[Grant], list[Change]]:
        """One transaction: nothing of it leaves the process before it is committed."""
        with self.store.group():
            self.pending.apply(self.store)
            for index, (request, reply) in enumerate(self.requests):
                self._carry_out(index, request, reply)
            if self.duties.due(touched):
                self.duties.run()
            changes = self.store.changes()
            failhook.submit_for(self.store, changes, self.settings)
            grants = self.pool.claim(self.store, self.settings.queues) if self.handing else []
            faults.point("coordinator.applied")
            applied = clock.monotonic()
        if self.meter is not None:
            self.meter.commits.observe(clock.monotonic() - applied)
        faults.point("coordinator.committed")
        return grants, changes + self.store.changes()

    def _forget_transaction(self) -> None:
        """It was undone: what was remembered of it is not so."""
        self.store.changes()
        self.duties.invalidate()

    def _carry_out(self, index: int, request: Request, reply: Reply) -> None:
        try:
            if request.op == "wait":
                self.waiters.add(self.store, request.runs, reply)
            else:
                reply.ok(carry_out(self.store, request))
                self._stopping |= request.op == "cancel"
        except StoreUnavailable:
            raise
        except KubeminError as exc:
            reply.error(exc)
        except Exception as exc:
            raise _Poisoned(index, exc) from exc

    def _publish(self, grants: list[Grant], changes: list[Change]) -> None:
        """After the commit: tasks first, they are what somebody waits for."""
        for link, claims in grants:
            link.hand(claims)
        faults.point("coordinator.handed")
        self.pool.acknowledge()
        self._dirty = False
        self._wake_waiters(changes)
        tell(changes)
        self.tally.note(changes)

    def _wake_waiters(self, changes: list[Change]) -> None:
        done: list[Reply] = []
        for change in changes:
            self._stopping |= change.event == "cancelling"
            if not change.step and change.event in ("finished", "cancelled"):
                done += self.waiters.settle(change)
        if done:
            self.server.flush(done)

    def _stop_what_has_to_stop(self) -> None:
        stops = self.store.stops()
        self._stopping = bool(stops)
        self.pool.stop(stops, self.pending)
        for link, token in self.pool.overdue():
            self.control.kill(link.owner, token, "cancelled")

    def _store_failed(self, exc: StoreUnavailable) -> None:
        self._health.fails(exc)
        if self.meter is not None:
            self.meter.store_failures += 1
        self._forget_transaction()
        for _, reply in self.requests:
            reply.error(exc)

    # --- what the supervisor tells (control.Orders) -------------------------------------------------------------------

    def worker_lives(self, slot: int, incarnation: int, pid: int, fds: list[int]) -> None:
        self.pool.attach(slot, incarnation, pid, fds)
        self._dirty = True

    def worker_died(self, died: Died) -> None:
        self.pool.bury(died, self.pending)

    def reload(self) -> None:
        try:
            self.settings = take_over(self.store, self.settings, self.control)
        except StoreUnavailable as exc:
            self._store_failed(exc)
            self._taking_over = True  # again with the next heartbeat
            return
        self._taking_over = False
        self.duties.configure(self.settings)
        self.duties.invalidate()
        self._dirty = True

    def drain(self, on: bool) -> None:
        self._hand_out_again(not on)

    def stop(self) -> None:
        self._hand_out_again(False)

    def _hand_out_again(self, handing: bool) -> None:
        self.handing = handing
        self._dirty = True
        if not handing:
            self.pool.take_back_all(self.pending)

    # --- the rest -----------------------------------------------------------------------------------------------------

    def _heartbeat(self) -> None:
        now = clock.monotonic()
        if now - self._beat >= 1.0:
            self._beat = now
            self.waiters.forget_closed()
            self.pool.release_never_handed(self.board, self.pending)
            self.control.flush()
            self.history.measure(self.tally.totals, now)
            self._write_record(ready=True)
            if self._taking_over:
                self.reload()

    def _write_record(self, *, ready: bool) -> None:
        self.board.write_coordinator(
            pid=os.getpid(),
            mode=self.mode.value,
            leader=self.settings.node_id,
            tick=boottime(),
            ready=ready,
            finished=self.tally.totals.finished,
            failed=self.tally.totals.failed,
            requeued=self.tally.totals.requeued,
            recoveries=self.tally.totals.recovered,
            rate=self.history.rate,
            redis="down" if RULES[self.mode].looks_for_redis else "",
            error=self._health.error,
        )

    def _finish(self) -> None:
        """All workers are gone: what they reported is committed before this process ends."""
        for _ in range(20):
            self._apply_and_publish()
            if not self.pending:
                break
            time.sleep(PAUSES[0])
        self.server.close()
        with contextlib.suppress(StoreUnavailable):
            self.store.close()


def run_coordinator(
    *,
    instance: str,
    settings: Settings,
    board: Scoreboard,
    control: PacketConnection,
    supervisor_pid: int,
    predecessor: list[tuple[str, int, int]],
) -> int:
    """The process, after the fork; returns its exit code (`exits.py`). What cannot be used is logged."""
    gc.set_threshold(YOUNG_OBJECTS)
    try:
        if in_fleet(settings):
            from kubemin.coordinator.fleet.entry import run_in_fleet, watch_for_redis

            code = run_in_fleet(
                instance=instance, settings=settings, board=board, control=control, predecessor=predecessor
            )
            if code is not None:
                return code
            switch = watch_for_redis(settings)
            coordinator = Coordinator(instance, settings, board, control, Mode.FALLBACK, switch)
        else:
            coordinator = Coordinator(instance, settings, board, control)
        coordinator.start(predecessor)
    except KubeminError as exc:
        return cannot_start(board, exc)
    coordinator.run()
    return EXIT_SWITCH if coordinator.switching else 0
