"""Short tasks that were claimed together: who owns each, and what of them was not told yet (engine rule 11).

Claims of a batch are in the slot's record in Redis and under locks, like any claim. Who may *start* one is decided by
its ticket: a packet that the worker puts into its own channel, of which the coordinator holds the read end as well. A
packet has one receiver, so taking back from a worker that holds the GIL never races a start: whoever receives the
ticket owns the task. The coordinator gives what it received back to Redis; the worker drops a claim whose ticket is
gone. A worker that dies with tickets in its channel has started none of them: nothing is charged for them.

A batch lasts `BATCH_SECONDS`, looked at between two tasks: then its results are told, and what was not begun goes
back. Results stand in the outbox meanwhile: the coordinator tells them when a task turns out long, or when the worker
is dead.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from kubemin import clock
from kubemin.channel import BATCH, TICKET, TICKET_KIND, PacketConnection, pack_ticket, token_of
from kubemin.clock import SECOND
from kubemin.model.estimates import WINDOW_SECONDS, Estimates, label_of
from kubemin.model.records import Claim, Outcome
from kubemin.outbox import Outbox

MOST_TASKS: Final = 64  # in one batch
MOST_STEPS: Final = 32  # of workflows: each costs Redis twice as much, and several times where it is no plain step
BATCH_SECONDS: Final = 0.012
WATCHED_SECONDS: Final = 0.5  # between two words to the coordinator that batches are run


class Batch:
    def __init__(self, tickets: PacketConnection, reports: PacketConnection, outbox: Outbox) -> None:
        self.results: list[Outcome] = []
        self.singles = True  # nothing that has ended is of a workflow, where the next step may be ready at once
        self._kinds_limit = 1  # of what was run last, by what it takes
        self._pace_limit = MOST_TASKS  # by how the last batch went on
        self._estimates = Estimates()
        self._tickets, self._reports, self._outbox = tickets, reports, outbox
        self._waiting: dict[int, Claim] = {}  # by token: claimed, its ticket in the channel or taken back
        self._began = 0.0  # 0: no batch is under way
        self._last_end = 0.0  # of a task
        self._ended = 0  # tasks of the batch
        self._full = False  # a result has no place in the outbox
        self._told = float("-inf")

    @property
    def limit(self) -> int:
        """How many tasks to ask for next."""
        return min(self._kinds_limit, self._pace_limit)

    @property
    def waiting(self) -> bool:
        """Something was claimed and not started, unless it was taken back."""
        return bool(self._waiting)

    @property
    def due(self) -> bool:
        """What has ended is to be told before the next task starts."""
        return bool(self.results) and (not self._waiting or self._full or self.over)

    @property
    def over(self) -> bool:
        """It had lasted for long enough when its last task ended."""
        return self._last_end - self._began > BATCH_SECONDS

    # --- claims -------------------------------------------------------------------------------------------------------

    def fit(self, claims: list[Claim]) -> int:
        """How many of them may stand behind each other: nothing behind one that is known to be long. What is unknown
        may be short: if it is not, what stands behind it is taken back."""
        expected = 0.0
        for count, claim in enumerate(claims, 1):
            expected += self._estimates.seconds(label_of(claim)) or 0.0
            if expected >= WINDOW_SECONDS:
                return count
        return len(claims)

    def begin(self, claims: list[Claim]) -> list[Claim]:
        """Put their tickets into the channel; those that had no room come back."""
        now = self._began = clock.monotonic()
        self._ended = 0
        if now - self._told > WATCHED_SECONDS and self._reports.try_send(BATCH, b"{}"):
            self._told = now
        for count, claim in enumerate(claims):
            self._waiting[claim.token] = claim  # before its ticket: what is received is known
            if not self._tickets.try_send(TICKET, pack_ticket(claim.run, claim.idx, claim.token)):
                del self._waiting[claim.token]
                return claims[count:]
        return []

    def own(self, token: int) -> Claim | None:
        """Its ticket was received: it is ours. Those before it were taken back."""
        if token not in self._waiting:
            return None
        for earlier in list(self._waiting):
            claim = self._waiting.pop(earlier)
            if earlier == token:
                return claim
        return None

    def taken_back(self) -> list[Claim]:
        """The channel is empty: what was not received is the coordinator's."""
        gone = list(self._waiting.values())
        self._waiting.clear()
        self._kinds_limit = 1
        return gone

    def withdraw(self, tasks: PacketConnection, put_off: deque[tuple[int, bytes]]) -> list[Claim]:
        """Claims that this worker will not start: their tickets are taken out of the channel. What else is between them
        is put off."""
        claims: list[Claim] = []
        while self._waiting:
            try:
                packet = tasks.try_recv()
            except (ValueError, EOFError, OSError):
                break
            if packet is None:
                break
            if packet[0] != TICKET_KIND:
                put_off.append(packet)
            elif (claim := self.own(token_of(packet[1]))) is not None:
                claims.append(claim)
        return claims

    # --- results ------------------------------------------------------------------------------------------------------

    def ended(self, claim: Claim, outcome: Outcome) -> None:
        label = label_of(claim)
        self._estimates.record(label, (outcome.finished - outcome.started) / SECOND)
        limit = min(self._estimates.window(label), MOST_TASKS if claim.quiet else MOST_STEPS)
        self._kinds_limit = min(self._kinds_limit, limit) if self.results else limit
        self._note_pace()
        self.singles = self.singles and claim.quiet
        self.results.append(outcome)
        if self._waiting and not self._outbox.add(outcome):
            self._full = True

    def _note_pace(self) -> None:
        """What a task takes with all that stands around it: most of it where tasks are short, and more on a busy
        machine. There too a batch is to fit its time, so that little has to go back."""
        self._last_end = clock.monotonic()
        self._ended += 1
        if self._began and self._ended > 1:  # one task alone has no pace: so two are always tried
            each = max((self._last_end - self._began) / self._ended, 1e-6)
            self._pace_limit = max(int(WINDOW_SECONDS / each), 2)

    def told(self) -> None:
        """The store has the results, or the disk."""
        self.results = []
        self.singles = True
        self._full = False
        if not self._waiting:
            self._began = 0.0
        self._outbox.clear()
