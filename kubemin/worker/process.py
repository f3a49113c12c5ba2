"""The worker process: from the supervisor's fork to its exit. The only entry point of this package.

A worker imports users' code, runs one step at a time, and knows nothing of stores, schedules or other workers. It dies
with the supervisor.
"""

from __future__ import annotations

import os
import pwd
import sys

from kubemin import kernel
from kubemin.channel import PacketConnection
from kubemin.config import Settings, adopt
from kubemin.exits import EXIT_CUT_OFF, EXIT_SOILED
from kubemin.model.records import Owner
from kubemin.modes import in_fleet
from kubemin.scoreboard import Scoreboard, SlotState
from kubemin.steps import environment
from kubemin.steps.containment import cgroup, group, make_containment
from kubemin.steps.python import add_to_path
from kubemin.telemetry import log
from kubemin.worker.execute import Executor
from kubemin.worker.interrupts import Interrupts
from kubemin.worker.loop import Worker
from kubemin.worker.output import PythonOutput

# Needed only after the fork, imported before it: an import costs each worker half a megabyte of pages of its own.
PRELOADED = (cgroup, group, pwd)
_input_closed = False


def run_worker(
    *,
    slot: int,
    incarnation: int,
    generation: int,
    instance: str,
    settings: Settings,
    board: Scoreboard,
    tasks: PacketConnection,
    reports: PacketConnection,
    tickets: PacketConnection | None = None,
    patience: float = 0.0,
) -> int:
    """Runs until TERM or INT, or until this worker wants to be replaced; then it returns the process' exit code: 0,
    EXIT_SOILED when it is replaced for what a Python step left (`patience`: hygiene.py), EXIT_CUT_OFF when it cannot
    report.

    `instance` names the daemon's life; a worker's claims are its owner's by (instance, slot, incarnation).
    `tickets` is the write end of `tasks`: a fleet's worker puts tickets of its own claims there. Without a fleet it is
    closed, so that the channel ends with the supervisor.
    """
    kernel.become_subreaper()
    log.set_level(settings.log.level)
    writer = board.slot_writer(slot)
    writer.state(SlotState.STARTING, pid=os.getpid(), incarnation=incarnation, generation=generation)
    interrupts = Interrupts(reports)
    interrupts.install()
    add_to_path(settings.python.path)
    close_input()
    output = PythonOutput(settings.runtime_dir, settings.output.lines_per_second)
    environment.prepare_process(environment.instance_marker(settings.state_dir))
    adopt(settings)
    containment = make_containment(settings, slot)
    executor = Executor(slot, settings, writer, interrupts, output, containment)
    log.debug("worker is ready", worker=slot, instance=instance, incarnation=incarnation, generation=generation)
    if in_fleet(settings) and tickets is not None:
        from kubemin.worker.fleet.process import fleet_worker

        owner = Owner(instance, slot, incarnation)
        worker: Worker = fleet_worker(
            owner, settings, writer, tickets, tasks, reports, interrupts, output, executor, patience
        )
    else:
        if tickets is not None:
            tickets.close()
        worker = Worker(slot, settings, writer, tasks, reports, interrupts, output, executor, patience)
    worker.run()
    if worker.cut_off:
        return EXIT_CUT_OFF
    writer.state(SlotState.STOPPING)
    return EXIT_SOILED if worker.soiled else 0


def close_input() -> None:
    """A Python step that reads standard input finds its end, not the daemon's terminal. Once, before the forks if it
    can be: each worker for itself would have forty pages more."""
    global _input_closed
    if not _input_closed:
        _input_closed = True
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(null, 0)
        os.close(null)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - the process's for life; the old one may have read ahead
