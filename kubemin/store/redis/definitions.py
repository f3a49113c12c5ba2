"""Definitions as Lua reads them: the graph in parts, so that no script unpacks more of it than it needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kubemin.model.graph import Node, Retry
from kubemin.model.records import Definition
from kubemin.model.references import has_reference
from kubemin.store.codec import encode
from kubemin.store.plans import Plan
from kubemin.store.redis import plain
from kubemin.store.redis.records import pack

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
    if plain.has_some(plan):
        meta["x"] = 1
    if (pattern := plain.pattern(plan)) is not None:
        yield "t", pattern
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
