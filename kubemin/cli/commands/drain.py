"""Let workers finish and start nothing."""

from __future__ import annotations

import signal

import click

from kubemin.cli import control, options, render
from kubemin.cli.session import Session


@options.command("drain", "kubeminctl drain")
@click.option("--timeout", type=float, default=30.0, show_default=True, help="Seconds to wait for the daemon's answer.")
def command(session: Session, timeout: float) -> None:
    """Let workers finish what they run and start nothing, until `kubeminctl undrain`."""
    outcome = control.request(session.settings, signal.SIGUSR2, drained=True, timeout=timeout)
    if session.json:
        render.document({"drained": True, "outcome": outcome})
    else:
        render.line(render.clean(outcome or "drained: running tasks finish, nothing is started"))
