"""Which worker is replaced next during a reload. A pure rule, so that it can be tested whole.

Workers of the old generation are told to end (TERM: finish the task, take no other) one at a time, idle ones first. A
busy one is told when no idle one is left; its capacity is gone only when its task ends, so it must not hold up the
others for long. The canary of the new generation stays until the end: so the pool never has more than one worker too
few.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

BUSY_SECONDS = 5.0  # for a busy worker that was told, before the next busy one is


class View(NamedTuple):
    """What matters of one slot. Nobody in it: `there` is False. Times are monotonic seconds."""

    slot: int
    there: bool
    starting: bool = False  # not idle yet
    old: bool = False
    told_at: float | None = None
    running: bool = False
    started: float = 0.0  # of its task, on any clock: only compared


def next_to_replace(views: Iterable[View], now: float) -> int | None:
    """The slot whose worker is to be told to end now, or None: not now, or nothing is left to do."""
    views = list(views)
    if any(not v.there or v.starting or (v.told_at is not None and not v.running) for v in views):
        return None  # one is on its way already
    candidates = [v for v in views if v.old and v.told_at is None]
    idle = [v for v in candidates if not v.running]
    if idle:
        return idle[0].slot
    if any(v.told_at is not None and now < v.told_at + BUSY_SECONDS for v in views):
        return None
    # The one with the youngest task: the others may be in the middle of hours of work.
    return max(candidates, key=lambda v: v.started).slot if candidates else None
