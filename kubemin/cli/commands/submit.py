"""Start a run, also while the daemon is down."""

from __future__ import annotations

import click

from kubemin.cli import options, render
from kubemin.cli.session import Session
from kubemin.errors import Invalid
from kubemin.model.records import Definition


@options.command(
    "submit",
    """
    kubeminctl submit nightly-report -p day=2026-11-24
    kubeminctl submit -f ./report.yaml --wait
    kubeminctl submit nightly-report --key report-2026-11-24 --in 5m
    kubeminctl submit nightly-report --at 2026-11-24T10:00+01:00
    """,
)
@click.argument("workflow", metavar="[NAME]", required=False)
@click.option("-f", "--file", metavar="FILE", help="A workflow file instead of a published workflow.")
@options.param_option
@click.option("--key", metavar="K", help="A second submission with the same key is the first run.")
@click.option("--in", "delay", metavar="D", help="Start after a duration, such as 5m.")
@click.option("--at", metavar="T", help="Start at a time (RFC 3339; local time without a zone).")
@click.option("--wait", is_flag=True, help="Wait for the end: exit 0 when it completed, else 1.")
def command(
    session: Session,
    workflow: str | None,
    file: str | None,
    params: tuple[str, ...],
    key: str | None,
    delay: str | None,
    at: str | None,
    wait: bool,
) -> int:
    """Start a run of a workflow and print its id. Works while the daemon is down: it starts with the daemon then."""
    given = options.pairs(params, "--param")
    target = _target(workflow, file)  # read as who we are; the client works as the owner of the state
    run = session.client.submit(target, given, key=key, delay=delay, at=at)
    if not wait:
        if session.json:
            render.document({"id": run.id, "created": run.created})
        else:
            render.line(run.id)
        return 0
    if not session.json:
        render.line(run.id)
        render.flush()
    status = run.wait()
    if session.json:
        render.document({"id": run.id, "created": run.created, "status": status})
    else:
        render.note(f"run {run.id} ended {status}")
    return 0 if status == "completed" else 1


def _target(name: str | None, file: str | None) -> str | Definition:
    if (name is None) == (file is None):
        raise Invalid("give either the name of a published workflow or -f FILE; see kubeminctl submit --help")
    if file is None:
        return name or ""
    from kubemin.files import load_workflow

    return load_workflow(file)
