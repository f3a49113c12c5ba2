"""Compiled graphs: how they are packed for Lua, and as this process knows them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import msgspec

from kubemin.errors import StoreUnavailable
from kubemin.model.graph import Edge, Graph, Node, Retry
from kubemin.model.records import Definition
from kubemin.model.references import has_reference
from kubemin.model.states import Kind
from kubemin.store.redis.records import encode, pack

CACHED_NODES = 300_000  # of all graphs in memory together; the one in use is always kept
CHUNK = 200  # dependents in one field, as in lua/settle.lua
SOFT, GATE, MEMBER = 1, 2, 4  # marks of an edge

decode_graph = msgspec.json.Decoder(Graph).decode


class Plan:
    """One graph with what is worked out of it once."""

    def __init__(self, digest: str, graph: Graph) -> None:
        self.hash = digest
        self.graph = graph
        self.nodes: tuple[Node, ...] = graph.nodes
        self._work: dict[int, tuple[bytes, bool]] = {}

    @cached_property
    def dependents(self) -> list[list[int]]:
        """For each node, flat: index of a node that needs it, marks of the edge, and so on."""
        found: list[list[int]] = [[] for _ in self.nodes]
        for idx, node in enumerate(self.nodes):
            for edge in node.needs:
                found[edge.node] += (idx, self._marks(node, edge))
        return found

    def _marks(self, node: Node, edge: Edge) -> int:
        mark, need = SOFT if edge.soft else 0, self.nodes[edge.node]
        if need.kind is Kind.GATE:
            mark |= GATE if node.kind is Kind.JOIN and need.step == node.step + "/" else MEMBER
        return mark

    @cached_property
    def by_step(self) -> dict[str, int]:
        return {node.step: idx for idx, node in enumerate(self.nodes)}

    def first_of(self, step: str) -> int:
        """Where a retry from this step begins: of a group, its gate."""
        return self.by_step.get(step + "/", self.by_step[step])

    def work(self, idx: int) -> tuple[bytes, bool]:
        """A node's work as JSON, and whether it holds references."""
        known = self._work.get(idx)
        if known is None:
            work = self.nodes[idx].work
            known = self._work[idx] = encode(work), has_reference(work)
        return known

    def step_path(self, node: int, item: int | None) -> str:
        step = self.nodes[node].step
        return step if item is None or item < 0 else f"{step}[{item}]"


def fields(definition: Definition) -> Iterator[tuple[str, bytes | str]]:
    """The hash of a definition for Lua; `meta`, which makes it visible, comes last."""
    plan = Plan(definition.hash, definition.graph)
    for idx, node in enumerate(plan.nodes):
        edges = plan.dependents[idx]
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


class Plans:
    """The graphs of runs in progress, least recently used dropped first."""

    def __init__(self, load: Callable[[str], bytes | None]) -> None:
        self._load = load
        self._plans: OrderedDict[str, Plan] = OrderedDict()
        self._size = 0

    def find(self, digest: str) -> Plan | None:
        plan = self._plans.get(digest)
        if plan is not None:
            self._plans.move_to_end(digest)
            return plan
        body = self._load(digest)
        if body is None:
            return None
        try:
            return self.keep(Plan(digest, decode_graph(body)))
        except msgspec.DecodeError as error:
            raise StoreUnavailable(f"definition {digest[:12]} cannot be read: {error}", code="corrupt") from error

    def get(self, digest: str) -> Plan:
        plan = self.find(digest)
        if plan is None:
            raise StoreUnavailable(f"definition {digest[:12]} is missing from Redis", code="corrupt")
        return plan

    def keep(self, plan: Plan) -> Plan:
        self._plans[plan.hash] = plan
        self._size += len(plan.nodes)
        while self._size > CACHED_NODES and len(self._plans) > 1:
            _, old = self._plans.popitem(last=False)
            self._size -= len(old.nodes)
        return plan
