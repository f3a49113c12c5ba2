"""Queues: their backlog; pausing and resuming."""

from __future__ import annotations

from collections.abc import Iterable

import click

from kubemin.cli import candidates, options, render, views
from kubemin.cli.session import Session
from kubemin.store.base import QueueView

_EXAMPLES = """
\b
Examples:
  kubeminctl queue
  kubeminctl queue pause etl
  kubeminctl queue resume etl
"""


@click.group("queue", invoke_without_command=True, epilog=_EXAMPLES)
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", help="json: one document on stdout."
)
@click.pass_context
def command(ctx: click.Context, output: str) -> None:
    """List the queues with their whole backlog, or pause and resume one."""
    session: Session = ctx.obj
    session.json = output == "json"
    if ctx.invoked_subcommand is None:
        _list(session)


HEADERS = ("QUEUE", "LENGTH", "STATE", "OLDEST")


def _list(session: Session) -> None:
    found = session.client.queues()
    if session.json:
        render.document(views.queues(found))
    else:
        render.table(HEADERS, rows(found), "all queues are empty")


def rows(found: Iterable[QueueView]) -> list[tuple[object, ...]]:
    return [(q.name, q.length, "paused" if q.paused else "open", render.duration(q.oldest_seconds)) for q in found]


@options.command("pause", "kubeminctl queue pause etl")
@click.argument("name", shell_complete=candidates.queues)
def pause(session: Session, name: str) -> None:
    """Let workers take no more tasks from a queue; running ones go on."""
    session.client.pause(name)
    _told(session, name, paused=True)


@options.command("resume", "kubeminctl queue resume etl")
@click.argument("name", shell_complete=candidates.queues)
def resume(session: Session, name: str) -> None:
    """Let workers take tasks from a queue again."""
    session.client.resume(name)
    _told(session, name, paused=False)


def _told(session: Session, name: str, *, paused: bool) -> None:
    if session.json:
        render.document({"name": name, "paused": paused})
    else:
        render.line(f"queue {name} is {'paused' if paused else 'open'}")


command.add_command(pause)
command.add_command(resume)
