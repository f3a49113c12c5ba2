"""Definitions: as Lua reads them, in parts, so that no script unpacks more of a graph than it needs; and as a whole.

In a fleet that signs a definition is what its name says, and a published one is vouched for, or it is not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kubemin.model.graph import Node, Retry
from kubemin.model.records import Definition
from kubemin.model.references import has_reference
from kubemin.signing import Unsigned
from kubemin.store.codec import decode_graph, encode
from kubemin.store.plans import Plan
from kubemin.store.redis import keys
from kubemin.store.redis.records import pack
from kubemin.store.redis.signatures import is_named

if TYPE_CHECKING:
    from kubemin.store.redis.session import Session

CHUNK = 200  # dependents in one field, as in lua/settle.lua


def fields(definition: Definition) -> Iterator[tuple[str, bytes | str]]:
    """The hash of a definition for Lua; `meta`, which makes it visible, comes last."""
    plan = Plan(definition.hash, definition.graph)
    for idx, node in enumerate(plan.nodes):
        edges = [number for edge in plan.dependents[idx] for number in edge]  # flat: a node, its marks, and so on
        yield str(idx), pack(_node(node, edges))
        for number, at in enumerate(range(2 * CHUNK, len(edges), 2 * CHUNK), 1):
            yield f"{idx}/{number}", pack(edges[at : at + 2 * CHUNK])
    yield "g", encode(definition.graph)
    yield "src", definition.source
    yield "meta", pack({"n": len(plan.nodes), "t": definition.graph.timeout, "W": definition.graph.workflow})


def _node(node: Node, edges: list[int]) -> dict[str, Any]:
    packed: dict[str, Any] = {"k": str(node.kind), "w": str(node.when), "n": len(node.needs)}
    if node.queue != "default":
        packed["q"] = node.queue
    if edges:
        packed |= {"D": len(edges) // 2, "d": edges[: 2 * CHUNK]}
    if node.retry is not None:
        packed["r"] = _retry(node.retry)
    if node.max_parallel:
        packed["P"] = node.max_parallel
    if isinstance(node.items, list) and not has_reference(node.items):
        packed["I"] = len(node.items)
    return packed


def _retry(retry: Retry) -> dict[str, Any]:
    return {
        "limit": retry.limit,
        "delay": retry.delay,
        "factor": retry.factor,
        "max_delay": retry.max_delay,
        "causes": dict.fromkeys(retry.causes, True),
    }


def read_definition(session: Session, digest: str, published: str | None = None) -> Definition | None:
    """`published`: the workflow that it is the definition of. Raises Unsigned."""
    body, source, signature = session.client.execute("HMGET", keys.graph(digest), "g", "src", "sig")
    if body is None:
        return None
    if session.signatures is not None and not is_named(digest, body):
        raise Unsigned(f"definition {digest[:12]} in Redis is not what its name says")
    graph = decode_graph(body)
    if session.signatures is not None and published is not None:
        session.signatures.check_published(published, graph.workflow, digest, signature)
    return Definition(digest, graph, (source or b"").decode())
