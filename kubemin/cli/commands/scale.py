"""Change the number of workers."""

from __future__ import annotations

import signal

import click

from kubemin.cli import control, options, render
from kubemin.cli.pool import require_pool
from kubemin.cli.session import Session


@options.command("scale", "kubeminctl scale 20")
@click.argument("workers", type=click.IntRange(1, 1024), metavar="N")
@click.option("--timeout", type=float, default=30.0, show_default=True, help="Seconds to wait for the daemon's answer.")
def command(session: Session, workers: int, timeout: float) -> None:
    """Make the pool N workers large, until the next restart. Only workers without a task go; none is cut short."""
    now = require_pool(session.settings).max_workers
    number = signal.SIGTTIN if workers >= now else signal.SIGTTOU
    outcome = control.request(session.settings, number, workers=workers, timeout=timeout)
    if session.json:
        render.document({"workers": workers, "outcome": outcome})
    else:
        render.line(render.clean(outcome or f"the pool is {workers} workers large"))
