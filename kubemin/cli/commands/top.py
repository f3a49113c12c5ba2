"""The pool and the queues, live."""

from __future__ import annotations

import os
import signal
import sys

import click

from kubemin.cli import options, render, views
from kubemin.cli.commands import status
from kubemin.cli.journal import Journal
from kubemin.cli.pool import PoolState, Worker, read_pool, require_pool
from kubemin.cli.screen import OUTPUT_LINES, Keyboard, Screen
from kubemin.cli.session import Session
from kubemin.errors import KubeminError


@options.command(
    "top",
    """
    kubeminctl top
    kubeminctl top --every 0.5
    """,
)
@click.option(
    "--every", type=click.FloatRange(0.1, 60), default=1.0, show_default=True, help="Seconds between pictures."
)
def command(session: Session, every: float) -> None:
    """Show workers, queues and rates, live. Up and down choose a task, o shows its output, c cancels its run, s sorts
    by worker, time or step, q quits.

    Without a terminal, or with -o json: one picture, as `kubeminctl status`.
    """
    pool = require_pool(session.settings)
    if session.json:
        render.document(views.status(pool, status.queues(session)))
    elif not (render.is_terminal() and sys.stdin.isatty()):
        status.show(session, pool)
    else:
        _live(session, every)


def _live(session: Session, every: float) -> None:
    from rich.console import Console
    from rich.live import Live

    from kubemin.client import Client

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # the terminal is given back first
    session.client = Client.from_settings(session.settings)  # as who we are: the journal asks for our rights
    console = Console(no_color=not render.coloured(), highlight=False)
    screen = Screen()
    with Keyboard() as keyboard, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            pool = read_pool(session.settings)
            screen.rates.take(pool)
            if screen.output is not None:
                screen.output = _output(session, screen.chosen(pool))
            live.update(screen.draw(pool, status.queues(session), console.height, console.width), refresh=True)
            if not _react(session, screen, pool, keyboard.key(every)):
                return


def _react(session: Session, screen: Screen, pool: PoolState, pressed: str | None) -> bool:
    """Do what a key says. False: quit."""
    if pressed is None:
        return True
    asked, screen.asking, screen.message = screen.asking, None, ""
    if asked is not None:
        if pressed == "y":
            screen.message = _cancel(session, asked)
        return True
    if pressed in ("up", "down"):
        screen.move(pool, 1 if pressed == "down" else -1)
    elif pressed == "s":
        screen.sort()
    elif pressed == "o":
        screen.output = [] if screen.output is None else None
    elif pressed == "c":
        chosen = screen.chosen(pool)
        screen.asking = chosen.run if chosen else None
    return pressed != "q"


def _output(session: Session, worker: Worker | None) -> list[str]:
    """The last lines of what a task prints, where this user may read the journal."""
    if worker is None or worker.run is None:
        return ["no task is running"]
    if not Journal.there():
        return ["there is no journal here; the output is in the daemon's log, and kept when the step has ended"]
    lines = Journal(os.stat(session.settings.state_dir).st_uid, worker.run, worker.step).lines(last=OUTPUT_LINES)
    return [render.clean(line.text) for line in lines]


def _cancel(session: Session, run: str) -> str:
    try:
        session.client.cancel(run)
    except KubeminError as exc:
        return render.clean(str(exc))
    return f"run {run} is being cancelled"
