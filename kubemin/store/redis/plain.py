"""Plain steps: those whose ends and claims need no engine (lua/steps.lua). Which they are follows from the graph alone.

A run has some when its graph is small and has no fan-out. A step ends plainly when whatever needs it is
a task that starts on success, all of one queue. Pure.
"""

from __future__ import annotations

from kubemin.model.graph import Node
from kubemin.model.states import STARTS_IN_STOPPED_RUN, Kind, When
from kubemin.store.plans import Plan
from kubemin.store.redis.records import pack

MOST_NODES = 63  # of such a graph: so few may stand in lists together, and nobody has to count them


def has_some(plan: Plan) -> bool:
    return len(plan.nodes) <= MOST_NODES and all(node.kind is not Kind.FANOUT for node in plan.nodes)


def pattern(plan: Plan) -> bytes | None:
    """A new run's tasks (waiting, `always`, roots) and the roots' queue. None: the engine decides its roots."""
    roots = plan.roots
    queue = _queue([plan.nodes[idx] for idx in roots])
    if queue is None or not has_some(plan):
        return None
    waiting: list[str] = []
    always: list[int] = []
    for idx, node in enumerate(plan.nodes):
        if node.when in STARTS_IN_STOPPED_RUN:
            always += (idx, len(node.needs))
        elif node.needs:
            waiting += (str(idx), f"w{len(node.needs)}")
    return pack({"w": waiting, "a": always, "r": [str(idx) for idx in roots], "q": queue})


def needed_by(plan: Plan, idx: int) -> bytes | None:
    """What is told with the step's plain end: "QUEUE IDX…" of those that need it. None: it ends through the engine."""
    if idx not in plan.needed_by:
        others = [number for number, _ in plan.dependents[idx]]
        queue = _queue([plan.nodes[number] for number in others]) if others else "-"
        plan.needed_by[idx] = None if queue is None else " ".join((queue, *map(str, others))).encode()
    return plan.needed_by[idx]


def _queue(nodes: list[Node]) -> str | None:
    """The one queue of tasks that start on success; None: they are not all of that."""
    plain = all(node.kind is Kind.TASK and node.when is When.SUCCESS for node in nodes)
    queues = {node.queue for node in nodes}
    return queues.pop() if plain and len(queues) == 1 else None
