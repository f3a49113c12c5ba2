"""Compiled graphs as a store uses them: decoded once, with edges turned round, kept for the runs in progress.

Pure but for the function that loads a definition's bytes, which the engine gives.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property

import msgspec

from kubemin.errors import StoreUnavailable
from kubemin.model.graph import Graph, Node
from kubemin.model.references import has_reference, references_in
from kubemin.model.states import Kind
from kubemin.store.codec import decode_graph, encode

CACHED_NODES = 300_000  # of all graphs in memory together; the one in use is always kept

SOFT, GATE, MEMBER = 1, 2, 4  # marks of an edge, as `transitions.passes` asks for them


class CorruptDefinition(StoreUnavailable):
    """A definition is gone, or its bytes cannot be read."""

    code = "corrupt"


class Plan:
    """One graph with what is worked out of it once."""

    def __init__(self, digest: str, graph: Graph) -> None:
        self.hash = digest
        self.graph = graph
        self.nodes: tuple[Node, ...] = graph.nodes
        self._work: dict[int, tuple[bytes, bool]] = {}
        self._reads: dict[int, frozenset[tuple[str, str]]] = {}
        self.needed_by: dict[int, bytes | None] = {}  # what the Redis engine works out of it once (redis/plain.py)

    @cached_property
    def dependents(self) -> list[list[tuple[int, int]]]:
        """For each node the nodes that need it, each with the edge's marks."""
        found: list[list[tuple[int, int]]] = [[] for _ in self.nodes]
        for idx, node in enumerate(self.nodes):
            for edge in node.needs:
                found[edge.node].append((idx, self.marks(idx, edge.node, edge.soft)))
        return found

    def marks(self, idx: int, need: int, soft: bool) -> int:
        """Marks of the edge from `need` to `idx`."""
        mark = SOFT if soft else 0
        if self.nodes[need].kind is Kind.GATE:
            own = self.nodes[idx].kind is Kind.JOIN and self.nodes[need].step == self.nodes[idx].step + "/"
            mark |= GATE if own else MEMBER
        return mark

    @cached_property
    def roots(self) -> list[int]:
        return [idx for idx, node in enumerate(self.nodes) if not node.needs]

    @cached_property
    def by_step(self) -> dict[str, int]:
        return {node.step: idx for idx, node in enumerate(self.nodes)}

    def first_of(self, step: str) -> int:
        """Where a retry from this step begins: of a group, its gate."""
        return self.by_step.get(step + "/", self.by_step[step])

    def downstream(self, step: str) -> frozenset[int]:
        """Of a step: itself and every node after it; of a group: its members too."""
        start = self.first_of(step)
        seen = {start}
        pending = [start]
        while pending:
            for idx, _ in self.dependents[pending.pop()]:
                if idx not in seen:
                    seen.add(idx)
                    pending.append(idx)
        return frozenset(seen)

    def work(self, idx: int) -> tuple[bytes, bool]:
        """A node's work as JSON, and whether it holds references."""
        known = self._work.get(idx)
        if known is None:
            work = self.nodes[idx].work
            known = self._work[idx] = encode(work), has_reference(work)
        return known

    def reads(self, idx: int) -> frozenset[tuple[str, str]]:
        """What a node's work refers to, as (root, name): a child of a fan-out does not read the list of its items."""
        known = self._reads.get(idx)
        if known is None:
            found = references_in(self.nodes[idx].work)
            known = self._reads[idx] = frozenset((each.root, each.name) for each in found)
        return known

    def step_path(self, node: int, item: int | None) -> str:
        step = self.nodes[node].step
        return step if item is None or item < 0 else f"{step}[{item}]"


class Plans:
    """The graphs of runs in progress, least recently used dropped first. `load`: a definition's bytes by its hash."""

    def __init__(self, load: Callable[[str], bytes | None]) -> None:
        self._load = load
        self._plans: OrderedDict[str, Plan] = OrderedDict()
        self._size = 0

    def find(self, digest: str) -> Plan | None:
        """None: unknown. Raises CorruptDefinition when it cannot be read."""
        plan = self._plans.get(digest)
        if plan is not None:
            self._plans.move_to_end(digest)
            return plan
        body = self._load(digest)
        if body is None:
            return None
        try:
            return self._keep(Plan(digest, decode_graph(body)))
        except msgspec.DecodeError as error:
            raise CorruptDefinition(f"definition {digest[:12]} cannot be read: {error}") from error

    def get(self, digest: str) -> Plan:
        """Of a definition that has to be there. Raises CorruptDefinition."""
        plan = self.find(digest)
        if plan is None:
            raise CorruptDefinition(f"definition {digest[:12]} is missing from the store, or spoilt there")
        return plan

    def clear(self) -> None:
        self._plans.clear()
        self._size = 0

    def drop(self, digest: str) -> None:
        plan = self._plans.pop(digest, None)
        if plan is not None:
            self._size -= len(plan.nodes)

    def _keep(self, plan: Plan) -> Plan:
        self._plans[plan.hash] = plan
        self._size += len(plan.nodes)
        while self._size > CACHED_NODES and len(self._plans) > 1:
            _, old = self._plans.popitem(last=False)
            self._size -= len(old.nodes)
        return plan
