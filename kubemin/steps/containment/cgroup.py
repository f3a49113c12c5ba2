"""Containment by an own control group for each step: limits that bite, and one write that kills all of it.

The group `step-SLOT` is made for a step and removed after it. Membership is inherited and cannot be left without rights
over another group, so a double fork with setsid changes nothing.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from kubemin.model.records import Usage
from kubemin.steps.base import StartFailed
from kubemin.steps.containment.base import Cell, Containment
from kubemin.steps.containment.delegation import STEP, Delegation
from kubemin.steps.containment.group import GroupCell
from kubemin.steps.containment.groups import KILL_SECONDS, ControlGroup
from kubemin.steps.containment.processes import Swept
from kubemin.steps.limits import Limits

_CPU_PERIOD = 100_000  # microseconds: the kernel's default


class CgroupCell(Cell):
    def __init__(self, group: ControlGroup, memory: int | None, unenforced: tuple[str, ...]) -> None:
        super().__init__(unenforced)
        self._group = group
        self._memory = memory  # the limit that is in force
        self._procs = os.open(group.file("cgroup.procs"), os.O_WRONLY | os.O_CLOEXEC)

    def join(self) -> None:
        os.write(self._procs, b"0")

    def terminate(self) -> None:
        self._group.signal(signal.SIGTERM)
        self._group.signal(signal.SIGCONT)

    def kill(self, leader: int) -> None:
        with suppress(OSError):
            self._group.kill_all()
        super().kill(leader)  # in case it did not get as far as joining

    def sweep(self) -> Swept:
        if self._group.populated():
            with suppress(OSError):
                self._group.kill_all()
            self._group.await_empty(KILL_SECONDS)
        return super().sweep()  # also reaps the orphans that the group's end has left to this process

    def memory_kill(self, code: int) -> str:
        events = self._group.counters("memory.events")
        if not events.get("oom_kill") or (code < 0 and code != -signal.SIGKILL):
            return ""
        if self._memory is not None and events.get("oom"):
            return f"killed by the kernel: it needed more than limits.memory ({self._memory / (1 << 20):g} MiB)"
        return "killed by the kernel: the machine, or the daemon's own group, ran out of memory"

    def usage(self, measured: Usage) -> Usage:
        used = self._group.counters("cpu.stat").get("usage_usec")
        cpu = measured.cpu if used is None else used / 1e6
        with suppress(OSError, ValueError):
            return Usage(cpu=cpu, memory=int(self._group.read("memory.peak")))
        return Usage(cpu=cpu, memory=measured.memory)

    def close(self) -> None:
        os.close(self._procs)
        self._group.remove()


class CgroupContainment(Containment):
    kind = "cgroup"

    def __init__(self, slot: int, lines_per_second: int, delegation: Delegation) -> None:
        super().__init__(slot, lines_per_second)
        self.enforceable = delegation.controllers
        self._group = delegation.root.child(f"{STEP}{slot}")
        self._clear()

    def _make_cell(self, limits: Limits, unenforced: tuple[str, ...]) -> Cell:
        try:
            self._clear()
            self._group.make()
            self._apply(limits, unenforced)
            return CgroupCell(self._group, None if "memory" in unenforced else limits.memory, unenforced)
        except OSError as exc:
            self._group.remove(0)
            if set(limits.wanted) - set(unenforced):
                raise StartFailed(f"limits cannot be set in {self._group.path}: {exc.strerror}") from exc
            return GroupCell(unenforced)

    def _clear(self) -> None:
        """What an earlier worker of this slot left in the group dies first."""
        if os.path.isdir(self._group.directory):
            self._group.destroy()

    def _apply(self, limits: Limits, unenforced: tuple[str, ...]) -> None:
        group = self._group
        if limits.memory is not None and "memory" not in unenforced:
            group.write("memory.max", str(limits.memory))
            with suppress(OSError):  # a kernel without swap accounting
                group.write("memory.swap.max", "0")
            group.write("memory.oom.group", "1")
        if limits.cpu is not None and "cpu" not in unenforced:
            group.write("cpu.max", f"{max(1000, round(limits.cpu * _CPU_PERIOD))} {_CPU_PERIOD}")
        if limits.pids is not None and "pids" not in unenforced:
            group.write("pids.max", str(limits.pids))
