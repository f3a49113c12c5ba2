"""What holds a step's processes together: the interface of the kinds of containment.

A worker has one Containment for life and runs one step at a time. A **cell** is the containment of one step: made
before the fork, joined by the child before it gives up its rights, emptied when the step ends for whatever reason
(promise P8).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from signal import SIGKILL
from typing import TYPE_CHECKING, ClassVar

from kubemin.model.records import Usage
from kubemin.processes import has_children
from kubemin.steps.containment.processes import Swept, kill_descendants, terminate_descendants
from kubemin.steps.limits import Limits, admit

if TYPE_CHECKING:
    from kubemin.steps.base import Ended, Step


class Cell:
    """One step's processes, held by process group and parentage. Stronger kinds override what they do better."""

    def __init__(self, unenforced: tuple[str, ...] = ()) -> None:
        self.unenforced = unenforced
        self.left: list[int] = []  # processes that survived SIGKILL

    def join(self) -> None:
        """Called in the child, with the daemon's rights, before anything of the step runs."""

    def terminate(self) -> None:
        """Ask every process of the step to end."""
        terminate_descendants()

    def kill(self, leader: int) -> None:
        """SIGKILL to the step's main process, which is not reaped yet, to its process group, and to what else is at
        hand."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, SIGKILL)
        with suppress(ProcessLookupError, PermissionError):
            os.kill(leader, SIGKILL)

    def sweep(self) -> Swept:
        """After the main process was reaped: kill and reap all that is left of the step."""
        swept = kill_descendants()
        self.left = swept.left
        return swept

    def memory_kill(self, code: int) -> str:
        """What to tell when a step that ended with `code` (negative: by that signal) did so because the kernel killed
        something of it for memory; empty when that was not the reason."""
        return ""

    def usage(self, measured: Usage) -> Usage:
        """What the step used; `measured` is the sum of what its reaped processes reported."""
        return measured

    def close(self) -> None:
        """Leave nothing behind."""


class Containment(ABC):
    """`make_containment` picks the strongest kind that the machine allows."""

    kind: ClassVar[str]
    enforceable: frozenset[str] = frozenset()  # names of limits

    def __init__(self, slot: int, lines_per_second: int) -> None:
        self.slot = slot
        self.lines_per_second = lines_per_second
        self.unkillable = False  # a process of an earlier step did not die: the worker should be replaced

    def open(self, limits: Limits) -> Cell:
        """A cell for one step. Raises StartFailed when a limit cannot be enforced and `bestEffort` does not allow
        that."""
        return self._make_cell(limits, admit(limits, self.enforceable))

    @abstractmethod
    def _make_cell(self, limits: Limits, unenforced: tuple[str, ...]) -> Cell: ...

    def call(self, function: Callable[[], bytes], step: Step) -> tuple[Ended, bytes | None]:
        """Call `function` in a forked child under the step's limits, deadline and interrupts, with its output captured.

        (Ended with state COMPLETED, result) when it returned; else the bytes are None: an exception is
        FAILED/EXCEPTION with `Type: text` (MemoryError is OOM, SystemExit is EXIT), and its traceback is in the
        tail of stderr.
        """
        from kubemin.steps.command import call

        return call(function, step, self)

    def kill_leftovers(self) -> int:
        """Kill every process below this worker; returns how many there were. About 1 µs when there is none."""
        if not has_children():
            return 0
        swept = kill_descendants()
        self.unkillable = self.unkillable or bool(swept.left)
        return swept.killed
