"""The worker's loop: take one packet, run its task, report, look after itself, again.

Whoever receives a task packet owns the task, so one is taken only when it is started at once. A coordinator that is
away is ordinary: the supervisor keeps the other ends open, results wait in the socket and here, and tasks come when it
is back.
"""

from __future__ import annotations

import select
from typing import Any, Final

import msgspec

from kubemin import clock, faults
from kubemin.channel import ACK_KIND, HELLO_KIND, TASK_KIND, PacketConnection, unpack_ack, unpack_task
from kubemin.config import Settings
from kubemin.model.estimates import label_of
from kubemin.model.records import Claim, Outcome
from kubemin.model.states import Cause, TaskState
from kubemin.scoreboard import SlotWriter
from kubemin.telemetry import log
from kubemin.worker.execute import Executor
from kubemin.worker.hygiene import Hygiene, Left
from kubemin.worker.interrupts import Interrupts
from kubemin.worker.output import PythonOutput
from kubemin.worker.reports import Reports
from kubemin.worker.usage import resident_bytes

IDLE_SECONDS: Final = 30.0  # an idle worker wakes up so often, to show that it lives
CHECK_SECONDS: Final = 0.05  # between two looks at what tasks leave
LAST_LOOK_SECONDS: Final = 0.02  # without a task: then there is time for it
LONG_MICROS: Final = 10_000  # after a task that took longer, the look is due at once
KINDS: Final = 1000  # of tasks, remembered
LAST_WORDS_SECONDS: Final = 2.0  # for a report, after INT, to a coordinator that does not read

_salvage = msgspec.json.Decoder(list[Any]).decode


