"""The nodes of the fleet."""

from __future__ import annotations

from kubemin import clock
from kubemin.cli import options, render, views
from kubemin.cli.fleet import NodeLine, own_node, the_leader, the_nodes
from kubemin.cli.session import Session

HEADERS = ("NODE", "STATE", "WORKERS", "BUSY", "QUEUES", "LEADER", "SEEN", "UP", "FAILED", "VERSION")


@options.command(
    "nodes",
    """
    kubeminctl nodes
    kubeminctl nodes -o json
    """,
)
def command(session: Session) -> None:
    """List the nodes of the fleet by their heartbeats, with the runs that failed there in the last hour, the leader and
    the state of Redis; on a machine that works alone, this node."""
    found = the_nodes(session) if session.client.in_fleet else own_node(session)
    if session.json:
        render.document(views.nodes(found))
    else:
        render.table(HEADERS, [_row(node) for node in found], "no node has been seen")
        if session.client.in_fleet:
            render.line()
            render.fields([("leader", _leader_words(session)), ("redis", _redis_words(session))])


def _leader_words(session: Session) -> str:
    leader = the_leader(session)
    return f"{leader.node}, term {leader.epoch}, by {leader.lease}" if leader is not None else "none"


def _redis_words(session: Session) -> str:
    """Where it is, and how long it takes to answer."""
    store = session.client.fleet_store()
    began = clock.monotonic()
    store.client.execute("PING")
    return f"{store.client.where}, up, answers in {(clock.monotonic() - began) * 1000:.2f} ms"


def _row(node: NodeLine) -> tuple[object, ...]:
    return (
        node.node,
        node.state,
        node.workers,
        node.busy,
        ", ".join(node.queues),
        "leader" if node.leader else None,
        render.duration(node.seen_seconds),
        render.duration(node.up_seconds),
        node.failed_last_hour,
        node.version,
    )
