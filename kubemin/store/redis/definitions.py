"""Definitions: as Lua reads them, in parts, so that no script unpacks more of a graph than it needs; and as a whole.

In a fleet that signs a definition is what its name says, and a published one is vouched for, or it is not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from kubemin.model.graph import Node, Retry
from kubemin.model.records import Definition
from kubemin.model.references import has_reference
from kubemin.signing import Unsigned
from kubemin.store.codec import decode_graph, encode
from kubemin.store.plans import CorruptDefinition, Plan
from kubemin.store.redis import keys
from kubemin.store.redis.records import NewerRecord, pack, version_of
from kubemin.store.redis.signatures import is_named

if TYPE_CHECKING:
    from kubemin.store.redis.session import Session

CHUNK = 200  # dependents in one field, as in lua/settle.lua


def fields(definition: Definition, version: int) -> Iterator[tuple[str, bytes | str]]:
    """The hash of a definition for Lua; `meta`, which makes it visible, comes last."""
    plan = Plan(definition.hash, definition.graph)
    for idx, node in enumerate(plan.nodes):
        edges = [number for edge in plan.dependents[idx] for number in edge]  # flat: a node, its marks, and so on
        yield str(idx), pack(_node(node, edges))
        for number, at in enumerate(range(2 * CHUNK, len(edges), 2 * CHUNK), 1):
            yield f"{idx}/{number}", pack(edges[at : at + 2 * CHUNK])
    yield "g", encode(definition.graph)
    yield "src", definition.source
    meta = {"n": len(plan.nodes), "t": definition.graph.timeout, "W": definition.graph.workflow}
    yield "meta", pack(meta | ({"v": version} if version > 1 else {}))


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
    """`published`: the workflow that it is the definition of. Raises Unsigned, NewerRecord, CorruptDefinition."""
    touched = keys.graph(digest)
    body, source, signature, meta = session.client.execute("HMGET", touched, "g", "src", "sig", "meta")
    if body is None:
        return None
    if meta is not None and (version := version_of(meta)) > session.version:
        raise NewerRecord(f"definition {digest[:12]}", version, session.version)
    if session.signatures is not None and not is_named(digest, body):
        raise Unsigned(f"definition {digest[:12]} in Redis is not what its name says")
    try:
        graph, text = decode_graph(body), (source or b"").decode()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptDefinition(f"definition {digest[:12]} cannot be read: {error}") from error
    if session.signatures is not None and published is not None:
        session.signatures.check_published(published, graph.workflow, digest, signature)
    return Definition(digest, graph, text)
