"""What the coordinator knows of each worker: its channels, what it was handed, what it has reported.

A `Link` is one life of one worker. Who may write what: the coordinator alone writes to `tasks`, the worker alone writes
reports, both may read from `tasks` (taking back). A link never decides anything: the store does.

A task that stands in the channel behind a running one is *taken back* when the worker has reported nothing for
`STALL_SECONDS`: whoever receives the packet owns the task, so this never races its start, even when the worker holds
the GIL (engine rule 11).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from kubemin import clock
from kubemin.channel import (
    ACK,
    BATCH_KIND,
    CANCEL,
    COUNTS_KIND,
    HELLO,
    HELLO_KIND,
    LOST_KIND,
    MODE,
    MODE_KIND,
    REPORT_KIND,
    TASK,
    TASK_KIND,
    TICKET_KIND,
    PacketConnection,
    WorkerMode,
    pack_ack,
    pack_cancel,
    pack_hello,
    pack_mode,
    pack_task,
    unpack_report,
    unpack_task,
    unpack_ticket,
)
from kubemin.model.estimates import Estimates, label_of
from kubemin.model.records import Claim, Outcome, Owner
from kubemin.model.states import Cause
from kubemin.telemetry import log

STALL_SECONDS = 0.008
REPORTS_A_ROUND = 256
# Seconds from a cancel to the kill of the worker: a Python step at once after its grace; a command gets TERM and KILL
# from its worker first.
KILL_AFTER_PYTHON = 5.0
KILL_AFTER_COMMAND = 9.0


class Held:
    """One claim that the worker has. `stopping`: when a cancel was sent (monotonic), 0.0 if none was."""

    __slots__ = ("idx", "kill_after", "label", "quiet", "run", "stop_cause", "stopping", "token")

    def __init__(self, run: str, idx: int, token: int, claim: Claim | None = None, *, within: bool = False) -> None:
        self.run, self.idx, self.token = run, idx, token
        self.label = label_of(claim) if claim is not None else ""
        self.quiet = claim is not None and claim.quiet
        within = within or (claim is not None and bytes(claim.work).startswith(b'{"python"'))
        self.kill_after = KILL_AFTER_PYTHON if within else KILL_AFTER_COMMAND
        self.stopping = 0.0
        self.stop_cause: Cause | None = None


class Link:
    """One life of one worker, seen from the coordinator."""

    def __init__(
        self, owner: Owner, pid: int, writer: PacketConnection, reader: PacketConnection, reports: PacketConnection
    ) -> None:
        self.owner = owner
        self.pid = pid
        self.held: dict[int, Held] = {}  # token -> what it was handed and has not reported
        self.unsent: list[Claim] = []  # committed claims that the channel had no room for
        self.acked = 0  # highest report sequence that it was told is committed
        self.received = 0  # highest report sequence that was read
        self.window = 1
        self.last_report = clock.monotonic()
        self.closed = False
        self.greeted = False  # it has answered our hello
        self.batched = clock.monotonic()  # when it last said that it runs batches; a new one may (fleet)
        self.cut_off = False  # it lost its connection while it waited for a task (fleet)
        self.counts: list[bytes] = []  # what it has counted, in packets, to be taken note of (fleet)
        self.told: WorkerMode | None = None  # where it takes tasks from (fleet)
        self.unheard: set[int] = set()  # tokens a predecessor committed; the worker has not said whether it got them
        self._tickets: list[tuple[str, int, int]] = []  # received with what stood between them (fleet)
        self._writer, self._reader, self.reports = writer, reader, reports

    @property
    def slot(self) -> int:
        return self.owner.slot

    def room(self) -> int:
        """How many tasks it may be given now. Refilled at half of its window: fewer and larger transactions."""
        held = len(self.held)
        if self.closed or self.unsent or held > self.window // 2:
            return 0
        return self.window - held

    # --- to the worker ------------------------------------------------------------------------------------------------

    def _send(self, kind: bytes, body: bytes) -> bool:
        try:
            return self._writer.try_send(kind, body)
        except OSError:
            return False  # it is dead: the supervisor will say so

    def hello(self) -> None:
        """Ask for everything that was not acknowledged: the first words of a new coordinator."""
        self._send(HELLO, pack_hello())

    def tell_mode(self, mode: WorkerMode) -> None:
        """Once; again in a later round when the channel is full."""
        if mode != self.told and self._send(MODE, pack_mode(mode)):
            self.told = mode

    def adopt(self, run: str, idx: int, token: int) -> None:
        """Note a claim of an earlier coordinator, which may have died between its commit and the hand-over."""
        self.held[token] = Held(run, idx, token)
        self.unheard.add(token)

    def never_handed(self, executing: int) -> list[tuple[str, int, int]]:
        """Give up adopted claims above the token that the worker executes: it would have got them after it. Call it
        when the channel was drained."""
        tokens = [token for token in self.unheard if token > executing and token in self.held]
        self.unheard.clear()
        taken = [self.held.pop(token) for token in tokens]
        return [(held.run, held.idx, held.token) for held in taken]

    def hand(self, claims: list[Claim]) -> None:
        """Hand over claims that are committed."""
        if not self.held:
            self.last_report = clock.monotonic()  # it was idle: its time starts now
        for claim in claims:
            self.held[claim.token] = Held(claim.run, claim.idx, claim.token, claim)
        self.unsent += claims
        self.send()

    def send(self) -> None:
        """Send what is committed; what does not fit stays for a later round."""
        sent, acked = 0, self.received
        for claim in self.unsent:
            if not self._send(TASK, pack_task(acked, claim)):
                break
            sent += 1
        if sent:
            self.acked = acked
            del self.unsent[:sent]

    def acknowledge(self) -> None:
        """Tell what is committed, where no task packet told it."""
        if self.acked < self.received and self._send(ACK, pack_ack(self.received)):
            self.acked = self.received

    def stop(self, token: int, cause: Cause) -> None:
        """Ask the worker, once, to end a running task."""
        held = self.held.get(token)
        if held is None or held.stopping:
            return
        with contextlib.suppress(OSError):
            if self.reports.try_send(CANCEL, pack_cancel(token, cause)):
                held.stopping, held.stop_cause = clock.monotonic(), cause

    def overdue(self, now: float) -> Iterator[int]:
        """Tokens of tasks that were asked to end and have not; each again only after another grace."""
        for token, held in self.held.items():
            if held.stopping and now - held.stopping > held.kill_after:
                held.stopping = now
                yield token

    # --- from the worker ----------------------------------------------------------------------------------------------

    def read_reports(self, estimates: Estimates, limit: int = REPORTS_A_ROUND) -> list[Outcome]:
        """What the worker reported since the last call. An end of file says nothing: the supervisor tells deaths."""
        outcomes: list[Outcome] = []
        label = ""
        while len(outcomes) < limit:
            try:
                packet = self.reports.try_recv()
                if packet is None:
                    break
                if packet[0] != REPORT_KIND:
                    self._note(*packet)
                    continue
                sequence, outcome = unpack_report(packet[1])
            except ValueError as exc:
                log.error("a report that cannot be read was dropped", worker=self.slot, reason=str(exc))
                continue
            except (EOFError, OSError):
                break
            self.received = max(self.received, sequence)
            label = self._settle(outcome, estimates) or label
            outcomes.append(outcome)
        if outcomes:
            self.last_report = clock.monotonic()
        if label:
            self.window = estimates.window(label)
        return outcomes

    def _note(self, kind: int, body: bytes) -> None:
        """What a worker says beside its reports. Raises ValueError."""
        if kind == HELLO_KIND:
            self.greeted = True
        elif kind == BATCH_KIND:
            self.batched = clock.monotonic()
        elif kind == LOST_KIND:
            self.cut_off = True
        elif kind == COUNTS_KIND:
            self.counts.append(body)
        else:
            raise ValueError(f"a packet of kind {chr(kind)!r}")

    def _settle(self, outcome: Outcome, estimates: Estimates) -> str:
        """Returns what it ran, where that is known."""
        held = self.held.pop(outcome.token, None)
        if held is None or not held.label:
            return ""
        estimates.record(held.label, (outcome.finished - outcome.started) / clock.SECOND)
        return held.label

    def stalled(self, now: float) -> bool:
        """Something may stand behind a task that takes long."""
        return len(self.held) > 1 and now - self.last_report > STALL_SECONDS

    def take_back(self) -> list[tuple[str, int, int]]:
        """Receive what the worker has not begun, as (run, idx, token): it is no longer the worker's."""
        received, tickets = self._drain_channel()
        self._tickets += tickets
        claims = [*received, *self.unsent]
        self.unsent.clear()
        for claim in claims:
            self.held.pop(claim.token, None)
        self.window = 1
        return [(claim.run, claim.idx, claim.token) for claim in claims]

    def receive_tickets(self) -> list[tuple[str, int, int]]:
        """Tickets of claims of a fleet that its worker has not begun: they are the receiver's. Tasks of this node's own
        store that stood between them are sent again."""
        claims, tickets = self._drain_channel()
        if claims:
            self.unsent[:0] = claims
            self.send()
        tickets[:0], self._tickets = self._tickets, []
        return tickets

    def _drain_channel(self) -> tuple[list[Claim], list[tuple[str, int, int]]]:
        claims, tickets, kinds = [], [], set()
        while True:
            try:
                packet = self._reader.try_recv()
                if packet is None:
                    break
                if packet[0] == TASK_KIND:
                    claims.append(unpack_task(packet[1])[1])
                elif packet[0] == TICKET_KIND:
                    tickets.append(unpack_ticket(packet[1]))
            except ValueError as exc:
                log.error("a task packet that cannot be read was dropped", worker=self.slot, reason=str(exc))
                continue
            except (EOFError, OSError):
                break
            kinds.add(packet[0])
        if HELLO_KIND in kinds:  # it was meant for the worker, as was the mode
            self.hello()
        if MODE_KIND in kinds and (mode := self.told) is not None:
            self.told = None
            self.tell_mode(mode)
        return claims, tickets

    def close(self) -> None:
        self.closed = True
        for channel in (self._writer, self._reader, self.reports):
            with contextlib.suppress(OSError):
                channel.close()
