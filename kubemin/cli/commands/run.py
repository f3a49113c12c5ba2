"""Run a workflow file in the foreground, on a pool of its own."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import click

from kubemin import clock
from kubemin.cli import options, progress, render, views
from kubemin.cli.private import PrivatePool
from kubemin.cli.session import Session
from kubemin.errors import KubeminError
from kubemin.model.states import RUN_TERMINAL

if TYPE_CHECKING:
    from kubemin.api.run import Run
    from kubemin.config import Settings
    from kubemin.model.records import Definition, RunView

REFRESH = 0.1  # seconds between two looks; longer when a look is costly
CANCELLING = 10.0  # seconds for a cancelled run to end before the pool is stopped


class Terminated(Exception):
    """SIGTERM or SIGHUP."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@options.command(
    "run",
    """
    kubeminctl run report.yaml
    kubeminctl run report.yaml -p day=2026-11-24 -p region=eu
    kubeminctl run report.yaml --workers 8 --keep
    """,
)
@click.argument("file", metavar="FILE")
@options.param_option
@click.option("--workers", type=click.IntRange(1, 1024), help="Size of the pool (default: the processors, 2 at least).")
@click.option("--keep", is_flag=True, help="Keep the pool's folder (store and log) and say where it is.")
def command(session: Session, file: str, params: tuple[str, ...], workers: int | None, keep: bool) -> int:
    """Run a workflow file now, on a private pool that is gone afterwards; nothing of an installed daemon is touched.

    Exit 0 when the run completes, else 1. Ctrl-C cancels it. The functions of its own python steps are
    admitted, from the file's folder.
    """
    from kubemin.files import bind_params, load_workflow

    definition = load_workflow(file)
    given = options.pairs(params, "--param")
    bind_params(definition.graph, given)  # a wrong parameter is told before anything starts
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGHUP, _terminate)
    size = workers or max(2, os.cpu_count() or 2)
    with PrivatePool(definition.graph, workers=size, base=_base(session), keep=keep) as pool:
        if keep:
            render.note(f"the pool's folder is {pool.folder}")
        return _run(session, pool, definition, given)


def _base(session: Session) -> Settings | None:
    """A configuration that was named; the machine's own is another daemon's affair."""
    named = session.config or os.environ.get("KUBEMIN_CONFIG")
    return session.written_settings if named else None


def _run(session: Session, pool: PrivatePool, definition: Definition, params: dict[str, str]) -> int:
    with pool.client() as client:
        run = client.submit(definition, params)
        code = 0
        try:
            view = _watch(pool, run, quiet=session.json)
        except KeyboardInterrupt:
            code, view = 128 + signal.SIGINT, _cancel(pool, run)
        except Terminated as exc:
            code, view = 128 + exc.number, _cancel(pool, run)
    if session.json:
        render.document(views.run(view))
    else:
        progress.summary(view, definition.graph)
    return code or (0 if view.status == "completed" else 1)


def _watch(pool: PrivatePool, run: Run, *, quiet: bool) -> RunView:
    with progress.make_progress(quiet) as display:
        while True:
            begun = clock.monotonic()
            view = run.view()
            display.update(view)
            if view.status in RUN_TERMINAL:
                return view
            pool.check()
            _pause(run, max(REFRESH, 4 * (clock.monotonic() - begun)))


def _pause(run: Run, seconds: float) -> None:
    """At most `seconds`; shorter when the run ends meanwhile."""
    try:
        run.wait(seconds)
    except TimeoutError:
        return


def _cancel(pool: PrivatePool, run: Run) -> RunView:
    """Stop it, as far as that goes; a second Ctrl-C does not wait for it."""
    render.note("cancelling the run; once more to stop at once")
    try:
        run.cancel()
        run.wait(CANCELLING)
    except (KubeminError, TimeoutError, KeyboardInterrupt, Terminated):
        pass
    return run.view()


def _terminate(number: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated(number)
