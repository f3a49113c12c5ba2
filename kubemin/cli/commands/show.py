"""One run with its steps."""

from __future__ import annotations

import click
import msgspec

from kubemin.cli import candidates, options, render, views
from kubemin.cli.session import Session
from kubemin.errors import NotFound
from kubemin.model.records import RunView, TaskView


@options.command(
    "show",
    """
    kubeminctl show 06evx3k9d2qj8m0000ab
    kubeminctl show 06evx3k9d2qj8m0000ab/extract
    kubeminctl show 06evx3k9d2qj8m0000ab -o json
    """,
)
@click.argument("run", metavar="RUN[/STEP]", shell_complete=candidates.runs)
def command(session: Session, run: str) -> None:
    """Show one run with its steps, or one step with its output."""
    id, step = options.run_and_step(run)
    view = session.client.run(id).view()
    if step is None:
        _show(session, view)
    else:
        _show_task(session, find_task(view, step))


def find_task(view: RunView, step: str) -> TaskView:
    """Raises NotFound."""
    found = next((task for task in view.tasks if task.step == step), None)
    if found is None:
        raise NotFound(f"run {view.id} has no step {step}; `kubeminctl show {view.id}` lists its steps")
    return found


def _show(session: Session, view: RunView) -> None:
    if session.json:
        render.document(views.run(view))
        return
    render.fields(
        [
            ("run", view.id),
            ("workflow", view.workflow),
            ("status", view.status.value),
            ("cause", view.cause),
            ("key", view.key),
            ("params", _json(view.params) if view.params else None),
            ("round", view.round if view.round > 1 else None),
            ("submitted", render.local_time(view.submitted_at)),
            ("starts", render.local_time(view.start_at)),
            ("scheduled", render.local_time(view.scheduled_at)),
            ("started", render.local_time(view.started_at)),
            ("finished", render.local_time(view.finished_at)),
            ("took", render.duration(render.seconds_between(view.started_at, view.finished_at))),
        ]
    )
    render.line()
    rows = [task_row(task, named=session.client.in_fleet) for task in view.tasks]
    render.table(("STEP", "STATUS", "ATTEMPT", "WORKER", "TOOK", "CAUSE", "MESSAGE"), rows, "no steps yet")


def task_row(task: TaskView, *, named: bool = False) -> tuple[object, ...]:
    """`named`: with the worker's node, where there are several."""
    took = render.duration(render.seconds_between(task.started_at, task.finished_at))
    message = (task.message or "").partition("\n")[0]
    worker = f"{task.node}/{task.worker}" if named and task.node else task.worker
    return (task.step, task.status.value, task.attempt or None, worker, took, task.cause, message[:120])


def _show_task(session: Session, task: TaskView) -> None:
    if session.json:
        render.document(msgspec.to_builtins(task))
        return
    render.fields(
        [
            ("task", task.id),
            ("step", task.step),
            ("status", task.status.value),
            ("cause", task.cause),
            ("message", task.message),
            ("attempt", task.attempt or None),
            ("token", task.token or None),
            ("node", task.node),
            ("worker", task.worker),
            ("exit code", task.exit_code),
            ("signal", task.signal),
            ("queued", render.local_time(task.queued_at)),
            ("due", render.local_time(task.due_at)),
            ("started", render.local_time(task.started_at)),
            ("finished", render.local_time(task.finished_at)),
            ("took", render.duration(render.seconds_between(task.started_at, task.finished_at))),
            ("not enforced", ", ".join(task.unenforced)),
            ("output", None if task.output is None else _json(task.output)),
        ]
    )


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
