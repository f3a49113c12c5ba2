"""Check this machine and say what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kubemin.cli import options, render
from kubemin.cli.checks import configuration, files, fleet, machine, service, signing
from kubemin.cli.checks.base import Finding, Verdict, note, ok, wrong
from kubemin.cli.session import Session, become_owner
from kubemin.config import Settings
from kubemin.errors import Invalid, Refused

CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    configuration.workflows,
    configuration.python_steps,
    configuration.timeouts,
    configuration.descriptors,
    files.directories,
    files.lock,
    files.store,
    files.disk,
    machine.control_groups,
    machine.clocks,
    fleet.redis,
    fleet.election,
    service.unit,
    service.http,
    service.journal,
    configuration.queues,
    signing.keys,
)

_COLOURS = {Verdict.OK: "green", Verdict.NOTE: "yellow", Verdict.WRONG: "red"}


@options.command(
    "doctor",
    """
    kubeminctl doctor
    sudo kubeminctl doctor -o json
    """,
)
def command(session: Session) -> int:
    """Check configuration, directories, store, control groups, clock, unit, and a fleet's Redis and lease. Exit 1 when
    something is wrong."""
    findings = list(_findings(session))
    if session.json:
        render.document({"items": findings})
    else:
        for finding in findings:
            word = render.paint(f"{finding.status.value:5}", _COLOURS[finding.status])
            render.line(f"{word}  {finding.check}: {render.clean(finding.message)}")
    return int(any(finding.status is Verdict.WRONG for finding in findings))


def _findings(session: Session) -> Iterator[Finding]:
    try:
        settings = session.written_settings
    except Invalid as exc:
        for problem in exc.problems:
            yield wrong("configuration", f"{exc.source}: {problem}" if exc.source else str(problem))
        return
    yield ok("configuration", f"valid; node {settings.node_id}, {settings.max_workers} workers")
    become_owner(settings.state_dir)
    for check in CHECKS:
        try:
            yield from check(settings)
        except Refused as exc:
            yield note("rights", str(exc))
            return
