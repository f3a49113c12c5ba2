"""Drop what the retention no longer keeps, a slice at a time, so that it never holds up a hand-out."""

from __future__ import annotations

from kubemin.store.base import Retention, Store

PERIOD = 30.0  # seconds between two looks
SLICE_RUNS = 200  # a call: a few milliseconds


def prune_slice(store: Store, retention: Retention) -> bool:
    """True when there may be more to drop."""
    return store.prune(retention, SLICE_RUNS) >= SLICE_RUNS
