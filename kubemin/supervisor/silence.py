"""Whether the coordinator hangs: it is silent beyond what it said (`kubemin/pulse.py`), and that is its own doing.

Silence counts only where the process could have given a sign: while it sleeps by the clock, while it computes by its
own processor time. So nobody is killed who waits for a disk (state D), for a debugger, for a processor that others use,
or who stood still together with this supervisor (a stopped machine: looks are counted no longer than they are apart).
"""

from __future__ import annotations

from collections.abc import Callable

from kubemin import processes
from kubemin.clock import boottime
from kubemin.processes import Process
from kubemin.pulse import OPENING, Pulse

HUNG_SECONDS = 2.0  # of silence beyond what it said
LONGEST_LOOK = 0.5  # seconds that one look accounts for at most
ASLEEP, AT_WORK = "S", "R"


class Silence:
    """Of one coordinator after the other: `begin` before each fork, `is_hang` at each look."""

    def __init__(self, pulse: Pulse, look: Callable[[int], Process | None] = processes.look) -> None:
        self._pulse, self._look_at = pulse, look
        self._due = self._seconds = self._looked = self._cpu = 0.0

    def begin(self) -> None:
        self._pulse.beat(OPENING)

    def is_hang(self, pid: int, now: float) -> bool:
        """To be asked several times a second; `now` is monotonic."""
        due = self._pulse.due
        if boottime() < due:
            return False
        process = self._look_at(pid)
        if process is None:
            return False
        if due != self._due:
            self._due, self._seconds = due, 0.0
        elif process.state == ASLEEP:
            self._seconds += min(now - self._looked, LONGEST_LOOK)
        elif process.state == AT_WORK:
            self._seconds += process.cpu - self._cpu
        self._looked, self._cpu = now, process.cpu
        return self._seconds >= HUNG_SECONDS
