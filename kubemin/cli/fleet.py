"""What the nodes of a fleet say of themselves, for `nodes` and `leader`: heartbeats; no daemon is asked."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from kubemin.cli.pool import read_pool
from kubemin.clock import SECOND, Micros
from kubemin.why import Pool

if TYPE_CHECKING:
    from kubemin.cli.session import Session
    from kubemin.store.redis.node import NodeStore, NodeView


class NodeLine(msgspec.Struct, rename="camel"):
    node: str
    state: str  # ready, drained, lost
    workers: int
    busy: int
    queues: tuple[str, ...]
    leader: bool
    seen_seconds: float
    up_seconds: float
    version: str
    instance: str = ""
    failed_last_hour: int = 0  # runs


class LeaderLine(msgspec.Struct, rename="camel"):
    """`epoch` is the term's number; `since` the wall clock of its begin."""

    node: str
    holder: str
    epoch: int
    since: Micros
    age_seconds: float
    transitions: int
    lease: str
    backend: str


def the_nodes(session: Session) -> list[NodeLine]:
    store = session.client.fleet_store()
    now = store.now()
    return [_line(view, now) for view in store.nodes()]


def own_node(session: Session) -> list[NodeLine]:
    pool = read_pool(session.settings)
    if not pool.alive:
        return []
    busy = sum(worker.task is not None for worker in pool.workers)
    state = "drained" if pool.drained else "ready"
    queues, up = session.settings.queues, pool.uptime
    return [NodeLine(pool.node, state, len(pool.workers), busy, queues, True, 0.0, up, pool.version)]


def the_leader(session: Session) -> LeaderLine | None:
    """The node that beats as leader under the newest term that the store knows."""
    store = session.client.fleet_store()
    epoch, now = store.newest_epoch(), store.now()
    for view in store.nodes():
        term = view.record.term
        if term is not None and term.epoch == epoch and not view.is_lost:
            age = max(now - term.since, 0) / SECOND
            node = view.record.node
            return LeaderLine(
                node, term.holder, term.epoch, term.since, age, term.transitions, term.lease, term.backend
            )
    return None


def fleet_failures(session: Session) -> Counter[str]:
    """Of the last hour, by workflow."""
    found: Counter[str] = Counter()
    for view in session.client.fleet_store().nodes():
        found.update(view.record.failures)
    return found


def fleet_pool(store: NodeStore) -> Pool:
    """All nodes that live, as `kubemin.why` takes them."""
    records = [view.record for view in store.nodes() if not view.is_lost]
    open_ = [record for record in records if not record.drained]
    return Pool(
        node="fleet",
        who="the fleet",
        state_dir="any node of the fleet",
        alive=bool(records),
        drained=bool(records) and not open_,
        queues=tuple(sorted({queue for record in open_ for queue in record.queues})),
        idle=sum(max(record.capacity - record.busy, 0) for record in open_),
        workers=sum(record.capacity for record in open_),
    )


def _line(view: NodeView, now: Micros) -> NodeLine:
    record = view.record
    state = "lost" if view.is_lost else "drained" if record.drained else "ready"
    return NodeLine(
        record.node,
        state,
        record.capacity,
        record.busy,
        record.queues,
        record.term is not None and not view.is_lost,
        round(view.age, 1),
        max(now - record.started, 0) / SECOND,
        record.version,
        record.instance,
        sum(record.failures.values()),
    )
