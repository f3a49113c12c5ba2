"""The nodes of the fleet."""

from __future__ import annotations

from kubemin.cli import options, render, views
from kubemin.cli.fleet import NodeLine, own_node, the_nodes
from kubemin.cli.session import Session

HEADERS = ("NODE", "STATE", "WORKERS", "BUSY", "QUEUES", "LEADER", "SEEN", "UP", "VERSION")


@options.command(
    "nodes",
    """
    kubeminctl nodes
    kubeminctl nodes -o json
    """,
)
def command(session: Session) -> None:
    """List the nodes of the fleet by their heartbeats; on a machine that works alone, this one."""
    found = the_nodes(session) if session.client.in_fleet else own_node(session)
    if session.json:
        render.document(views.nodes(found))
    else:
        render.table(HEADERS, [_row(node) for node in found], "no node has been seen")


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
        node.version,
    )
