"""The facts that `kubemin.why` reasons about, read in one snapshot (see `model/obstacles.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kubemin.errors import NotFound
from kubemin.model.obstacles import TASKS, Obstacles, OpenNeed, TaskFacts
from kubemin.model.states import TASK_FAILURES, Kind, RunState, TaskState
from kubemin.store.codec import (
    COMPLETED,
    QUEUED,
    RUN_STATES,
    RUNNING,
    STATES,
    STOPPING,
    WAITING,
    Detail,
    decode_detail,
    decode_extra,
    label_of,
)
from kubemin.store.sqlite.rows import SOLO

if TYPE_CHECKING:
    from kubemin.model.graph import Graph, Node
    from kubemin.store.sqlite.reading import Reads

NEEDS = 20
FAILED_STEPS = 20
# Columns of the query `obstacle_tasks`:
IDX, NODE, ITEM, STATE, FLAGS, QUEUE, SEQ, DUE, ATTEMPT, TOKEN, STARTED, CAUSE, DETAIL = range(13)
BASE, MADE, TOTAL, OPEN, EXTRA, SPEC, SUBMITTED, SLOT = range(13, 21)


def obstacles(reads: Reads, run: str, step: str | None) -> Obstacles:
    row = reads._one("obstacle_run", (run,))
    tasks = reads._all("obstacle_tasks", (run,))
    paused = [name for (name,) in reads._all("paused")]
    if row is not None:
        facts = _of_run(reads, run, row, tasks, step)
    elif tasks and tasks[0][FLAGS] & SOLO:
        facts = _of_solo(reads, run, tasks[0], step)
    else:
        view = reads.run(run)  # raises NotFound; staged
        facts = Obstacles(run, view.workflow, RunState.WAITING, total=1)
    facts.paused = paused
    return facts


def _of_run(reads: Reads, run: str, row: Any, tasks: list[Any], step: str | None) -> Obstacles:
    workflow, state, cause, turn, submitted, start_at, deadline, ckey, holds, stop, digest, _ = row
    graph = reads.graph(digest)
    tasks = tasks if graph.nodes else []  # a broken definition
    states = {task[IDX]: task for task in tasks}
    wanted = _wanted(run, graph, tasks, step)
    facts = Obstacles(
        run=run,
        workflow=workflow,
        state=RUN_STATES[state],
        cause=cause if state > COMPLETED else None,
        round=turn,
        submitted_at=submitted,
        start_at=start_at,
        deadline=deadline,
        concurrency_key=ckey,
        cancelling=stop if state < COMPLETED else None,
        unpacked=sum(task[IDX] < len(graph.nodes) for task in tasks),
        total=len(graph.nodes),
        tasks=[_task(reads, graph, task, states) for task in wanted[:TASKS]],
        more=max(len(wanted) - TASKS, 0),
        failed=_failed_steps(graph, tasks)[:FAILED_STEPS],
    )
    if ckey is not None and not holds:
        _add_holder(reads, facts, ckey)
    return facts


def _wanted(run: str, graph: Graph, tasks: list[Any], step: str | None) -> list[Any]:
    shown = [task for task in tasks if graph.nodes[task[NODE]].kind is not Kind.GATE]
    if step is None:
        return [task for task in shown if task[STATE] < COMPLETED]
    found = [task for task in shown if _path(graph, task) == step]
    if not found:
        raise NotFound(f"run {run} has no step {step}")
    return found


def _add_holder(reads: Reads, facts: Obstacles, ckey: str) -> None:
    holder = reads._one("key_holder", (ckey,))
    facts.held_by = holder[0] if holder else None
    waiting = [run for (run,) in reads._all("key_queue", (ckey,))]
    facts.ahead = waiting.index(facts.run) if facts.run in waiting else 0


def _task(reads: Reads, graph: Graph, task: Any, states: dict[int, Any]) -> TaskFacts:
    node = graph.nodes[task[NODE]]
    facts = _common(reads, task, _path(graph, task))
    facts.kind = node.kind.value if task[ITEM] is None else "task"
    facts.attempts = None if node.retry is None else node.retry.limit + 1
    facts.max_parallel = node.max_parallel if node.kind is Kind.FANOUT else None
    facts.needs = _open_needs(graph, node, states) if task[ITEM] is None and task[STATE] == WAITING else []
    facts.blamed = _blamed(graph, task, states) if facts.state is TaskState.SKIPPED else None
    if task[BASE] is not None and task[STATE] == RUNNING:
        facts.children_live, facts.children_total = task[OPEN], task[TOTAL]
        facts.children_ended = (task[MADE] or 0) - task[OPEN]
    return facts


def _common(reads: Reads, task: Any, step: str) -> TaskFacts:
    more = decode_detail(task[DETAIL]) if task[DETAIL] else Detail()
    state = task[STATE]
    listed = state == QUEUED and task[SEQ] is not None
    return TaskFacts(
        idx=task[IDX],
        step=step,
        state=STATES[state],
        queue=task[QUEUE],
        listed=listed,
        position=reads._one("ahead", (task[QUEUE], task[SEQ]))[0] if listed else None,
        due_at=task[DUE],
        attempt=task[ATTEMPT] + (state == RUNNING and task[SLOT] is not None),
        token=task[TOKEN],
        slot=task[SLOT],
        started_at=task[STARTED],
        cause=task[CAUSE],
        message=more.message,
        exit_code=more.exit_code,
        signal=more.signal,
    )


def _open_needs(graph: Graph, node: Node, states: dict[int, Any]) -> list[OpenNeed]:
    found = []
    for edge in node.needs:
        need = states.get(edge.node)
        if need is not None and need[STATE] < COMPLETED:
            found.append(OpenNeed(graph.nodes[edge.node].step.rstrip("/"), STATES[need[STATE]]))
    return found[:NEEDS]


def _blamed(graph: Graph, task: Any, states: dict[int, Any]) -> str | None:
    """The first step upstream that failed, timed out or was cancelled."""
    seen: set[int] = set()
    pending = [edge.node for edge in graph.nodes[task[NODE]].needs]
    culprits = []
    while pending:
        idx = pending.pop()
        if idx in seen:
            continue
        seen.add(idx)
        need = states.get(idx)
        ended_badly = need is not None and STATES[need[STATE]] in (*TASK_FAILURES, TaskState.CANCELLED)
        if ended_badly and graph.nodes[idx].kind in (Kind.TASK, Kind.FANOUT):
            culprits.append(idx)
        pending += [edge.node for edge in graph.nodes[idx].needs]
    return graph.nodes[min(culprits)].step if culprits else None


def _failed_steps(graph: Graph, tasks: list[Any]) -> list[str]:
    return [
        _path(graph, task)
        for task in tasks
        if STATES[task[STATE]] in TASK_FAILURES and graph.nodes[task[NODE]].kind in (Kind.TASK, Kind.FANOUT)
    ]


def _path(graph: Graph, task: Any) -> str:
    step = graph.nodes[task[NODE]].step
    return step if task[ITEM] is None else f"{step}[{task[ITEM]}]"


def _of_solo(reads: Reads, run: str, task: Any, step: str | None) -> Obstacles:
    view = reads.run(run)
    label = label_of(reads.spec(run, task[SPEC]), task[EXTRA])
    if step is not None and step != label:
        raise NotFound(f"run {run} has no step {step}")
    facts = _common(reads, task, label)
    more = decode_extra(task[EXTRA]) if task[EXTRA] else None
    if more is not None and more.retry is not None:
        facts.attempts = int(more.retry.get("limit", 0)) + 1
    delayed = more is not None and more.start_at is not None and task[STATE] == WAITING and not task[TOKEN]
    if delayed:
        facts.due_at = None
    ended = task[STATE] >= COMPLETED
    return Obstacles(
        run=run,
        workflow=label,
        state=view.status,
        cause=view.cause,
        round=view.round,
        submitted_at=task[SUBMITTED],
        start_at=more.start_at if more is not None else None,
        cancelling=task[CAUSE] if task[FLAGS] & STOPPING and not ended else None,
        unpacked=1,
        total=1,
        tasks=[] if ended and step is None else [facts],
        failed=[label] if STATES[task[STATE]] in TASK_FAILURES else [],
    )
