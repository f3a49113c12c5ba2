"""Run again what did not complete."""

from __future__ import annotations

import click

from kubemin.cli import candidates, options, render
from kubemin.cli.session import Session


@options.command(
    "retry",
    """
    kubeminctl retry 06evx3k9d2qj8m0000ab
    kubeminctl retry 06evx3k9d2qj8m0000ab --from transform
    """,
)
@click.argument("run", shell_complete=candidates.ended_runs)
@click.option("--from", "step", metavar="STEP", help="This step and all after it, completed or not.")
def command(session: Session, run: str, step: str | None) -> None:
    """Run the steps of an ended run again that did not complete; completed ones are kept."""
    round = session.client.retry(run, step)
    if session.json:
        render.document({"id": run, "round": round})
    else:
        render.line(f"run {run} goes on, round {round}")
