"""The supervisor process: what is there before its loop begins, and what is taken away when it has ended."""

from __future__ import annotations

import os
import signal

from kubemin import kernel
from kubemin.config import Settings
from kubemin.proctitle import set_title
from kubemin.supervisor import forking, start
from kubemin.supervisor.loop import NOW, Supervisor
from kubemin.supervisor.node import Check, Entries, Node
from kubemin.supervisor.notify import Notifier
from kubemin.supervisor.signals import SignalBox
from kubemin.supervisor.statelock import StateLock
from kubemin.telemetry import log


def run_supervisor(settings: Settings, *, config_path: str | None, reload: Check) -> int:
    """The daemon, from here to its end; returns its exit code. Raises Refused (the state directory is in use) and
    StoreUnavailable (a directory cannot be used)."""
    from kubemin.coordinator.process import run_coordinator
    from kubemin.worker.process import close_input, run_worker
    from kubemin.worker.rehearsal import rehearse

    close_input()
    return supervise(settings, Entries(run_worker, run_coordinator, reload, rehearse))


def supervise(settings: Settings, entries: Entries) -> int:
    """`run_supervisor` with children of the caller's choice."""
    signals = SignalBox()
    signals.install()
    start.make_directories(settings)
    lock = StateLock.take(settings.state_dir, give_up=lambda: bool(signals.pending & {signal.SIGTERM, *NOW}))
    kernel.become_subreaper()
    start.prepare_steps(settings)
    predecessor = start.read_predecessor(os.path.join(settings.runtime_dir, start.SCOREBOARD))
    instance = start.new_instance()
    board = start.make_board(settings, instance)
    start.claim_runtime(settings)
    notify = Notifier()
    node = Node(settings, board, instance, entries, forking.Forker())
    set_title("kubemin: supervisor")  # the first title copies the environment: once, and not in each child
    log.info("starting", node=settings.node_id, workers=settings.max_workers, state=settings.state_dir)
    try:
        return Supervisor(node, signals, notify, predecessor).run()
    finally:
        start.leave(settings)
        notify.close()
        lock.release()
        log.info("stopped")
