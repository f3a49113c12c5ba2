"""The daemon and its workers."""

from __future__ import annotations

from kubemin.cli import options, render, views
from kubemin.cli.commands.queue import HEADERS as QUEUE_HEADERS
from kubemin.cli.commands.queue import rows as queue_rows
from kubemin.cli.pool import PoolState, require_pool
from kubemin.cli.session import Session
from kubemin.errors import StoreUnavailable
from kubemin.store.base import QueueView

HEADERS = ("WORKER", "PID", "STATUS", "TASK", "STEP", "FOR", "PROGRESS", "DONE")


@options.command(
    "status",
    """
    kubeminctl status
    kubeminctl status -o json
    """,
)
def command(session: Session) -> None:
    """Show the daemon, what its workers do, and the queues. Exit 3 when no daemon runs."""
    pool = require_pool(session.settings)
    if session.json:
        render.document(views.status(pool, queues(session)))
    else:
        show(session, pool)


def show(session: Session, pool: PoolState) -> None:
    """For people."""
    waiting = queues(session)
    _show_daemon(pool)
    render.line()
    render.table(HEADERS, _rows(pool), "no workers")
    if waiting:
        render.line()
        render.table(QUEUE_HEADERS, queue_rows(waiting), "")


def queues(session: Session) -> list[QueueView]:
    """Of a store that was not made yet, or cannot be read now, none: the pool is shown all the same."""
    try:
        return session.client.queues()
    except StoreUnavailable:
        return []


def _rows(pool: PoolState) -> list[tuple[object, ...]]:
    return [
        (w.slot, w.pid, w.state, w.task, w.label, render.duration(w.seconds), percent(w.progress), w.done)
        for w in pool.workers
    ]


def percent(fraction: float | None) -> str | None:
    return None if fraction is None else f"{fraction:.0%}"


def _show_daemon(pool: PoolState) -> None:
    render.fields(
        [
            ("node", pool.node),
            ("mode", pool.mode),
            ("leader", pool.leader),
            ("state", state_word(pool)),
            ("problem", pool.error),
            ("version", pool.version),
            ("supervisor", pool.supervisor_pid),
            ("generation", pool.generation),
            ("up", render.duration(pool.uptime)),
            ("finished", pool.finished),
            ("failed", pool.failed),
            ("recovered", pool.recoveries),
        ]
    )


def state_word(pool: PoolState) -> str:
    if pool.stopping:
        return "stopping"
    if not pool.ready:
        return "starting"
    return "drained" if pool.drained else "ready"
