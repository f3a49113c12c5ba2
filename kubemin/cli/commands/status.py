"""The daemon and its workers."""

from __future__ import annotations

from kubemin.cli import options, render, views
from kubemin.cli.pool import PoolState, require_pool
from kubemin.cli.session import Session
from kubemin.errors import StoreUnavailable
from kubemin.store.base import QueueView


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
    waiting = _queues(session)
    if session.json:
        render.document(views.status(pool, waiting))
        return
    _show(pool)
    render.line()
    render.table(WORKER_HEADERS, worker_rows(pool), "no workers")
    if waiting:
        render.line()
        rows = [
            (q.name, q.length, "paused" if q.paused else "open", render.duration(q.oldest_seconds)) for q in waiting
        ]
        render.table(("QUEUE", "LENGTH", "STATE", "OLDEST"), rows, "")


WORKER_HEADERS = ("WORKER", "PID", "STATUS", "TASK", "STEP", "FOR", "DONE")


def worker_rows(pool: PoolState) -> list[tuple[object, ...]]:
    return [(w.slot, w.pid, w.state, w.task, w.label, render.duration(w.seconds), w.done) for w in pool.workers]


def _queues(session: Session) -> list[QueueView]:
    """Of a store that was not made yet, or cannot be read now, none: the pool is shown all the same."""
    try:
        return session.client.queues()
    except StoreUnavailable as exc:
        if not session.json:
            render.note(f"{render.PROGRAM}: queues are not shown: {exc}")
        return []


def _show(pool: PoolState) -> None:
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
