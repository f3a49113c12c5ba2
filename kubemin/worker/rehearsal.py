"""What every worker does with a task, done once in the supervisor before it forks, with no task and no user's code.

The interpreter writes into what it executes: bytecode is specialised, method caches are filled, and each such write
after a fork costs the child a page of its own. Done before the fork, the pages stay shared: a worker that has run a
thousand tasks then has 0.6 MB less to itself. Touches one spare slot of the scoreboard and a socket pair, and leaves
nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

import msgspec

from kubemin import faults
from kubemin.channel import PacketConnection, pack_task, packet_pair, unpack_report, unpack_task
from kubemin.config import Settings
from kubemin.config.settings import Python
from kubemin.model.records import Claim
from kubemin.modes import in_fleet
from kubemin.scoreboard import Scoreboard, SlotState, SlotWriter
from kubemin.steps.capture import Emit
from kubemin.steps.containment.base import Cell, Containment
from kubemin.steps.limits import Limits
from kubemin.telemetry import log
from kubemin.worker.execute import Executor
from kubemin.worker.hygiene import Hygiene
from kubemin.worker.interrupts import Interrupts
from kubemin.worker.kept import Modules
from kubemin.worker.output import PythonOutput
from kubemin.worker.reports import Reports
from kubemin.worker.title import Title

TASKS = 64  # the interpreter specialises after a few executions, one cache after another
_FUNCTION = "operator:truth"


class _NoOutput(PythonOutput):
    """Leaves stdout and stderr alone."""

    def __init__(self) -> None: ...

    def begin(self, emit: Callable[[], Emit], masks: Iterable[str] = ()) -> None: ...

    def end(self) -> tuple[str, str]:
        return "", ""

    def flush_c(self) -> None: ...


class _NoContainment(Containment):
    """Whatever runs below this process is not a step's."""

    kind = "none"

    def _make_cell(self, limits: Limits, unenforced: tuple[str, ...]) -> Cell:
        raise AssertionError("a rehearsal runs no command")

    def kill_leftovers(self) -> int:
        return 0


class _NoTitle(Title):
    """The process keeps the supervisor's."""

    def _show(self, what: str) -> None: ...


class _Unseen(Executor):
    """Runs its tasks without a word to `ps`."""

    def __init__(self, slot: int, settings: Settings, writer: SlotWriter, interrupts: Interrupts) -> None:
        super().__init__(slot, settings, writer, interrupts, _NoOutput(), _NoContainment(slot, 0))
        self._title = _NoTitle(slot)


def rehearse(settings: Settings, board: Scoreboard) -> None:
    """Run TASKS tasks that do nothing from packet to packet. Skipped where it would be seen: with the debug log, and
    with fault points armed."""
    if log.enabled("debug") or faults.armed():
        return
    ours, theirs = packet_pair()
    try:
        admitting = msgspec.structs.replace(settings, python=Python(allow=(_FUNCTION,)))
        _perform(admitting, settings.python.allow, board, ours, theirs)
    finally:
        ours.close()
        theirs.close()


def _perform(
    settings: Settings, allow: Iterable[str], board: Scoreboard, ours: PacketConnection, theirs: PacketConnection
) -> None:
    slot = board.slots - 1
    writer = board.slot_writer(slot)
    writer.state(SlotState.STARTING, pid=os.getpid(), incarnation=0, generation=0)
    interrupts = Interrupts(theirs)
    executor = _Unseen(slot, settings, writer, interrupts)
    reports = Reports(theirs, lambda: False)
    hygiene = Hygiene(Modules().holding)
    for pattern in allow:
        fnmatchcase(_FUNCTION, pattern)  # compiled once, for all workers
    work = msgspec.Raw(msgspec.json.encode({"python": _FUNCTION, "args": [1]}))
    for token in range(1, TASKS + 1):
        claim = Claim("0" * 20, 0, _FUNCTION, _FUNCTION, token, 1, 60.0, work, quiet=True)
        acked, taken = unpack_task(pack_task(token - 1, claim))
        reports.acknowledge(acked)
        reports.send(executor.execute(taken))
        writer.idle(token)
        packet = ours.try_recv()
        if packet is not None:
            unpack_report(packet[1])
        hygiene.check()
    interrupts.close()
    if in_fleet(settings):
        from kubemin.worker.fleet.rehearsal import rehearse_in_fleet

        rehearse_in_fleet(settings, _FUNCTION, writer, slot, _NoOutput(), executor)
    writer.clear()
