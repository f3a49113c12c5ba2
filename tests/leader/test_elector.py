"""The elector, one step at a time over a lease and a clock that the test holds: what each answer does to a term."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from kubemin.config import LeaderElection
from kubemin.leader.announcer import Announcer
from kubemin.leader.elector import NO_FLOOR, STAND_BACK, Elector, Role
from kubemin.leader.lease.base import Claim, Conflict, LeaseRecord, Unanswered

SETTINGS = LeaderElection()


class Lease:
    """It answers after `slow` seconds; the next `conflicts` writes with a 409."""

    kind, place, recreates = "kubernetes", "Lease held by the test", True

    def __init__(self) -> None:
        self.now = 1000.0
        self.slow = 0.0
        self.record: LeaseRecord | None = None
        self.conflicts = 0

    def read(self, timeout: float) -> LeaseRecord | None:
        return self.record

    def probe(self, timeout: float) -> str:
        return ""

    def acquire(self, seen: LeaseRecord | None, claim: Claim, timeout: float) -> LeaseRecord:
        return self._write(LeaseRecord(claim.holder, claim.duration, claim.transitions, uid="first"))

    def renew(self, held: LeaseRecord, at: int, timeout: float) -> LeaseRecord:
        return self._write(held)

    def release(self, held: LeaseRecord, at: int, timeout: float) -> None:
        self._write(msgspec.structs.replace(held, holder=""))

    def reconnect(self) -> None: ...

    def close(self) -> None: ...

    def _write(self, record: LeaseRecord) -> LeaseRecord:
        self.now += self.slow
        if self.conflicts:
            self.conflicts -= 1
            raise Conflict("the object has been modified")
        version = str(int(record.version or 0) + 1)
        self.record = msgspec.structs.replace(record, version=version, mark=version)
        return self.record


def candidate(lease: Lease, floor: Callable[[], int] = lambda: 0) -> Elector:
    return Elector(lease, "me", SETTINGS, floor, Announcer("a", lease.place), now=lambda: lease.now)


def leader(lease: Lease) -> Elector:
    elector = candidate(lease)
    elector.step()
    assert elector.term.valid() and elector.role is Role.LEADER
    return elector


def test_a_term_counts_from_before_its_renewal_was_sent() -> None:
    """And so it does from its acquisition: candidates count from when they heard of the same write."""
    lease = Lease()
    lease.slow = 2.0
    elector = leader(lease)
    assert elector.term.remaining() == SETTINGS.renew_deadline - lease.slow
    lease.now += 3.0
    elector.step()
    assert elector.term.remaining() == SETTINGS.renew_deadline - lease.slow


def test_after_a_conflict_our_own_lease_is_kept() -> None:
    lease = Lease()
    elector = leader(lease)
    lease.conflicts = 1
    assert elector.step() == 0.0 and elector.role is Role.LEADER
    elector.step()
    assert elector.term.valid()


def test_a_lease_made_anew_under_our_name_is_not_ours() -> None:
    """Somebody deleted it and put a copy in its place: holder and transitions prove nothing."""
    lease = Lease()
    elector = leader(lease)
    assert lease.record is not None
    lease.record = msgspec.structs.replace(lease.record, uid="second")
    lease.conflicts = 1
    elector.step()
    assert not elector.term.valid() and elector.role is Role.CANDIDATE


def test_another_transition_under_our_name_is_not_ours() -> None:
    lease = Lease()
    elector = leader(lease)
    assert lease.record is not None
    lease.record = msgspec.structs.replace(lease.record, transitions=lease.record.transitions + 1)
    lease.conflicts = 1
    elector.step()
    assert not elector.term.valid() and elector.role is Role.CANDIDATE


def test_a_free_lease_is_left_alone_while_the_store_cannot_say_its_epoch() -> None:
    lease = Lease()

    def away() -> int:
        raise Unanswered("Redis is away")

    elector = candidate(lease, away)
    elector.step()
    assert lease.record is None and not elector.term.valid()
    assert elector.figures.outage == f"{NO_FLOOR}: Redis is away"


def test_who_steps_down_lets_the_others_go_first() -> None:
    """For a few of their looks; where none of them wants the lease, it leads again."""
    lease = Lease()
    elector = leader(lease)
    elector.step_down("asked for")
    assert not elector.term.valid()
    elector.step()
    assert lease.record is not None and lease.record.holder == ""
    lease.now += (STAND_BACK - 1) * SETTINGS.retry_period
    elector.step()
    elector.step()
    assert not elector.term.valid()
    lease.now += 2 * SETTINGS.retry_period
    elector.step()
    elector.step()
    assert elector.term.valid()


def test_who_stepped_down_goes_on_when_its_successor_leaves_too() -> None:
    """Two hand-overs soon after another, as in an upgrade: the first leader is the one to follow the second."""
    lease = Lease()
    elector = leader(lease)
    elector.step_down("asked for")
    elector.step()
    assert lease.record is not None
    successor = msgspec.structs.replace(lease.record, holder="other", transitions=lease.record.transitions + 1)
    lease.release(successor, 0, 1.0)
    elector.step()
    elector.step()
    assert elector.term.valid()
