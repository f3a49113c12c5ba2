"""What holds a run up."""

from __future__ import annotations

import click
import msgspec

from kubemin import clock
from kubemin.cli import candidates, options, render, views
from kubemin.cli.fleet import fleet_pool
from kubemin.cli.pool import why_pool
from kubemin.cli.session import Session
from kubemin.model.obstacles import Obstacles
from kubemin.why import explain


def _facts(session: Session, run: str, step: str | None) -> Obstacles:
    return msgspec.convert(session.client.reader().obstacles(run, step), Obstacles)


@options.command(
    "why",
    """
    kubeminctl why 06evx3k9d2qj8m0000ab
    kubeminctl why 06evx3k9d2qj8m0000ab/load
    kubeminctl why 06evx3k9d2qj8m0000ab -o json
    """,
)
@click.argument("run", metavar="RUN[/STEP]", shell_complete=candidates.runs)
def command(session: Session, run: str) -> None:
    """Name the exact condition that a run or a step waits for, or why it ended as it did."""
    id, step = options.run_and_step(run)
    facts = _facts(session, id, step)
    if step is None and facts.failed and not facts.tasks:
        facts.tasks = _facts(session, id, facts.failed[0]).tasks  # how the first one failed
    client = session.client
    pool = fleet_pool(client.fleet_store()) if client.in_fleet else why_pool(session.settings)
    found = explain(facts, pool, now=clock.wall(), step=step)
    if session.json:
        render.document(views.reasons(found))
        return
    for reason in found:
        render.line(f"{render.paint(reason.code, 'bold')}: {render.clean(reason.message)}")
