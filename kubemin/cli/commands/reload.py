"""Read configuration and workflow files again."""

from __future__ import annotations

import signal
from typing import Any

import click

from kubemin.cli import control, options, render
from kubemin.cli.pool import require_pool
from kubemin.cli.session import Session
from kubemin.config import Change
from kubemin.config.describe import shown, without_password
from kubemin.config.reload import ReloadResult, read_result
from kubemin.errors import Invalid, KubeminError


@options.command(
    "reload",
    """
    kubeminctl reload --dry-run
    kubeminctl reload
    """,
)
@click.option("--dry-run", is_flag=True, help="Only print what would change, and when it would be in force.")
@click.option("--timeout", type=float, default=120.0, show_default=True, help="Seconds to wait for the outcome.")
def command(session: Session, dry_run: bool, timeout: float) -> None:
    """Read configuration and workflow files again; workers are replaced one by one as they become idle.

    When something is wrong, everything stays as it is and the problems are printed (exit 2).
    """
    if dry_run:
        _dry_run(session)
        return
    try:
        outcome = control.request(session.settings, signal.SIGHUP, timeout=timeout)
    except control.Outcome:
        result = _result(session)
        if result is not None and not result.ok and result.problems:
            raise Invalid(result.problems) from None
        raise
    _print(session, outcome, _result(session))


def _result(session: Session) -> ReloadResult | None:
    try:
        return read_result(session.settings.runtime_dir)
    except KubeminError:
        return None


def _dry_run(session: Session) -> None:
    """What the daemon itself would find: the same files, flags and environment as at its start."""
    from kubemin.cli.reload import Checker

    require_pool(session.settings)
    last = read_result(session.settings.runtime_dir)
    current = last.settings or session.settings
    result = Checker(current, last.origin).dry_run(current)
    if not result.ok:
        raise Invalid(result.problems)
    _print(session, "nothing was changed: this was a dry run", result)


def _print(session: Session, outcome: str, result: ReloadResult | None) -> None:
    changes = () if result is None else result.changes
    if session.json:
        render.document({"outcome": outcome, "changes": [_change(change) for change in changes]})
        return
    rows = [(change.key, *shown(change), change.applies) for change in changes]
    render.table(("SETTING", "WAS", "IS", "IN FORCE"), rows, "no setting differs")
    for line in outcome.splitlines():
        render.line(render.clean(line))


def _change(change: Change) -> dict[str, Any]:
    """Values as the settings hold them: durations in seconds, sizes in bytes."""
    old, new = (without_password(value) if isinstance(value, str) else value for value in (change.old, change.new))
    return {"key": change.key, "old": old, "new": new, "applies": change.applies}
