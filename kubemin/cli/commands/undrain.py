"""End a drain."""

from __future__ import annotations

import signal

import click

from kubemin.cli import control, options, render
from kubemin.cli.session import Session


@options.command("undrain", "kubeminctl undrain")
@click.option("--timeout", type=float, default=30.0, show_default=True, help="Seconds to wait for the daemon's answer.")
def command(session: Session, timeout: float) -> None:
    """End a drain: workers start tasks again."""
    outcome = control.request(session.settings, signal.SIGUSR2, drained=False, timeout=timeout)
    if session.json:
        render.document({"drained": False, "outcome": outcome})
    else:
        render.line(render.clean(outcome or "workers start tasks again"))
