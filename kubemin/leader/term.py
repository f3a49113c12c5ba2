"""The term: until when this node may act for the fleet, and under which epoch.

A term expires by itself. `valid()` compares the clock at each use, so a thread that hangs, a process that was stopped
or a machine that slept cannot keep a leader in office. CLOCK_BOOTTIME, because CLOCK_MONOTONIC stands still while the
machine is suspended. Everything that acts for the leader asks before each effect, and sends the epoch along, which
the store compares: between the check and the effect the process may be stopped for any time.

Three parties use it: the elector begins and extends it, in a thread of its own; the leader's duties read it; who stops
the daemon bars it. May touch: the clock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec

from kubemin.clock import boottime


class Grant(msgspec.Struct, frozen=True):
    """What was won: `until` is boottime seconds."""

    epoch: int
    holder: str
    until: float


class Term:
    """Readers take no lock: a grant is immutable, and replacing it is one assignment."""

    def __init__(self, now: Callable[[], float] = boottime) -> None:
        self._now = now
        self._grant: Grant | None = None
        self._barred = False
        self._writing = threading.Lock()

    # --- the leader's work --------------------------------------------------------------------------------------------

    def current(self) -> Grant | None:
        """The grant under which to act now; None: this node is not the leader."""
        grant = self._grant
        return grant if grant is not None and self._now() < grant.until else None

    def valid(self, epoch: int | None = None) -> bool:
        """Whether this node leads at this moment; with `epoch`: still in that very term."""
        grant = self.current()
        return grant is not None and epoch in (None, grant.epoch)

    def remaining(self) -> float:
        """Seconds left, 0.0 when it is over: the longest time-out that a request of the leader may have."""
        grant = self._grant
        return 0.0 if grant is None else max(grant.until - self._now(), 0.0)

    # --- the elector --------------------------------------------------------------------------------------------------

    def begin(self, grant: Grant) -> bool:
        """Take office. False when barred meanwhile, or when the answer came so late that the term is over."""
        with self._writing:
            if self._barred or self._now() >= grant.until:
                return False
            self._grant = grant
            return True

    def extend(self, epoch: int, until: float) -> bool:
        """Go on. False when that term is over: an answer that comes late never revives it."""
        with self._writing:
            grant = self.current()
            if grant is None or grant.epoch != epoch:
                return False
            self._grant = Grant(epoch=epoch, holder=grant.holder, until=max(grant.until, until))
            return True

    def end(self) -> None:
        """Over, at once."""
        with self._writing:
            self._grant = None

    # --- who stops the leader's work ----------------------------------------------------------------------------------

    def bar(self) -> None:
        """Over, at once, and none begins before `unbar`: not even one whose acquisition is on its way now."""
        with self._writing:
            self._barred = True
            self._grant = None

    def unbar(self) -> None:
        with self._writing:
            self._barred = False
