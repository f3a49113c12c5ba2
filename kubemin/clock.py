"""Time, in one place, so that tests inject it.

Stored instants are integers: microseconds since the Unix epoch, UTC. Intervals inside a process are
monotonic seconds (float). Nothing computes an interval from two wall-clock readings.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

Micros = int
WallClock = Callable[[], Micros]

SECOND: Micros = 1_000_000
LAST: Micros = 253_370_764_800 * SECOND  # 9999-01-01: what a calendar can still show


def wall() -> Micros:
    """Now, in microseconds since the epoch."""
    return time.time_ns() // 1000


monotonic = time.monotonic


def boottime() -> float:
    """Seconds since boot, suspended time included; the same in all processes of a machine."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def rfc3339(at: Micros | None) -> str | None:
    """`2026-11-24T07:18:28.123456Z`, or None."""
    if at is None:
        return None
    return datetime.fromtimestamp(at / SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at % SECOND:06d}Z"
