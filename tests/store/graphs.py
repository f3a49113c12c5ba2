"""Graphs for tests: short to write by hand, and drawn at random."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from hypothesis import strategies as st

from kubemin.model.graph import Edge, Graph, Node, Retry
from kubemin.model.records import Definition
from kubemin.model.states import Kind, When

RUN = {"run": ["/bin/true"]}


def node(step: str, *needs: int, soft: tuple[int, ...] = (), **more: Any) -> Node:
    """A task, or by its step's name or `items` another kind; `needs` and `soft` are indexes."""
    edges = tuple(Edge(idx) for idx in needs) + tuple(Edge(idx, True) for idx in soft)
    kind = Kind.GATE if step.endswith("/") else Kind.FANOUT if "items" in more else Kind.TASK
    more.setdefault("kind", kind)
    if more["kind"] in (Kind.TASK, Kind.FANOUT):
        more.setdefault("work", RUN)
    return Node(step, needs=edges, **more)


def join(step: str, *needs: int, **more: Any) -> Node:
    return node(step, *needs, kind=Kind.JOIN, **more)


def define(graph: Graph, source: str = "{}") -> Definition:
    return Definition(hashlib.sha256(msgspec.json.encode(graph)).hexdigest(), graph, source)


def workflow(name: str, *nodes: Node, **more: Any) -> Definition:
    return define(Graph(name, nodes, **more))


WHENS = st.sampled_from([When.SUCCESS, When.SUCCESS, When.SUCCESS, When.FAILURE, When.ALWAYS, When.CLEANUP])
RETRIES = st.sampled_from([None, None, Retry(1), Retry(2, causes=("failed",))])
QUEUES = st.sampled_from(["default", "default", "other"])


@st.composite
def _edges(draw: st.DrawFn, among: list[int]) -> tuple[Edge, ...]:
    chosen = draw(st.lists(st.sampled_from(among), unique=True, max_size=3)) if among else []
    return tuple(Edge(idx, draw(st.booleans())) for idx in sorted(chosen))


@st.composite
def _step(draw: st.DrawFn, name: str, needs: tuple[Edge, ...]) -> Node:
    common = {"needs": needs, "when": draw(WHENS), "queue": draw(QUEUES), "retry": draw(RETRIES), "work": RUN}
    if draw(st.integers(0, 3)):
        return Node(name, **common)
    items = list(range(draw(st.integers(0, 5))))
    return Node(name, kind=Kind.FANOUT, items=items, max_parallel=draw(st.sampled_from([None, 1, 2])), **common)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Steps, fan-outs and groups, with hard and soft edges and all conditions."""
    nodes: list[Node] = []
    tops: list[int] = []
    for number in range(draw(st.integers(1, 5))):
        needs = draw(_edges(tops))
        if draw(st.integers(0, 2)):
            nodes.append(draw(_step(f"s{number}", needs)))
        else:
            _add_group(draw, nodes, f"g{number}", needs)
        tops.append(len(nodes) - 1)
    return Graph("random", tuple(nodes), timeout=draw(st.sampled_from([None, None, 60.0])))


def _add_group(draw: st.DrawFn, nodes: list[Node], name: str, needs: tuple[Edge, ...]) -> None:
    when = draw(WHENS)
    gate = len(nodes)
    nodes.append(Node(f"{name}/", kind=Kind.GATE, needs=needs, when=when))
    members: list[int] = []
    for number in range(draw(st.integers(1, 3))):
        inside = draw(_edges(members)) or (Edge(gate),)
        nodes.append(draw(_step(f"{name}/m{number}", inside)))
        members.append(len(nodes) - 1)
    nodes.append(Node(name, kind=Kind.JOIN, needs=tuple(Edge(idx) for idx in (gate, *members)), when=when))
