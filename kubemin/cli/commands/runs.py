"""List runs."""

from __future__ import annotations

import click

from kubemin.cli import candidates, options, render, views
from kubemin.cli.session import Session
from kubemin.model.states import RunState


@options.command(
    "runs",
    """
    kubeminctl runs
    kubeminctl runs --status failed --since 1h
    kubeminctl runs --workflow nightly-report --param day=2026-11-24 -o json
    """,
)
@click.option("--status", type=click.Choice([state.value for state in RunState]), help="Only runs in this state.")
@click.option("--workflow", metavar="W", help="Only runs of this workflow.", shell_complete=candidates.workflows)
@click.option("--since", metavar="T", help="Submitted since a time, or within a duration such as 1h.")
@click.option("--until", metavar="T", help="Submitted until a time, or before a duration ago.")
@click.option("--key", metavar="K", help="Only the run with this key.")
@click.option("-p", "--param", "params", multiple=True, metavar="K=V", help="Only runs with this parameter.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="At most so many.")
def command(
    session: Session,
    status: str | None,
    workflow: str | None,
    since: str | None,
    until: str | None,
    key: str | None,
    params: tuple[str, ...],
    limit: int,
) -> None:
    """List runs, newest first."""
    found = session.client.runs(
        status=status,
        workflow=workflow,
        since=since,
        until=until,
        key=key,
        params=options.pairs(params, "--param"),
        limit=limit,
    )
    if session.json:
        render.document(views.runs(found))
        return
    rows = [
        (
            run.id,
            run.workflow,
            run.status.value,
            run.cause,
            render.local_time(run.submitted_at),
            render.duration(render.seconds_between(run.started_at, run.finished_at)),
        )
        for run in found
    ]
    render.table(("RUN", "WORKFLOW", "STATUS", "CAUSE", "SUBMITTED", "TOOK"), rows, "no runs")
