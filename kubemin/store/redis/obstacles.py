"""The facts that `kubemin.why` reasons about, read in one snapshot (see `model/obstacles.py`)."""

from __future__ import annotations

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
    label_of,
)
from kubemin.store.plans import Plan
from kubemin.store.redis import keys
from kubemin.store.redis.reading import Found, Reads, Tasks, extra_of
from kubemin.store.redis.records import RunRecord, TaskRecord

NEEDS = 20
FAILED_STEPS = 20


def obstacles(reads: Reads, run: str, step: str | None) -> Obstacles:
    found = reads.look(run)
    paused = sorted(name.decode() for name in reads.s.client.execute("SMEMBERS", keys.PAUSED))
    if found is None:
        view = reads.run(run)  # raises NotFound; staged
        facts = Obstacles(run, view.workflow, RunState.WAITING, total=1)
    elif found.run is not None:
        facts = _of_run(reads, run, found.run, found, step)
    else:
        facts = _of_solo(reads, run, found, step)
    facts.paused = paused
    return facts


def _of_run(reads: Reads, run: str, record: RunRecord, found: Found, step: str | None) -> Obstacles:
    plan = reads.s.plans.get(record.d)
    wanted = _wanted(run, plan, found.tasks, step)
    facts = Obstacles(
        run=run,
        workflow=record.W,
        state=RUN_STATES[record.s],
        cause=record.c if record.s > COMPLETED else None,
        round=record.R,
        submitted_at=record.S,
        start_at=record.sa,
        deadline=record.dl,
        concurrency_key=record.ck,
        cancelling=record.st if record.s < COMPLETED else None,
        unpacked=sum(idx < len(plan.nodes) for idx in found.tasks),
        total=len(plan.nodes),
        tasks=[_task(reads, run, plan, idx, found.tasks) for idx in wanted[:TASKS]],
        more=max(len(wanted) - TASKS, 0),
        failed=_failed_steps(plan, found.tasks)[:FAILED_STEPS],
    )
    if record.ck is not None and not record.h:
        holder, waiting = reads.s.client.pipeline(
            [("HGET", keys.HOLDERS, record.ck), ("ZRANK", keys.waiters(record.ck), run)]
        )
        facts.held_by = holder.decode() if holder else None
        facts.ahead = int(waiting or 0)
    return facts


def _wanted(run: str, plan: Plan, tasks: Tasks, step: str | None) -> list[int]:
    shown = [idx for idx in sorted(tasks) if plan.nodes[_node(idx, tasks)].kind is not Kind.GATE]
    if step is None:
        return [idx for idx in shown if tasks[idx].s < COMPLETED]
    found = [idx for idx in shown if _path(plan, idx, tasks) == step]
    if not found:
        raise NotFound(f"run {run} has no step {step}")
    return found


def _node(idx: int, tasks: Tasks) -> int:
    parent = tasks[idx].p
    return idx if parent is None else parent


def _path(plan: Plan, idx: int, tasks: Tasks) -> str:
    return plan.step_path(_node(idx, tasks), tasks[idx].i)


def _task(reads: Reads, run: str, plan: Plan, idx: int, tasks: Tasks) -> TaskFacts:
    task, node = tasks[idx], plan.nodes[_node(idx, tasks)]
    facts = _common(reads, run, idx, task, _path(plan, idx, tasks), node.queue)
    facts.kind = node.kind.value if task.i is None else "task"
    facts.attempts = None if node.retry is None else node.retry.limit + 1
    facts.max_parallel = node.max_parallel if node.kind is Kind.FANOUT else None
    if task.i is None and task.s == WAITING:
        facts.needs = _open_needs(plan, idx, tasks)
    if facts.state is TaskState.SKIPPED:
        facts.blamed = _blamed(plan, _node(idx, tasks), tasks)
    if task.b is not None and task.s == RUNNING:
        facts.children_live, facts.children_total = task.o, task.N
        facts.children_ended = (task.m or 0) - task.o
    return facts


def _common(reads: Reads, run: str, idx: int, task: TaskRecord, step: str, queue: str) -> TaskFacts:
    more = decode_detail(task.D) if task.D else Detail()
    listed = task.s == QUEUED and task.q is not None
    worker = (task.w or "").partition("|")[2]
    return TaskFacts(
        idx=idx,
        step=step,
        state=STATES[task.s],
        queue=queue,
        listed=listed,
        position=reads.s.client.execute("ZRANK", keys.pending(queue, task.v), f"{run}.{idx}") if listed else None,
        due_at=task.d,
        attempt=task.a + (task.s == RUNNING and task.w is not None),
        token=task.k,
        slot=int(worker) if worker else None,
        started_at=task.B,
        cause=task.c,
        message=more.message,
        exit_code=more.exit_code,
        signal=more.signal,
    )


def _open_needs(plan: Plan, idx: int, tasks: Tasks) -> list[OpenNeed]:
    found = []
    for edge in plan.nodes[idx].needs:
        need = tasks.get(edge.node)
        if need is not None and need.s < COMPLETED:
            found.append(OpenNeed(plan.nodes[edge.node].step.rstrip("/"), STATES[need.s]))
            if len(found) == NEEDS:
                break
    return found


def _blamed(plan: Plan, idx: int, tasks: Tasks) -> str | None:
    """The first step upstream that failed, timed out or was cancelled."""
    seen: set[int] = set()
    pending = [edge.node for edge in plan.nodes[idx].needs]
    culprits = []
    while pending:
        at = pending.pop()
        if at in seen:
            continue
        seen.add(at)
        need = tasks.get(at)
        ended_badly = need is not None and STATES[need.s] in (*TASK_FAILURES, TaskState.CANCELLED)
        if ended_badly and plan.nodes[at].kind in (Kind.TASK, Kind.FANOUT):
            culprits.append(at)
        pending += [edge.node for edge in plan.nodes[at].needs]
    return plan.nodes[min(culprits)].step if culprits else None


def _failed_steps(plan: Plan, tasks: Tasks) -> list[str]:
    kinds = (Kind.TASK, Kind.FANOUT)
    return [
        _path(plan, idx, tasks)
        for idx in sorted(tasks)
        if STATES[tasks[idx].s] in TASK_FAILURES and plan.nodes[_node(idx, tasks)].kind in kinds
    ]


def _of_solo(reads: Reads, run: str, found: Found, step: str | None) -> Obstacles:
    task = found.solo or TaskRecord()
    label = label_of(found.work, found.extra)
    if step is not None and step != label:
        raise NotFound(f"run {run} has no step {step}")
    view = reads.solo_view(run, found)
    queued = found.place != "" and not found.place.startswith("lock ")
    task.q = int(float(found.place)) if queued else None
    facts = _common(reads, run, 0, task, label, task.u or "default")
    more = extra_of(found.extra)
    if more.retry is not None:
        facts.attempts = int(more.retry.get("limit", 0)) + 1
    if more.start_at is not None and task.s == WAITING and not task.k:
        facts.due_at = None
    ended = task.s >= COMPLETED
    return Obstacles(
        run=run,
        workflow=label,
        state=view.status,
        cause=view.cause,
        round=view.round,
        submitted_at=task.S or task.Q,
        start_at=more.start_at,
        cancelling=task.c if task.f & STOPPING and not ended else None,
        unpacked=1,
        total=1,
        tasks=[] if ended and step is None else [facts],
        failed=[label] if STATES[task.s] in TASK_FAILURES else [],
    )
