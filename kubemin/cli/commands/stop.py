"""Stop the daemon."""

from __future__ import annotations

import click

from kubemin.cli import control, options, render
from kubemin.cli.session import Session

MARGIN = 25.0  # seconds beyond the grace period: terminating trees, killing, the last commit


@options.command(
    "stop",
    """
    kubeminctl stop
    kubeminctl stop --now
    """,
)
@click.option("--now", is_flag=True, help="End running tasks at once; they run again at the next start.")
@click.option("--timeout", type=float, help="Seconds to wait for its end (default: gracefulTimeout and some more).")
def command(session: Session, now: bool, timeout: float | None) -> None:
    """Stop the daemon: running tasks have gracefulTimeout to end, the others are queued again.

    Under systemd use `systemctl stop kubemin`, or systemd may start it again.
    """
    wait = session.settings.graceful_timeout + MARGIN if timeout is None else timeout
    pid = control.stop(session.settings, now=now, timeout=wait)
    if session.json:
        render.document({"pid": pid, "stopped": True})
    else:
        render.line(f"the daemon (pid {pid}) has stopped")
