"""Let workers finish and start nothing."""

from __future__ import annotations

import signal
import time

import click

from kubemin import clock
from kubemin.cli import control, options, render
from kubemin.cli.history import Expected, History, total_left
from kubemin.cli.pool import read_pool
from kubemin.cli.session import Session
from kubemin.errors import Unreachable

LOOK = 0.2  # seconds between two looks at the workers
HEADERS = ("WORKER", "TASK", "STEP", "FOR", "USUALLY", "LEFT")


@options.command(
    "drain",
    """
    kubeminctl drain
    kubeminctl drain --wait && systemctl restart kubemin
    """,
)
@click.option("--wait", is_flag=True, help="Until no task runs any more.")
@click.option(
    "--timeout", type=float, help="Seconds to wait: for the daemon's answer (30), and with --wait for the last task."
)
def command(session: Session, wait: bool, timeout: float | None) -> None:
    """Let workers finish what they run and start nothing, until `kubeminctl undrain`.

    Tells how long the running steps will take, by what they took in their last ten completed runs.
    """
    outcome = control.request(session.settings, signal.SIGUSR2, drained=True, timeout=min(timeout or 30.0, 30.0))
    steps = _running(session)
    if not session.json:
        _show(outcome, steps)
        render.flush()
    if wait:
        _await_end(session, timeout)
        steps = []
    if session.json:
        document = {"drained": True, "outcome": outcome, "running": steps, "secondsLeft": total_left(steps)}
        render.document(document)
    elif wait:
        render.line("no task runs any more")


def _running(session: Session) -> list[Expected]:
    history = History(session.client)
    return [history.expect(worker) for worker in read_pool(session.settings).workers if worker.run]


def _show(outcome: str, steps: list[Expected]) -> None:
    render.line(render.clean(outcome or "drained: running tasks finish, nothing is started"))
    if not steps:
        render.line("no task runs")
        return
    render.table(HEADERS, [_row(step) for step in steps], "")
    left = total_left(steps)
    if left is None:
        render.line("when they end is not known: a step without history, or one that takes longer than ever before")
    else:
        render.line(f"they should have ended in {render.duration(left)}")


def _row(step: Expected) -> tuple[object, ...]:
    left = "longer than ever" if step.left is None and step.usual is not None else render.duration(step.left)
    return step.slot, step.task, step.label, render.duration(step.seconds), render.duration(step.usual), left


def _await_end(session: Session, timeout: float | None) -> None:
    """Raises Unreachable when that takes longer."""
    deadline = None if timeout is None else clock.monotonic() + timeout
    while any(worker.run for worker in read_pool(session.settings).workers):
        if deadline is not None and clock.monotonic() >= deadline:
            raise Unreachable(f"tasks still run after {timeout:g} s; the node stays drained", code="no_answer")
        time.sleep(LOOK)
