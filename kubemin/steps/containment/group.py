"""Containment where no control group was delegated: process group, child subreaper, and a sweep of what is left.

Nothing here can hold a step to a limit. What was killed for memory is guessed from the machine's own count of such
kills.
"""

from __future__ import annotations

import signal

from kubemin.steps.containment.base import Cell, Containment
from kubemin.steps.limits import Limits

_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)  # itself, or a child of a shell, which passes that on so


def _memory_kills() -> int:
    """How often the kernel has killed for memory on this machine since boot; 0 where it does not tell."""
    try:
        with open("/proc/vmstat", "rb") as file:
            _, _, rest = file.read().partition(b"\noom_kill ")
    except OSError:
        return 0
    return int(rest.split(None, 1)[0]) if rest else 0


class GroupCell(Cell):
    def __init__(self, unenforced: tuple[str, ...]) -> None:
        super().__init__(unenforced)
        self._kills_before = _memory_kills()

    def memory_kill(self, code: int) -> str:
        if code not in _KILLED or _memory_kills() <= self._kills_before:
            return ""
        return "killed by the kernel: the machine ran out of memory"


class GroupContainment(Containment):
    kind = "group"

    def _make_cell(self, limits: Limits, unenforced: tuple[str, ...]) -> Cell:
        return GroupCell(unenforced)
