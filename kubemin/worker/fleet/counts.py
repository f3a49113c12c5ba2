"""What this worker has counted, sent to its coordinator now and then: never waited for, and no loss when it fails.

A task costs its counting and a look at the clock; a packet goes out at most every `SECONDS`, after a task or between
two, since the next one is not to wait for it. What the channel has no room for stays and goes with the next. What was
counted less than that before a long task is told after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kubemin import clock
from kubemin.channel import COUNTS, PacketConnection
from kubemin.store.base import Change
from kubemin.store.counting import Tally

SECONDS: Final = 0.2


class Sender:
    def __init__(self, channel: PacketConnection, *, metered: bool) -> None:
        self._channel = channel
        self._tally = Tally(metered=metered)
        self._due = 0.0

    def note(self, changes: Sequence[Change]) -> None:
        self._tally.note(changes)

    def left(self) -> float:
        """Seconds until there is something to send."""
        return float("inf") if self._tally.empty else max(self._due - clock.monotonic(), 0.0)

    def send(self, *, at_once: bool = False) -> None:
        """What is counted, when it is due."""
        if self._tally.empty or (clock.monotonic() < self._due and not at_once):
            return
        self._due = clock.monotonic() + SECONDS
        try:
            if self._channel.try_send(COUNTS, self._tally.packet()):
                self._tally.clear()
        except OSError:  # the supervisor is gone, which held the other end
            return
