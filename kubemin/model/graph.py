"""The flat graph that a workflow is compiled to: all that a store knows of a workflow (engine rule 1).

`files/compiler.py` makes it from a definition, without parameters; parameters and references are
filled in when a task is claimed. So a graph is a pure function of its definition, stored once by hash,
and a task's row holds only its state.

Nodes are in topological order: a node's needs have smaller indexes. A **group** is two nodes: a hidden
GATE (`publish/`) that waits for the group's needs and condition, and a JOIN (`publish`) that waits for all
members; members without needs of their own need the gate. A **forEach** step is one FANOUT node, which makes
its child tasks (`load[0]`, `load[1]`, …) at run time and ends when all have ended.

An edge is *hard* (`needs`) or *soft* (the order of StepByStep). They differ in one thing: a need that was
skipped because its condition did not hold stops what hard-needs it and not what only comes after it.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kubemin.model.durations import LONGEST
from kubemin.model.states import Kind, When

Seconds = Annotated[float, Meta(ge=0, le=LONGEST)]  # held to when a graph comes from outside: sums of them are times


class Retry(msgspec.Struct, frozen=True, omit_defaults=True):
    """`limit` attempts after the first; delays in seconds: min(delay * factor^(n-1), max_delay), at most 10 % more."""

    limit: Annotated[int, Meta(ge=0, le=10_000)]
    delay: Seconds = 5.0
    factor: Annotated[float, Meta(ge=1, le=1000)] = 2.0
    max_delay: Seconds = 300.0
    causes: tuple[str, ...] = ("failed", "timeout")  # the task states that are tried again


class Edge(msgspec.Struct, frozen=True, array_like=True):
    node: int  # index of the node that is needed
    soft: bool = False


class Node(msgspec.Struct, frozen=True, omit_defaults=True):
    """One node. `work` is what an executor needs, references unresolved (see `Work`); None for GATE and JOIN."""

    step: str  # path: `extract`, `publish/upload`; a gate's ends in "/"
    kind: Kind = Kind.TASK
    needs: tuple[Edge, ...] = ()
    when: When = When.SUCCESS
    queue: str = "default"
    timeout: Seconds | None = None  # an attempt; None: the node's taskTimeout
    retry: Retry | None = None
    work: dict[str, Any] | None = None
    refs: tuple[int, ...] = ()  # nodes whose outputs the work's references read, each an ancestor
    items: Any = None  # FANOUT: a list, or a string that is one whole reference
    max_parallel: int | None = None  # FANOUT: children in progress at once


class Concurrency(msgspec.Struct, frozen=True, omit_defaults=True):
    key: str  # may hold references to params
    policy: str = "queue"  # queue | reject | replace


class Schedule(msgspec.Struct, frozen=True, omit_defaults=True):
    cron: str  # 5 fields, or 6 with seconds first
    timezone: str = "UTC"
    missed: str = "skip"  # skip | once | all
    grace: Seconds = 300.0  # a slot older than this was missed


class Graph(msgspec.Struct, frozen=True, omit_defaults=True):
    """The compiled form of one definition. `workflow` is its name; `timeout` in seconds is the run's."""

    workflow: str
    nodes: tuple[Node, ...]
    timeout: Seconds | None = None
    schedule: Schedule | None = None
    concurrency: Concurrency | None = None
    params: dict[str, dict[str, Any]] = {}  # name -> {"default": …, "pattern": …}
    directory: str = ""  # the file's folder: default `workdir` of its steps


def flaw(graph: Graph) -> str | None:
    """What keeps a graph that came from outside from being run to its end; None: nothing. The compiler makes none."""
    for index, node in enumerate(graph.nodes):
        before = (*(edge.node for edge in node.needs), *node.refs)
        if not all(0 <= need < index for need in before):
            return f"node {index} ({node.step}) needs a node that does not come before it"
        if (node.work is None) != (node.kind in (Kind.GATE, Kind.JOIN)):
            return f"node {index} ({node.step}) has {'no' if node.work is None else 'some'} work, being a {node.kind}"
    return None if graph.nodes else "it has no steps"


# What `Node.work` holds (JSON object), by step kind. References `${{ … }}` may stand in any string.
#
#   run:     {"run": [argv…],  "workdir"?, "env"?, "limits"?}
#   shell:   {"shell": script, "workdir"?, "env"?, "limits"?}
#   python:  {"python": "pkg.mod:func", "args"?: [...], "with"?: {...}, "env"?, "limits"?}
#   env:     {NAME: value | {"secret": NAME}}
#   limits:  {"memory"?: bytes, "cpu"?: cores (float), "pids"?: n, "bestEffort"?: bool}
