"""Stop a run."""

from __future__ import annotations

import click

from kubemin.cli import candidates, options, render
from kubemin.cli.session import Session


@options.command("cancel", "kubeminctl cancel 06evx3k9d2qj8m0000ab")
@click.argument("run", shell_complete=candidates.live_runs)
def command(session: Session, run: str) -> None:
    """Stop a run: what runs is ended, what waits is cancelled; `when: always` steps still run."""
    new = session.client.cancel(run)
    if session.json:
        render.document({"id": run, "cancelled": new})
    else:
        render.line(f"run {run} is being cancelled" if new else f"run {run} was cancelled already")
