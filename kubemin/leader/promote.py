"""Queue what has become due: delayed runs, retries whose backoff is over; time out runs past their deadline."""

from __future__ import annotations

from kubemin.clock import SECOND, Micros
from kubemin.store.base import SLICE, Store

LONGEST_WAIT = 60.0  # seconds; wall clocks step, so a due time is looked at again at least this often


def promote_due(store: Store, now: Micros) -> bool:
    """True when there may be more that is due."""
    due = store.next_due()
    if due is None or due > now:
        return False
    return store.promote(SLICE) + store.expire(SLICE) >= SLICE


def seconds_to_next(store: Store, now: Micros) -> float:
    """Seconds until this duty has work, at most LONGEST_WAIT."""
    due = store.next_due()
    if due is None:
        return LONGEST_WAIT
    return min(max((due - now) / SECOND, 0.0), LONGEST_WAIT)
