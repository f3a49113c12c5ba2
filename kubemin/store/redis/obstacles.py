"""The facts that `kubemin.why` reasons about, read in one snapshot (see `model/obstacles.py`)."""

from __future__ import annotations

from kubemin.model.obstacles import Obstacles
from kubemin.model.states import RunState
from kubemin.store.codec import COMPLETED, RUN_STATES, STOPPING
from kubemin.store.obstacles import Position, Record, RunObstacles, of_single
from kubemin.store.plans import Plan
from kubemin.store.redis import keys
from kubemin.store.redis.reading import Reads
from kubemin.store.redis.records import RunRecord, TaskRecord
from kubemin.store.redis.views import Found, Tasks, extra_of


def obstacles(reads: Reads, run: str, step: str | None) -> Obstacles:
    found = reads.look(run)
    paused = sorted(name.decode() for name in reads.s.client.execute("SMEMBERS", keys.PAUSED))
    if found is None:
        view = reads.run(run)  # raises NotFound; staged
        facts = Obstacles(run, view.workflow, RunState.WAITING, total=1)
    elif found.run is not None:
        facts = _of_run(reads, run, found.run, found.tasks, step)
    else:
        facts = _of_solo(reads, run, found, step)
    facts.paused = paused
    return facts


def _of_run(reads: Reads, run: str, record: RunRecord, tasks: Tasks, step: str | None) -> Obstacles:
    plan = reads.plan(record)
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
    )
    if plan is None:
        return facts
    records = (_step(plan, idx, tasks[idx]) for idx in sorted(tasks))
    RunObstacles(plan.graph, records, _position(reads, run, tasks)).add_to(facts, step)
    if record.ck is not None and not record.h:
        holder, waiting = reads.s.client.pipeline(
            [("HGET", keys.HOLDERS, record.ck), ("ZRANK", keys.waiters(record.ck), run)]
        )
        facts.held_by = holder.decode() if holder else None
        facts.ahead = int(waiting or 0)
    return facts


def _step(plan: Plan, idx: int, task: TaskRecord) -> Record:
    node = idx if task.p is None else task.p
    return _record(idx, node, task, plan.nodes[node].queue)


def _record(idx: int, node: int, task: TaskRecord, queue: str) -> Record:
    host, _, worker = (task.w or "").partition("|")
    return Record(
        idx, node, task.i, task.s, queue, task.q, task.d, task.a, task.k, task.B, task.c, task.D,
        task.b, task.m, task.N, task.o, int(worker) if worker else None, host,
    )  # fmt: skip


def _position(reads: Reads, run: str, tasks: Tasks) -> Position:
    def position(record: Record) -> int | None:
        pending = keys.pending(record.queue, tasks[record.idx].v)
        rank: int | None = reads.s.client.execute("ZRANK", pending, f"{run}.{record.idx}")
        return rank

    return position


def _of_solo(reads: Reads, run: str, found: Found, step: str | None) -> Obstacles:
    task = found.solo or TaskRecord()
    view = reads.solo_view(run, found)
    queued = found.place != "" and not found.place.startswith("lock ")
    task.q = int(float(found.place)) if queued else None
    record = _record(0, 0, task, task.u or "default")
    position = _position(reads, run, {0: task})
    facts = of_single(view, record, extra_of(found.extra), position, step, stopping=bool(task.f & STOPPING))
    facts.submitted_at = task.S or task.Q
    return facts
