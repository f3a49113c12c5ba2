"""Whether the store can be written, and what the log and the loop make of it when not: said once, tried with pauses.

At a start there is no loop yet: a full disk ends the process, and its keeper forks the next one a second later.
"""

from __future__ import annotations

from kubemin import clock
from kubemin.errors import KubeminError, NoRoom, StoreUnavailable
from kubemin.exits import EXIT_NO_ROOM, EXIT_STORE_UNUSABLE
from kubemin.scoreboard import Scoreboard
from kubemin.telemetry import log

PAUSES = (0.1, 0.2, 0.5, 1.0)  # seconds between tries, while the store fails


class StoreHealth:
    def __init__(self) -> None:
        self.error = ""  # what is wrong now
        self._failures = 0  # in a row
        self._since = 0.0

    @property
    def failing(self) -> bool:
        return self._failures > 0

    @property
    def pause(self) -> float:
        """Seconds before the next try."""
        return PAUSES[min(self._failures, len(PAUSES)) - 1]

    def fails(self, exc: StoreUnavailable) -> None:
        if not self._failures:
            self._since = clock.monotonic()
            log.error("the store cannot be written; nothing new is accepted", reason=str(exc))
        self._failures += 1
        self.error = f"the store cannot be written: {exc}"

    def works(self) -> None:
        if self._failures:
            log.info("the store can be written again", seconds=round(clock.monotonic() - self._since, 1))
            self._failures, self.error = 0, ""


def cannot_start(board: Scoreboard, exc: KubeminError) -> int:
    """The exit code. A full disk may get room, so others will try again: that is said once, and shown by `status` and
    the service manager until one of them can start."""
    if not isinstance(exc, NoRoom):
        log.error("the coordinator cannot start", reason=str(exc))
        return EXIT_STORE_UNUSABLE
    known = board.read_coordinator()
    if known is None or not known.error:
        log.error("waiting for room on the disk", reason=str(exc))
    board.write_coordinator(ready=False, error=str(exc))
    return EXIT_NO_ROOM
