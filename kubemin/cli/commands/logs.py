"""What steps printed: from the journal where there is one, else the ends that the store keeps."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from kubemin.cli import candidates, options, render, views
from kubemin.cli.commands.show import find_task
from kubemin.cli.journal import Follower, Journal, Line, of_step
from kubemin.cli.session import Session
from kubemin.model.records import RunView, TaskView
from kubemin.model.states import RUN_TERMINAL, TASK_TERMINAL

if TYPE_CHECKING:
    from kubemin.client import Client

LOOK = 0.25  # seconds between two looks at a run that is followed
KEPT = "the end of each step's output, as the store keeps it (64 KiB a stream)"


@options.command(
    "logs",
    """
    kubeminctl logs 06evx3k9d2qj8m0000ab
    kubeminctl logs 06evx3k9d2qj8m0000ab/extract
    kubeminctl logs -f 06evx3k9d2qj8m0000ab
    """,
)
@click.argument("run", metavar="RUN[/STEP]", shell_complete=candidates.runs)
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends.")
@click.option("--kept", is_flag=True, help="Only the ends that the store keeps, also where there is a journal.")
def command(session: Session, run: str, follow: bool, kept: bool) -> None:
    """Print what the steps of a run printed: all of it from the journal, where there is one and this user may read it,
    else the kept end (64 KiB a stream). Which of the two is said on standard error (of one step alone: on a terminal).

    The run's whole story, with what the daemon says about it: journalctl -u kubemin KUBEMIN_RUN=RUN
    """
    id, step = options.run_and_step(run)
    journal = None if kept else _journal(session, id, step)
    if follow and journal is not None and not session.json:
        from kubemin.client import Client

        # As who we are, also as root: journalctl has our rights, and only who has them may end it.
        with journal.start() as follower, Client.from_settings(session.settings) as client:
            _follow_journal(client, follower, id, step)
        return
    lines = journal.lines() if journal is not None and not follow else []
    view = _view(session.client, id, step)
    if follow:
        _say(f"{KEPT}, when it ends", step)
        view = _follow(session, view, step)
    if session.json:
        render.document(views.logs(_wanted(view, step)) | {"source": "journal" if lines else "store", "lines": lines})
    elif lines:
        _say("from the journal", step)
        alone = step is not None and len({line.step for line in lines}) == 1
        for line in lines:
            _print_line(line, alone=alone)
    elif not follow:
        _say(KEPT, step)
        found = _wanted(view, step)
        for task in found:
            _print(task, alone=step is not None and len(found) == 1)


def _say(where: str, step: str | None) -> None:
    """Of one step alone the streams are kept pure where they are not read by a person."""
    if step is None or sys.stderr.isatty():
        render.note(render.paint(f"-- {where}", "dim"))


def _view(client: Client, id: str, step: str | None) -> RunView:
    view = client.run(id).view()
    if step is not None:
        find_task(view, step)  # or there is no such step
    return view


def _wanted(view: RunView, step: str | None) -> list[TaskView]:
    """Of a forEach step its items too, of a group its members."""
    return [task for task in view.tasks if of_step(task.step, step)]


# --- the journal ----------------------------------------------------------------------------------------------------


def _journal(session: Session, run: str, step: str | None) -> Journal | None:
    """Only of a daemon whose user is known: records of others prove nothing."""
    if not Journal.there():
        return None
    try:
        return Journal(os.stat(session.settings.state_dir).st_uid, run, step)
    except OSError:
        return None


def _follow_journal(client: Client, follower: Follower, id: str, step: str | None) -> None:
    _view(client, id, step)
    _say("from the journal, as it comes; without a line the journal has none, or this user may not read it", step)

    def ended() -> bool:
        now = client.run(id).view()
        return now.status in RUN_TERMINAL or (step is not None and find_task(now, step).status in TASK_TERMINAL)

    for line in follower.lines(ended):
        _print_line(line, alone=line.step == step)
        render.flush()


def _print_line(line: Line, *, alone: bool) -> None:
    if alone:
        render.raw(render.output(line.text), line.stream)
    else:
        render.line(f"{render.paint(render.clean(line.step), 'cyan')} | {render.output(line.text)}")


# --- the store ------------------------------------------------------------------------------------------------------


def _follow(session: Session, view: RunView, step: str | None) -> RunView:
    """Print what has ended and was not printed yet, until the run (or the step) has ended."""
    printed: set[tuple[str, int]] = set()
    for look in _looks(session, view):
        view = look
        found = _wanted(view, step)
        for task in found:
            if task.finished_at and (task.id, task.token) not in printed:
                printed.add((task.id, task.token))
                if not session.json:
                    _print(task, alone=step is not None and len(found) == 1)
                    render.flush()
        if step is not None and find_task(view, step).status in TASK_TERMINAL:
            break
    return view


def _looks(session: Session, view: RunView) -> Iterator[RunView]:
    yield view
    while view.status not in RUN_TERMINAL:
        time.sleep(LOOK)
        view = session.client.run(view.id).view()
        yield view


def _print(task: TaskView, *, alone: bool) -> None:
    """One step alone: its streams as they were. Of several: each line with its step."""
    if alone:
        render.raw(task.stdout_tail)
        render.raw(task.stderr_tail, "stderr")
        return
    for text in (task.stdout_tail, task.stderr_tail):
        for line in text.splitlines():
            render.line(f"{render.paint(task.step, 'cyan')} | {line}")