class Worker:
    """One life of one worker process."""

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
    ) -> None:
        """`patience`: seconds for which open descriptors that steps leave are put up with."""
        self._slot = slot
        self._recycle = settings.recycle
        self._writer = writer
        self._tasks = tasks
        self._interrupts = interrupts
        self._output = output
        self._executor = executor
        self._reports = Reports(reports, self._wait_for_room)
        self._idle_poll = poll_of(tasks.fileno(), interrupts.fd)
        self._room_poll = poll_of(interrupts.wakeup)
        self._room_poll.register(reports.fileno(), select.POLLOUT)
        self._done = 0
        self._rested_at = -1  # tasks done when it last became idle
        self._looked_at = 0  # and when it last looked at what they left
        self._checked = clock.monotonic()
        self._last = ""  # kind of task that it ran
        self._kinds: set[str] = set()  # that it has run
        self._replace_for = ""  # why this worker returns, when it wants to be replaced
        self._hygiene = Hygiene(executor.modules.holding)
        self._patience = patience
        self._patient_until: float | None = None
        self.soiled = False  # it is replaced for what a step left
        self.cut_off = False  # a step has closed the channel to the coordinator

    def run(self) -> None:
        """Until told to stop, or until it should be replaced."""
        self._become_idle()
        while not self._interrupts.stopping and not self._replace_for:
            try:
                packet = self._tasks.try_recv()
            except ValueError as error:
                log.error("a packet that cannot be read was dropped", worker=self._slot, error=str(error))
                continue
            except (EOFError, OSError):
                break  # the supervisor is gone, which held the other end
            self.turn(packet)
        if self._replace_for:
            log.info("worker is replaced", worker=self._slot, tasks=self._done, reason=self._replace_for)

    @property
    def wants_to_end(self) -> bool:
        return bool(self._replace_for)

    def turn(self, packet: tuple[int, bytes] | None) -> None:
        """What a packet asks for, or what there is to do without one."""
        if packet is None:
            self._rest()
        else:
            self._handle(*packet)

    def _handle(self, kind: int, body: bytes) -> None:
        if kind == TASK_KIND:
            self._work(body)
        elif kind == ACK_KIND:
            self._acknowledge(body)
        elif kind == HELLO_KIND:
            self._reports.answer_hello()
        else:
            log.warning("a packet of an unknown kind was dropped", worker=self._slot, kind=kind)

    # --- tasks --------------------------------------------------------------------------------------------------------

    def _work(self, body: bytes) -> None:
        try:
            acked, claim = unpack_task(body)
        except ValueError as error:
            self._refuse(body, error)
            return
        self._reports.acknowledge(acked)
        faults.point("worker.taken")
        outcome = self._executor.execute(claim)
        faults.point("worker.ended")
        if not self._reports.send(outcome):
            self._replace_for = "a result could not be reported"
            self.cut_off = not self._interrupts.draining
            return
        faults.point("worker.reported")
        self._done += 1
        self._writer.done = self._done
        self._look_after(claim, outcome)

    def _refuse(self, body: bytes, error: ValueError) -> None:
        """A record that this version cannot read ends its task, if it can be told which."""
        log.error("a task record cannot be read", worker=self._slot, error=str(error), record=repr(body[:2000]))
        try:
            record = _salvage(body)[1]
            run, idx, token = msgspec.convert((record[0], record[1], record[4]), tuple[str, int, int])
        except (msgspec.MsgspecError, LookupError, TypeError, ValueError, RecursionError):
            return  # the coordinator sees that it was taken and never reported
        now = clock.wall()
        self._reports.send(
            Outcome(run, idx, token, TaskState.FAILED, Cause.CORRUPT, str(error)[:500], started=now, finished=now)
        )

    def _acknowledge(self, body: bytes) -> None:
        try:
            self._reports.acknowledge(unpack_ack(body))
        except ValueError as error:
            log.warning("a packet that cannot be read was dropped", worker=self._slot, error=str(error))

    # --- looking after itself -----------------------------------------------------------------------------------------

    def _look_after(self, claim: Claim, outcome: Outcome) -> None:
        if self._executor.lost_descriptors:
            self._soiled(claim.task, "the worker without its descriptors")
            return
        if self._executor.left_children:
            self._soiled(claim.task, "processes, which were killed")
        if self._executor.cannot_kill:
            self._soiled(claim.task, "processes that do not die; the supervisor goes on with them")
        maximum = self._recycle.max_tasks
        if maximum is not None and self._done >= maximum:
            self._replace_for = self._replace_for or f"recycle.maxTasks ({maximum}) is reached"
        due = clock.monotonic() - self._checked >= CHECK_SECONDS
        label, before = label_of(claim), self._last
        self._last = label
        if due or outcome.finished - outcome.started > LONG_MICROS or self._is_first(label):
            self._check(claim.task)
        elif label != before and (left := self._hygiene.glance()):
            self._soiled(claim.task, left.what)

    def _is_first(self, label: str) -> bool:
        """The first of its kind in this worker may leave what others must not find."""
        if label in self._kinds:
            return False
        if len(self._kinds) >= KINDS:
            self._kinds.clear()
        self._kinds.add(label)
        return True

    def _check(self, task: str) -> None:
        """What tasks left, memory, and cancels that nobody waits for."""
        self._checked = clock.monotonic()
        self._looked_at = self._done
        self._output.flush_c()
        left = self._hygiene.check()
        if left is not None and not self._puts_up_with(left):
            self._soiled(task, left.what)
            return  # perhaps without the descriptors that the rest needs
        self._interrupts.read()
        self._interrupts.watch()
        limit = self._recycle.max_memory
        if limit is not None and not self._replace_for and (resident := resident_bytes()) > limit:
            self._replace_for = f"{resident} bytes of memory are over recycle.maxMemory ({limit})"

    def _puts_up_with(self, left: Left) -> bool:
        if not left.only_open:
            return False
        if self._patient_until is None:
            self._patient_until = self._checked + self._patience
        return self._checked < self._patient_until

    def _soiled(self, task: str, what: str) -> None:
        self.soiled = True
        if not self._replace_for:
            log.warning("a Python step left something behind", worker=self._slot, task=task, left=what)
            self._replace_for = f"a Python step left {what}"

    # --- waiting ------------------------------------------------------------------------------------------------------

    def _rest(self) -> None:
        """Nothing to do: wait for a packet or a signal. When none comes at once, there is time to look at what the last
        tasks have left."""
        if self._done != self._rested_at:
            self._become_idle()
        patience = IDLE_SECONDS if self._looked_at == self._done else LAST_LOOK_SECONDS
        events = self._idle_poll.poll(patience * 1000)
        if any(event & select.POLLNVAL for _, event in events) or (not events and self._looked_at != self._done):
            self._check("")
        if not self._replace_for:
            self._interrupts.read()

    def _become_idle(self) -> None:
        self._rested_at = self._done
        self._writer.idle(self._done)
        self._executor.idle()

    def _wait_for_room(self) -> bool:
        """The coordinator does not read: wait for it. Only INT ends that, as the task has been done."""
        self._writer.idle(self._done)  # its deadline no longer counts
        give_up = None
        while True:
            if self._interrupts.draining:
                give_up = give_up or clock.monotonic() + LAST_WORDS_SECONDS
            patience = IDLE_SECONDS if give_up is None else give_up - clock.monotonic()
            if patience <= 0:
                log.error("a result could not be reported: the coordinator does not answer", worker=self._slot)
                return False
            events = dict(self._room_poll.poll(patience * 1000))
            self._interrupts.quiet()
            if events.keys() - {self._interrupts.wakeup}:
                return True


def poll_of(*fds: int) -> select.poll:
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return poll
