"""The kept end of what steps printed."""

from __future__ import annotations

import time
from collections.abc import Iterator

import click

from kubemin.cli import options, render, views
from kubemin.cli.commands.show import find_task
from kubemin.cli.session import Session
from kubemin.model.records import RunView, TaskView
from kubemin.model.states import RUN_TERMINAL, TASK_TERMINAL

LOOK = 0.25  # seconds between two looks at a run that is followed


@options.command(
    "logs",
    """
    kubeminctl logs 06evx3k9d2qj8m0000ab
    kubeminctl logs 06evx3k9d2qj8m0000ab/extract
    kubeminctl logs -f 06evx3k9d2qj8m0000ab
    """,
)
@click.argument("run", metavar="RUN[/STEP]")
@click.option("-f", "--follow", is_flag=True, help="Print each step's output as it ends, until the run ends.")
def command(session: Session, run: str, follow: bool) -> None:
    """Print the kept end (64 KiB a stream) of what the steps of a run printed.

    The whole output, while it is printed, is in the daemon's log: journalctl -u kubemin KUBEMIN_RUN=RUN -f
    """
    id, step = options.run_and_step(run)
    view = session.client.run(id).view()
    if step is not None:
        find_task(view, step)  # or there is no such step
    if follow:
        view = _follow(session, view, step)
    if session.json:
        render.document(views.logs(_wanted(view, step)))
    elif not follow:
        found = _wanted(view, step)
        for task in found:
            _print(task, alone=step is not None and len(found) == 1)


def _wanted(view: RunView, step: str | None) -> list[TaskView]:
    """Of a forEach step its items too, of a group its members."""
    if step is None:
        return view.tasks
    return [task for task in view.tasks if task.step == step or task.step.startswith((f"{step}[", f"{step}/"))]


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
