"""What a candidate has seen of the lease, and when it may take it. Pure.

The times in a record are its writer's, whose clock may be hours off: they are for people. A candidate measures, by
its own clock, how long the record has not *changed*, and compares with the duration that its holder promised. A lease
that vanished proves nothing about its holder either: the term of the last one seen is waited out.
"""

from __future__ import annotations

from kubemin.leader.lease.base import LeaseRecord


class Sight:
    """`note` each answer with the time at which it had come; then `free_at`."""

    def __init__(self, identity: str, duration: float) -> None:
        self._identity = identity
        self._duration = duration  # of a holder that does not say its own
        self._expiry: float | None = None  # of the last holder seen; None: never seen one, or it has let go
        self.record: LeaseRecord | None = None
        self.highest = -1  # transitions ever seen

    @property
    def holder(self) -> str:
        return self.record.holder if self.record is not None else ""

    def note(self, record: LeaseRecord | None, now: float) -> None:
        before, self.record = self.record, record
        if record is None:
            return
        self.highest = max(self.highest, record.transitions)
        if record.holder in ("", self._identity):  # our own earlier term is over: it ended here
            self._expiry = None
        elif record.expires_in is not None:
            self._expiry = now + record.expires_in
        elif self._expiry is None or before is None or _changed(before, record):
            self._expiry = now + (record.duration or self._duration)

    def free_at(self, now: float) -> float:
        """When it may be taken: `now` when nobody holds it. Looked at again then: only an unchanged record is free."""
        return now if self._expiry is None else self._expiry

    def next_transitions(self, floor: int) -> int:
        """For the next acquisition: above everything seen here, and such that the epoch is above `floor`, the
        store's."""
        return max(self.highest + 1, floor, 0)


def _changed(before: LeaseRecord, record: LeaseRecord) -> bool:
    return (before.uid, before.mark) != (record.uid, record.mark)
