"""The worker's loop in a fleet: wait, claim, execute, finish and claim the next in one round trip; short tasks are
claimed in batches (batch.py).

It starts as a worker of its machine and takes tasks from Redis once its coordinator has told it that the node is
admitted (`WorkerMode`). Until then, and for what it was handed before, it is the loop of `worker/loop.py`.

The contract with death: a popped entry that was not claimed is pushed again by a rescue; a claim is in the slot's
record and under a lock; a result is kept here until the store has it, and on disk when this process has to end first.
"""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, ParamSpec

from kubemin import clock, faults
from kubemin.channel import LOST, MODE_KIND, TICKET_KIND, PacketConnection, WorkerMode, token_of, unpack_mode
from kubemin.config import Settings
from kubemin.errors import Refused, StoreUnavailable
from kubemin.model.records import Claim, Owner
from kubemin.scoreboard import SlotWriter
from kubemin.store.redis.client import Client
from kubemin.store.redis.node import BLOCK, OVERDUE, NodeStore
from kubemin.store.redis.session import RECORDS
from kubemin.telemetry import log
from kubemin.worker.execute import Executor
from kubemin.worker.fleet.batch import Batch
from kubemin.worker.fleet.counts import Sender
from kubemin.worker.fleet.guard import Guard
from kubemin.worker.fleet.outage import Outage
from kubemin.worker.fleet.stream import Stream
from kubemin.worker.fleet.telling import Teller
from kubemin.worker.interrupts import Interrupts
from kubemin.worker.loop import IDLE_SECONDS, Worker, poll_of
from kubemin.worker.output import PythonOutput

P = ParamSpec("P")

BROKEN_TRIES: Final = 3  # of a request that Redis refuses with an error of its own: then this worker is replaced
EMPTY_CLAIMS: Final = 3  # in a row, each with an entry: is this life still known?


