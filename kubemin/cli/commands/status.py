"""The daemon and its workers."""

from __future__ import annotations

from collections import Counter

from kubemin import clock
from kubemin.cli import options, render, views
from kubemin.cli.commands.queue import HEADERS as QUEUE_HEADERS
from kubemin.cli.commands.queue import rows as queue_rows
from kubemin.cli.fleet import fleet_failures
from kubemin.cli.pool import PoolState, require_pool
from kubemin.cli.session import Session
from kubemin.config import Settings
from kubemin.errors import StoreUnavailable
from kubemin.store.base import QueueView
from kubemin.store.redis.opening import redis_address

FAILURES = 1000  # failed runs that are looked at
PROGRESS = "PROGRESS"
HEADERS = ("WORKER", "PID", "STATUS", "TASK", "STEP", "FOR", PROGRESS, "DONE")


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
    _show_daemon(pool, failures(session), redis_words(session.settings, pool))
    render.line()
    headers = [header for header in HEADERS if header != PROGRESS or _anybody_tells(pool)]
    render.table(headers, _rows(pool), "no workers")
    if waiting:
        render.line()
        render.table(QUEUE_HEADERS, queue_rows(waiting), "")


def queues(session: Session) -> list[QueueView]:
    """Of a store that was not made yet, or cannot be read now, none: the pool is shown all the same."""
    try:
        return session.client.queues()
    except StoreUnavailable:
        return []


def failures(session: Session) -> str | None:
    """Of the last hour: `3 (nightly-report 2, load 1)`. In a fleet, of all its nodes, by their heartbeats."""
    try:
        found = fleet_failures(session) if session.client.in_fleet else _own_failures(session)
    except StoreUnavailable:
        return None
    total = found.total()
    names = ", ".join(f"{name} {count}" for name, count in found.most_common(3))
    return f"{total}{'+' if total >= FAILURES else ''} ({names})" if found else "none"


def _own_failures(session: Session) -> Counter[str]:
    listed = [session.client.runs(status=word, since="1d", limit=FAILURES) for word in ("failed", "timeout")]
    hour_ago = clock.rfc3339(clock.wall() - 3600 * clock.SECOND) or ""
    return Counter(view.workflow for views in listed for view in views if (view.finished_at or "") >= hour_ago)


def _rows(pool: PoolState) -> list[tuple[object, ...]]:
    told = _anybody_tells(pool)
    return [
        (w.slot, w.pid, w.state, w.task, w.label, render.duration(w.seconds))
        + ((percent(w.progress),) if told else ())
        + (w.done,)
        for w in pool.workers
    ]


def _anybody_tells(pool: PoolState) -> bool:
    """How far it is, which few steps do: the column takes the room of others."""
    return any(worker.progress is not None for worker in pool.workers)


def percent(fraction: float | None) -> str | None:
    return None if fraction is None else f"{fraction:.0%}"


def reload_words(pool: PoolState) -> str | None:
    if pool.reload_ago is None:
        return None
    how = "done" if pool.reload_ok else f"refused: {pool.reload_text.partition(chr(10))[0]}"
    return f"{render.duration(pool.reload_ago)} ago, {how}"


def leader_words(pool: PoolState) -> str | None:
    """`vm-17, term 4`; alone on a machine there are no terms."""
    return f"{pool.leader}, term {pool.epoch}" if pool.leader and pool.epoch else pool.leader


def redis_words(settings: Settings, pool: PoolState) -> str | None:
    """`10.0.0.5:6379, up`. None: this machine works alone."""
    return f"{redis_address(settings).shown}, {pool.redis}" if pool.redis else None


def _show_daemon(pool: PoolState, failed: str | None, redis: str | None) -> None:
    busy = sum(bool(worker.run) for worker in pool.workers)
    render.fields(
        [
            ("node", pool.node),
            ("mode", pool.mode),
            ("leader", leader_words(pool)),
            ("redis", redis),
            ("state", state_word(pool)),
            ("problem", problem(pool)),
            ("version", pool.version),
            ("supervisor", pool.supervisor_pid),
            ("generation", pool.generation),
            ("up", render.duration(pool.uptime)),
            ("last reload", reload_words(pool)),
            ("workers", f"{busy} of {pool.max_workers} busy"),
            ("worker deaths", pool.worker_deaths or None),
            ("rate", f"{pool.rate:.1f} tasks/s"),
            ("runs ended", f"{pool.finished}, of which {pool.failed} failed"),
            ("failed runs, last hour", failed),
            ("recovered", pool.recoveries),
        ]
    )


def problem(pool: PoolState) -> str:
    if pool.halted:
        return f"the supervisor does nothing; `kill -CONT {pool.supervisor_pid}` lets it go on"
    return pool.error


def state_word(pool: PoolState) -> str:
    if pool.halted:
        return "halted by a signal"
    if pool.stopping:
        return "stopping"
    if not pool.ready:
        return "starting"
    return "drained" if pool.drained else "ready"
