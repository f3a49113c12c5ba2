"""What a fleet needs of a store beyond `base.Store`: workers that pull, nodes that come and go, a leader with a term.

`store/redis/node.py` has it. Contract, in addition to that of `base.py`:

* A worker has one store of its own, opened after the fork. `finish_and_claim` is its only call while it is busy,
  `begin_wait`, `end_wait` and `claim_popped` while it is idle. A request that was answered gets the same answer again,
  also over a new connection: after an error, call again with the same outcomes.
* `StoreUnavailable` with `fatal` False passes by itself: keep what is finished, wait `client.retry_in()` seconds.
* Duties (`promote`, `expire`, `prune`, `fire`, `recover_lapsed`) are the leader's: after `lead` they carry epoch and
  holder, and the store raises `Refused` with code `fenced` when another term is in force. `advance` and `rescue` may be
  called by any node at any time: what they do twice is done once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from kubemin.model.records import Claim, Outcome, Owner
from kubemin.store.base import Store, Verdict

Entry = Sequence[bytes]  # a list, and what was popped from it: `TASK@SEQ`
Held = tuple[Owner, str, int, int]  # owner, run, idx, token


class FleetStore(Store, Protocol):
    # --- workers -----------------------------------------------------------------------------------------------------

    def finish_and_claim(
        self, owner: Owner, outcomes: Sequence[Outcome], queues: Sequence[str], limit: int
    ) -> tuple[list[Verdict], list[Claim]]:
        """One round trip: record how attempts ended with all that follows, let go their locks, and claim up to `limit`
        tasks. A retired owner gets no claims, and its outcomes are FENCED, or DUPLICATE where they were accepted
        before."""

    def owes(self, owner: Owner) -> bool:
        """Whether a call failed that may have claimed something: `finish_and_claim` tells it when it is called
        again."""

    def begin_wait(self, owner: Owner, queues: Sequence[str], limit: int) -> int:
        """Block until a queue (in priority order) has an entry, 2 s at most, and claim up to `limit` tasks then; a
        descriptor that is readable at its end. The claim is a request like any: until `claim_popped` has told of it,
        the owner `owes`."""

    def end_wait(self) -> Entry | None:
        """What was popped."""

    def claim_popped(self, owner: Owner, queues: Sequence[str], entry: Entry | None) -> list[Claim]:
        """What was claimed at the end of the wait. An entry whose claim failed is found by `rescue`."""

    # --- nodes -------------------------------------------------------------------------------------------------------

    def renew(self, owners: Sequence[Owner], held: Iterable[Held]) -> Any:
        """Renew in one call the locks of everything that these owners hold, and stamp the time that recovery goes by.
        Leave out workers that are stopped or hang: their locks are to lapse. A task in `fenced` may have been finished
        just now: look again before anybody is killed."""

    def beat(self, record: Any, place: str, life: float, *, joins: bool = False) -> Any:
        """None: noted. Else, refuse to start: the record of another place that lives under this name, or, where it
        `joins`, of a node that shares no signing key with it, as no other does."""

    def adopt(self, instance: str, started: dict[tuple[str, int], int] | None) -> int:
        """Take back what a dead instance held: it was proven dead by the lock on its state directory."""

    # --- recovery ----------------------------------------------------------------------------------------------------

    def rescue(self, queues: Sequence[str], wait: float = 2.0) -> tuple[list[str], int]:
        """Push again what was popped `wait` seconds ago and not claimed: (tasks, suspects that are left)."""

    def recover_lapsed(self) -> tuple[int, float]:
        """Queue again what is held under locks that lapsed: (tasks, seconds of grace left, in which nothing is taken
        because the store itself was away)."""

    # --- leadership and the ledger -----------------------------------------------------------------------------------

    def newest_epoch(self) -> int: ...

    def lead(self, epoch: int, holder: str) -> bool:
        """A term begins, and this store's duties carry it. False: a newer one is known."""

    @property
    def durability(self) -> Any:
        """Whether the server can be waited for (`require`), and the wait (`confirm`): store/redis/durability.py."""