class FleetWorker(Worker):
    """One life of one worker process in a fleet."""

    def __init__(
        self,
        slot: int,
        settings: Settings,
        writer: SlotWriter,
        tasks: PacketConnection,
        reports: PacketConnection,
        interrupts: Interrupts,
        output: PythonOutput,
        executor: Executor,
        patience: float = 0.0,
        *,
        owner: Owner,
        store: NodeStore,
        batch: Batch,
        guard: Guard,
    ) -> None:
        super().__init__(slot, settings, writer, tasks, reports, interrupts, output, executor, patience)
        self._settings = settings
        self._channel = reports
        self._owner = owner
        self.store = store
        self._batch = batch
        self._guard = guard
        self._queues = settings.queues
        self._mode = WorkerMode()
        self._claims: deque[Claim] = deque()
        self._going_back: list[Claim] = []  # not run here; Redis was not told yet
        self._put_off: deque[tuple[int, bytes]] = deque()  # packets that stood between tickets
        self._wait_poll: tuple[int, select.poll] | None = None  # by the connection that it waits for
        self._overdue: float | None = None  # when the reply to a BLPOP that is under way is late
        self._empty = 0
        self._waiting_since = 0.0
        self._waits_for = 1  # tasks at most
        self.stream = Stream()
        self._counts = Sender(reports, metered=bool(settings.http_addr))
        self._teller = Teller(store, self._counts)
        self._outage = Outage(owner, settings.state_dir, writer, interrupts)

    def run(self) -> None:
        super().run()
        self._leave()

    # --- the loop's parts ---------------------------------------------------------------------------------------------

    def _handle(self, kind: int, body: bytes) -> None:
        if kind == TICKET_KIND:
            self._start(body)
        elif kind == MODE_KIND:
            self._hear_mode(body)
        else:
            super()._handle(kind, body)

    def _work(self, body: bytes) -> None:
        """A task of this node's own store, handed over as before. Nothing may be popped for us meanwhile."""
        if self._overdue is not None or self._claims:
            self._let_go()
        if self._batch.results:
            self._finish()
        super()._work(body)

    def _start(self, body: bytes) -> None:
        """A ticket was received: its task is ours alone."""
        try:
            claim = self._batch.own(token_of(body))
        except ValueError as error:
            log.error("a packet that cannot be read was dropped", worker=self._slot, error=str(error))
            return
        if claim is not None:
            self._execute(claim)

    def change_mode(self, mode: WorkerMode) -> None:
        self._mode = mode

    def _hear_mode(self, body: bytes) -> None:
        try:
            self.change_mode(unpack_mode(body))
        except ValueError as error:
            log.warning("a packet that cannot be read was dropped", worker=self._slot, error=str(error))

    def _rest(self) -> None:
        """Nothing is in the channel: it is the fleet's turn."""
        if self._put_off:
            self._handle(*self._put_off.popleft())
        elif not self._mode.distributed:
            super()._rest()
        elif self._batch.waiting:
            self._rest_was_taken_back()
        elif self._claims:
            self._execute(self._claims.popleft())
        elif self._overdue is not None:
            self._await()
        elif pause := self.store.client.retry_in():
            self._idle_poll.poll(min(pause, IDLE_SECONDS) * 1000)
            self._interrupts.read()
        elif self.store.owes(self._owner):
            self._accept(self._guarded(self._claim, 0) or [])
        elif self._going_back:
            self._give_back(())
        elif self._mode.paused:
            super()._rest()
        elif self.stream.flows:
            self._gather()
        else:
            self._begin_wait()

    def _rest_was_taken_back(self) -> None:
        """The channel is empty: what was not received is the coordinator's. It may have died before it gave that back:
        so we do as well, and what was done is not done twice."""
        gone = self._batch.taken_back()
        if self._batch.results:
            self._finish()
        self._give_back(gone)

    def _check(self, task: str) -> None:
        """The connection may be another one than before the task, and is ours."""
        fd = self.store.client.fileno()
        self._hygiene.own = set() if fd is None else {fd}
        super()._check(task)

    @property
    def _takes_no_more(self) -> bool:
        return self._interrupts.stopping or self._mode.paused or bool(self._replace_for)

    def _gather(self) -> None:
        """A moment later there are several tasks (stream.py)."""
        self._idle_poll.poll(self.stream.millis)
        self._interrupts.read()
        claims = [] if self._takes_no_more else self._guarded(self._claim, self._batch.limit)
        self.stream.looked(len(claims or ()))
        if claims:
            self._accept(claims)
            self._teller.tell()

    # --- idle ---------------------------------------------------------------------------------------------------------

    def _begin_wait(self) -> None:
        """Look for a task at once, then block until one is pushed."""
        if self._done != self._rested_at:
            self._become_idle()
            if self._looked_at != self._done:
                self._check("")
                if self._takes_no_more:
                    return
        try:
            if self.store.left:
                self.store.advance(RECORDS)
            self._waits_for = self._batch.limit
            self.store.begin_wait(self._owner, self._queues, self._waits_for)
            self._waiting_since = clock.monotonic()
            self._overdue = self._waiting_since + BLOCK + OVERDUE
        except StoreUnavailable as error:
            log.debug("waiting for Redis", worker=self._slot, reason=str(error))

    def _await(self) -> None:
        """Until an entry, a packet, an interrupt, or the end of the wait."""
        assert self._overdue is not None
        self._counts.send()
        left = self._overdue - clock.monotonic()
        waiting = self.store.client.fileno()
        if waiting is None or left <= 0:
            self._cut_off("no reply came in time")
            return
        if self._wait_poll is None or self._wait_poll[0] != waiting:
            self._wait_poll = waiting, poll_of(waiting, self._tasks.fileno(), self._interrupts.fd)
        ready = dict(self._wait_poll[1].poll(min(left, self._counts.left()) * 1000))
        if self._interrupts.fd in ready:
            self._interrupts.read()
        if waiting in ready:
            self._end_of_wait()
            if len(ready) == 1 and self._claims and not self._interrupts.stopping:
                self._execute(self._claims.popleft())  # nothing else has come, so nobody has to look

    def _end_of_wait(self) -> None:
        self._overdue = None
        try:
            entry = self.store.end_wait()
        except StoreUnavailable as error:
            self._cut_off(str(error))
            return
        if entry is not None:
            faults.point("worker.popped")
            if self._waits_for > 1:
                self.stream.popped(clock.monotonic() - self._waiting_since)
        claims = self._guarded(self.store.claim_popped, self._owner, self._queues, entry)
        if claims is None:
            return
        self.stream.claimed(self._waits_for, len(claims))
        self._empty = 0 if claims or entry is None else self._empty + 1
        if self._empty >= EMPTY_CLAIMS:
            self._see_whether_known()
        self._accept(claims)
        self._teller.tell()

    def _claim(self, limit: int) -> list[Claim]:
        """What an unanswered request has claimed, else up to `limit` tasks."""
        _, claims = self.store.finish_and_claim(self._owner, (), self._queues, limit)
        self.stream.claimed(limit, len(claims))
        return claims

    def _guarded(self, claim: Callable[P, list[Claim]], *args: P.args, **kwargs: P.kwargs) -> list[Claim] | None:
        """None: nobody knows what was claimed. It is asked for again, or this worker is replaced."""
        try:
            claims = claim(*args, **kwargs)
        except StoreUnavailable as error:
            self._cut_off(str(error))
            return None
        except Exception as error:
            self._broken(error)
            return None
        if claims:
            faults.point("worker.claimed")
        return claims

    def _cut_off(self, reason: str) -> None:
        """An entry may have been popped for us and lost with the connection: the coordinator looks for it."""
        self._overdue = None
        log.debug("cut off while waiting for a task", worker=self._slot, reason=reason)
        self.store.client.disconnect()
        try:
            self._channel.try_send(LOST, b"{}")
        except OSError:
            log.debug("the coordinator was not told", worker=self._slot)

    def _see_whether_known(self) -> None:
        self._empty = 0
        try:
            if self.store.is_retired(self._owner):
                self._replace_for = "the fleet counts this worker as dead"
        except StoreUnavailable as error:
            log.debug("Redis did not say whether this worker is known", worker=self._slot, reason=str(error))

    # --- a task -------------------------------------------------------------------------------------------------------

    def _accept(self, claims: list[Claim]) -> None:
        """Begin what was claimed. More than one is a batch; what would wait in it for too long goes back at once."""
        if len(claims) < 2:
            self._claims.extend(claims)
            return
        fitting = self._batch.fit(claims)
        if fitting < 2:
            self._claims.append(claims[0])
            left = claims[1:]
        else:
            left = self._batch.begin(claims[:fitting]) + claims[fitting:]
        faults.point("worker.batched")
        self._give_back(left)

    def _give_back(self, claims: Sequence[Claim]) -> None:
        """What this worker will not run. In an outage it stays claimed until Redis can be told, or this life ends."""
        self._going_back += claims
        if not self._going_back:
            return
        try:
            self.store.give_back(self._owner, [(claim.run, claim.idx, claim.token) for claim in self._going_back])
        except (StoreUnavailable, Refused) as error:
            log.debug("Redis cannot be told what goes back", worker=self._slot, reason=str(error))
            if isinstance(error, StoreUnavailable) and error.code != "redis_error":
                return
            self._replace_for = "tasks could not be given back"  # its death gives them back
        self._going_back.clear()

    def _execute(self, claim: Claim) -> None:
        faults.point("worker.taken")
        outcome = self._guard.execute(claim)
        faults.point("worker.ended")
        self._done += 1
        # However long the reply takes, the step has ended: its deadline counts no more, and nobody is to stop it. Noted
        # before the next ticket is received, which coordinator/fleet/batches.py relies on.
        self._writer.done = self._done
        self._writer.reporting()
        self._look_after(claim, outcome)
        self._batch.ended(claim, outcome)
        faults.point("worker.noted")
        if self._batch.waiting and self._batch.over:
            self._give_back(self._batch.withdraw(self._tasks, self._put_off))
        if self._batch.due or self._takes_no_more:
            self._finish()
        self._counts.send()

    def _finish(self) -> None:
        """Tell what has ended, and claim what is next: until the store has it, or until it is on disk."""
        outcomes = self._batch.results
        refusals = 0
        while True:
            try:
                limit = self._next_limit
                queues = self._queues if limit else ()
                _, claims = self.store.finish_and_claim(self._owner, outcomes, queues, limit)
                self.stream.claimed(limit, len(claims))
                break
            except StoreUnavailable as error:
                self._outage.met(outcomes, error, self._done)
                refusals += error.code in ("redis_error", "stale")
                if refusals >= BROKEN_TRIES:
                    self._broken(error)
                    return
                if not self._outage.wait(self.store.client.retry_in()):
                    if self._outage.keep(outcomes):
                        self._batch.told()
                    return
            except Exception as error:  # what came cannot be made sense of: another life of this worker takes over
                self._broken(error)
                return
        self._outage.is_over(outcomes)
        faults.point("worker.settled")
        self._batch.told()
        faults.point("worker.reported")
        self._accept(claims)
        self._teller.tell()

    @property
    def _next_limit(self) -> int:
        """How many tasks to claim with a report."""
        if self._takes_no_more or self._claims or self._batch.waiting:
            return 0
        return 0 if self.stream.gathers and self._batch.singles else self._batch.limit

    def _broken(self, error: Exception) -> None:
        log.exception("the store's answer makes no sense; the worker is replaced", error, worker=self._slot)
        self._replace_for = "the store's answer makes no sense"

    # --- the end ------------------------------------------------------------------------------------------------------

    def _leave(self) -> None:
        self._let_go()
        self._give_back(self._batch.withdraw(self._tasks, self._put_off))
        self._counts.send(at_once=True)
        self.store.close()

    def _let_go(self) -> None:
        """What was taken and not begun goes back; a wait is ended at the server, so that nothing is popped for us."""
        try:
            if self._overdue is not None:
                self._end_wait()
        except (StoreUnavailable, Refused) as error:
            log.debug("Redis cannot be told what goes back", worker=self._slot, reason=str(error))
        self._give_back(self._claims)
        self._claims.clear()

    def _end_wait(self) -> None:
        assert self._overdue is not None
        other = Client(self.store.client.address, name=f"{self.store.client.name}-end")
        try:
            self.store.unblock(self.store.client.name, over=other)
        finally:
            other.close()
        fd, left = self.store.client.fileno(), self._overdue - clock.monotonic()
        if fd is None or not poll_of(fd).poll(max(left, 0.0) * 1000):
            self._cut_off("no reply came in time")
            return
        self._end_of_wait()
