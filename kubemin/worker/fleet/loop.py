"""The worker's loop in a fleet: wait, claim, execute, finish and claim the next in one round trip.

It starts as a worker of its machine and takes tasks from Redis once its coordinator has told it that the node is
admitted (`Mode`). Until then, and for what it was handed before, it is the loop of `worker/loop.py`.

The contract with death: a popped entry that was not claimed is pushed again by a rescue; a claim is in the slot's
record and under a lock; a result is kept here until the store has it, and on disk when this process has to end first.
"""

from __future__ import annotations

import select
from collections import deque
from typing import Final

from kubemin import clock, faults
from kubemin.channel import LOST, MODE_KIND, Mode, PacketConnection, unpack_mode
from kubemin.config import Settings
from kubemin.errors import KubeminError, Refused, StoreUnavailable
from kubemin.model.records import Claim, Outcome, Owner
from kubemin.scoreboard import SlotWriter
from kubemin.store import undelivered
from kubemin.store.failhook import submit_for
from kubemin.store.redis.client import Client
from kubemin.store.redis.node import BLOCK, OVERDUE, NodeStore
from kubemin.store.redis.session import RECORDS
from kubemin.store.telling import tell
from kubemin.telemetry import log
from kubemin.worker.execute import Executor
from kubemin.worker.fleet.counts import Sender
from kubemin.worker.interrupts import Interrupts
from kubemin.worker.loop import IDLE_SECONDS, Worker, _poll
from kubemin.worker.output import PythonOutput

