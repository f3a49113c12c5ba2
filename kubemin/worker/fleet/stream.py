"""Short single tasks that come one by one, faster than each is waited for: they are let gather, and claimed together.

A wait, a claim and a report for each would cost several times what it takes to run it, and take the processor from who
submits them. So while a stream flows a worker sleeps for a moment instead of blocking at the server, the longer the
more each look brings, and reports before it sleeps without claiming the few that came meanwhile. A task that comes
alone is never waited for: a stream is known by an entry that came as soon as its worker had begun to wait.
"""

from __future__ import annotations

from typing import Final

STREAM_SECONDS: Final = 0.001  # an entry that comes as soon is one of many
LOOKS: Final = 5  # in vain, before it blocks again
MOST_MILLIS: Final = 4  # of one sleep: what a stream adds to the start of a task at most


class Stream:
    """What one worker knows of it. `most_millis` 0: it never sleeps (a rehearsal, whose tasks all come at once)."""

    __slots__ = ("_looks", "_millis", "_more", "_most")

    def __init__(self, most_millis: int = MOST_MILLIS) -> None:
        self._most = most_millis
        self._looks = 0  # that are left until the stream counts as over; 0: none flows
        self._millis = min(1, most_millis)
        self._more = False  # the last claim brought as many as were asked for: a backlog, which is taken as it stands

    @property
    def flows(self) -> bool:
        return self._looks > 0

    @property
    def gathers(self) -> bool:
        """What comes now is left to gather: it flows, and all that there was is claimed."""
        return self._looks > 0 and not self._more

    @property
    def millis(self) -> int:
        """Of the next sleep."""
        return self._millis

    def popped(self, waited: float) -> None:
        """An entry came after a wait of so many seconds."""
        if waited < STREAM_SECONDS:
            self._looks = LOOKS

    def claimed(self, asked: int, found: int) -> None:
        """A claim of up to `asked` tasks has brought so many."""
        self._more = 0 < asked <= found
        if found:
            self._millis = min(found, self._most)

    def looked(self, found: int) -> None:
        """After a sleep. Where other workers take the stream's tasks, this one looks less often."""
        self._looks = LOOKS if found else self._looks - 1
        if not found:
            self._millis = min(2 * self._millis, self._most)
