"""Start a run, also while the daemon is down."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from kubemin.cli import candidates, options, render
from kubemin.cli.session import Session
from kubemin.errors import Invalid, KubeminError, Problem
from kubemin.model.durations import parse_duration
from kubemin.model.records import Definition
from kubemin.model.states import RunState

if TYPE_CHECKING:
    from kubemin.api.run import Run


@options.command(
    "submit",
    """
    kubeminctl submit nightly-report -p day=2026-11-24
    kubeminctl submit -f ./report.yaml --wait --timeout 10m
    kubeminctl submit nightly-report --key report-2026-11-24 --in 5m
    kubeminctl submit nightly-report --at 2026-11-24T10:00+01:00
    """,
)
@click.argument("workflow", metavar="[NAME]", required=False, shell_complete=candidates.workflows)
@click.option("-f", "--file", metavar="FILE", help="A workflow file instead of a published workflow.")
@options.param_option
@click.option("--key", metavar="K", help="A second submission with the same key is the first run.")
@click.option("--in", "delay", metavar="D", help="Start after a duration, such as 5m.")
@click.option("--at", metavar="T", help="Start at a time (RFC 3339; local time without a zone).")
@click.option("--wait", is_flag=True, help="Wait for the end: exit 0 when it completed, else 1.")
@click.option("--timeout", metavar="D", help="Wait no longer than this, such as 10m; then exit 1. The run goes on.")
def command(
    session: Session,
    workflow: str | None,
    file: str | None,
    params: tuple[str, ...],
    key: str | None,
    delay: str | None,
    at: str | None,
    wait: bool,
    timeout: str | None,
) -> int:
    """Start a run of a workflow and print its id. Works while the daemon is down: it starts with the daemon then."""
    given = options.pairs(params, "--param")
    longest = _longest(wait, timeout)
    target = _target(workflow, file)  # read as who we are; the client works as the owner of the state
    run = session.client.submit(target, given, key=key, delay=delay, at=at)
    if not session.json:
        render.line(run.id)
        render.flush()
    _say_if_nobody_runs_it(session)
    status = _wait(run, longest) if wait else None
    if session.json:
        render.document({"id": run.id, "created": run.created} | ({"status": status} if wait else {}))
    return 0 if status in (None, RunState.COMPLETED) else 1


def _longest(wait: bool, timeout: str | None) -> float | None:
    """Seconds to wait at most. Raises Invalid."""
    if timeout is None:
        return None
    if not wait:
        raise Invalid([Problem("--timeout", "usage", "says how long to --wait; give both")])
    try:
        return parse_duration(timeout)
    except ValueError as exc:
        raise Invalid([Problem("--timeout", "usage", str(exc))]) from exc


def _wait(run: Run, longest: float | None) -> str:
    """How it ended, or its state after `longest` seconds."""
    try:
        status = run.wait(longest)
    except TimeoutError:
        status = run.status
        render.note(f"run {run.id} is {status} after {longest:g} s and goes on; see kubeminctl why {run.id}")
    else:
        render.note(f"run {run.id} ended {status}")
    return status


def _say_if_nobody_runs_it(session: Session) -> None:
    """Without a word, a user would wait for a run that waits for a daemon."""
    from kubemin.cli.pool import live_pid
    from kubemin.modes import in_fleet

    with contextlib.suppress(KubeminError):  # accepted it is, whatever we may look at
        if in_fleet(session.settings) or live_pid(session.settings) is not None:
            return
        render.note("no daemon is running; the run starts when one does: systemctl start kubemin, or kubemind")


def _target(name: str | None, file: str | None) -> str | Definition:
    if (name is None) == (file is None):
        raise Invalid("give either the name of a published workflow or -f FILE; see kubeminctl submit --help")
    if file is None:
        return name or ""
    from kubemin.files import load_workflow

    return load_workflow(file)