SHORTEST_PAUSE: Final = 0.05  # seconds between tries while Redis does not answer
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
        *,
        owner: Owner,
        store: NodeStore,
    ) -> None:
        super().__init__(slot, settings, writer, tasks, reports, interrupts, output, executor)
        self._settings = settings
        self._channel = reports
        self._owner = owner
        self._store = store
        self._queues = settings.queues
        self._mode = Mode()
        self._claims: deque[Claim] = deque()
        self._overdue: float | None = None  # when the reply to a BLPOP that is under way is late
        self._empty = 0
        self._counts = Sender(reports, metered=bool(settings.http_addr))
        self._pause_poll = _poll(interrupts.fd)

    def run(self) -> None:
        super().run()
        self._leave()

    # --- the loop's parts ---------------------------------------------------------------------------------------------

    def _handle(self, kind: int, body: bytes) -> None:
        if kind == MODE_KIND:
            self._change_mode(body)
        else:
            super()._handle(kind, body)

    def _work(self, body: bytes) -> None:
        """A task of this node's own store, handed over as before. Nothing may be popped for us meanwhile."""
        if self._overdue is not None or self._claims:
            self._let_go()
        super()._work(body)

    def _change_mode(self, body: bytes) -> None:
        try:
            self._mode = unpack_mode(body)
        except ValueError as error:
            log.warning("a packet that cannot be read was dropped", worker=self._slot, error=str(error))

    def _rest(self) -> None:
        """Nothing is in the channel: it is the fleet's turn."""
        if not self._mode.distributed:
            super()._rest()
        elif self._claims:
            self._execute_next()
        elif self._overdue is not None:
            self._await()
        elif self._mode.paused:
            super()._rest()
        elif pause := self._store.client.retry_in():
            self._idle_poll.poll(min(pause, IDLE_SECONDS) * 1000)
            self._interrupts.read()
        else:
            self._begin_wait()

    @property
    def _takes_no_more(self) -> bool:
        return self._interrupts.stopping or self._mode.paused or bool(self._replace_for)

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
            if self._store.left:
                self._store.advance(RECORDS)
            self._hygiene.own = {self._store.begin_wait(self._queues)}
            self._overdue = clock.monotonic() + BLOCK + OVERDUE
        except StoreUnavailable as error:
            log.debug("waiting for Redis", worker=self._slot, reason=str(error))

    def _await(self) -> None:
        """Until an entry, a packet, an interrupt, or the end of the wait."""
        assert self._overdue is not None
        self._counts.send()
        left = self._overdue - clock.monotonic()
        waiting = self._store.client.fileno()
        if waiting is None or left <= 0:
            self._cut_off("no reply came in time")
            return
        poll = select.poll()
        for fd in (waiting, self._tasks.fileno(), self._interrupts.fd):
            poll.register(fd, select.POLLIN)
        ready = dict(poll.poll(min(left, self._counts.left()) * 1000))
        if self._interrupts.fd in ready:
            self._interrupts.read()
        if waiting in ready:
            self._take_entry()

    def _take_entry(self) -> None:
        self._overdue = None
        try:
            entry = self._store.end_wait(self._queues)
        except StoreUnavailable as error:
            self._cut_off(str(error))
            return
        if entry is None:
            return
        faults.point("worker.popped")
        claims = self._guarded_claim(entry)
        if claims is None:
            return
        self._empty = 0 if claims else self._empty + 1
        if self._empty >= EMPTY_CLAIMS:
            self._see_whether_known()
        self._claims.extend(claims)
        self._tell()

    def _guarded_claim(self, entry: tuple[str, int]) -> list[Claim] | None:
        try:
            _, claims = self._store.finish_and_claim(self._owner, (), self._queues, 1, entry)
        except StoreUnavailable as error:
            self._cut_off(str(error))
            return None
        except Exception as error:
            self._broken(error)
            return None
        faults.point("worker.claimed")
        return claims

    def _cut_off(self, reason: str) -> None:
        """An entry may have been popped for us and lost with the connection: the coordinator looks for it."""
        self._overdue = None
        log.debug("cut off while waiting for a task", worker=self._slot, reason=reason)
        self._store.client.disconnect()
        self._hygiene.own = set()
        try:
            self._channel.try_send(LOST, b"{}")
        except OSError:
            log.debug("the coordinator was not told", worker=self._slot)

    def _see_whether_known(self) -> None:
        self._empty = 0
        try:
            if self._store.is_retired(self._owner):
                self._replace_for = "the fleet counts this worker as dead"
        except StoreUnavailable as error:
            log.debug("Redis did not say whether this worker is known", worker=self._slot, reason=str(error))

    # --- a task -------------------------------------------------------------------------------------------------------

    def _execute_next(self) -> None:
        claim = self._claims.popleft()
        self._counts.send()
        faults.point("worker.taken")
        outcome = self._executor.execute(claim)
        faults.point("worker.ended")
        self._done += 1
        self._writer.done = self._done
        self._look_after(claim, outcome)
        self._finish(outcome)
        faults.point("worker.reported")

    def _finish(self, outcome: Outcome) -> None:
        """Until the store has it, or until it is on disk."""
        outage = 0.0
        refusals = 0
        while True:
            try:
                limit = 0 if self._takes_no_more or self._claims else 1
                queues = self._queues if limit else ()
                _, claims = self._store.finish_and_claim(self._owner, (outcome,), queues, limit)
                break
            except StoreUnavailable as error:
                outage = outage or self._outage_begins(outcome, error)
                refusals += error.code in ("redis_error", "stale")
                if refusals >= BROKEN_TRIES:
                    self._broken(error)
                    return
                if not self._wait_for_store(outcome):
                    return
            except Exception as error:  # what came cannot be made sense of: another life of this worker takes over
                self._broken(error)
                return
        if outage:
            seconds = round(clock.monotonic() - outage, 1)
            log.info(
                "the result was delivered after the outage", worker=self._slot, task=_task(outcome), seconds=seconds
            )
        self._hygiene.own = {fd} if (fd := self._store.client.fileno()) is not None else set()
        self._claims.extend(claims)
        self._tell()

    def _outage_begins(self, outcome: Outcome, error: StoreUnavailable) -> float:
        self._writer.idle(self._done)  # its deadline no longer counts
        log.warning(
            "Redis cannot be reached; a result is kept", worker=self._slot, task=_task(outcome), reason=str(error)
        )
        return clock.monotonic()

    def _wait_for_store(self, outcome: Outcome) -> bool:
        """False: told to end first; the result is on disk then."""
        deadline = clock.monotonic() + max(self._store.client.retry_in(), SHORTEST_PAUSE)
        while (left := deadline - clock.monotonic()) > 0 and not self._interrupts.stopping:
            self._pause_poll.poll(left * 1000)
            self._interrupts.read()
        if not self._interrupts.stopping:
            return True
        try:
            path = undelivered.keep(self._settings.state_dir, self._owner, [outcome])
        except OSError as error:
            log.error("a result could not be kept; its task is run again", task=_task(outcome), reason=error.strerror)
        else:
            log.warning("a result is kept until Redis can be reached", task=_task(outcome), file=path)
        return False

    def _broken(self, error: Exception) -> None:
        log.exception("the store's answer makes no sense; the worker is replaced", error, worker=self._slot)
        self._replace_for = "the store's answer makes no sense"

    def _tell(self) -> None:
        changes = self._store.changes()
        if not changes:
            return
        self._counts.note(changes)
        tell(changes)
        try:
            submit_for(self._store, changes, self._settings)
        except KubeminError as error:
            log.error("onFailure could not be submitted", reason=str(error))

    # --- the end ------------------------------------------------------------------------------------------------------

    def _leave(self) -> None:
        self._let_go()
        self._counts.send(at_once=True)
        self._store.close()

    def _let_go(self) -> None:
        """What was taken and not begun goes back; a wait is ended at the server, so that nothing is popped for us."""
        try:
            if self._overdue is not None:
                self._end_wait()
            if self._claims:
                self._store.give_back(self._owner, [(claim.run, claim.idx, claim.token) for claim in self._claims])
                self._claims.clear()
        except (StoreUnavailable, Refused) as error:
            log.debug("Redis cannot be told what goes back", worker=self._slot, reason=str(error))

    def _end_wait(self) -> None:
        assert self._overdue is not None
        other = Client(self._store.client.address, name=f"{self._store.client.name}-end")
        try:
            self._store.unblock(self._store.client.name, over=other)
        finally:
            other.close()
        fd, left = self._store.client.fileno(), self._overdue - clock.monotonic()
        if fd is None or not _poll(fd).poll(max(left, 0.0) * 1000):
            self._cut_off("no reply came in time")
            return
        self._take_entry()


def _task(outcome: Outcome) -> str:
    return f"{outcome.run}.{outcome.idx}"
