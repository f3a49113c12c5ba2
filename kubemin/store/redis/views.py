"""Records of runs as the JSON contract shows them: what one look at Redis brought, turned into views. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from kubemin.clock import rfc3339
from kubemin.model import transitions as rules
from kubemin.model.records import RunView, TaskView
from kubemin.model.states import Kind
from kubemin.store.base import RunFilter
from kubemin.store.codec import (
    COMPLETED,
    RUN_STATES,
    RUNNING,
    STATES,
    Detail,
    Extra,
    decode,
    decode_detail,
    decode_extra,
)
from kubemin.store.inputs import join_outputs
from kubemin.store.plans import Plan
from kubemin.store.redis.records import (
    RunRecord,
    Spoilt,
    TaskRecord,
    read_state,
    unpack_tails,
    unpack_task,
)
from kubemin.store.views import has_params, usage_view

Tasks = dict[int, TaskRecord]


class Found(msgspec.Struct):
    """What one `view` of a run brought."""

    run: RunRecord | None
    solo: TaskRecord | None
    work: bytes
    extra: bytes | None
    params: bytes
    output: bytes | None
    tasks: Tasks
    outputs: dict[int, bytes]
    tails: dict[int, list[str]]
    place: str = ""


def readable_tasks(raws: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, TaskRecord]]:
    for idx, raw in raws:
        try:
            yield idx, unpack_task(raw)
        except msgspec.DecodeError:  # its run is put aside when somebody comes to it
            continue


def tasks_of(flat: Any) -> Tasks:
    return dict(readable_tasks((int(idx), body) for idx, body in pairs(flat) if idx.isdigit()))


def contents_of(record: RunRecord, tasks: Any, outputs: Any) -> Found:
    return Found(record, None, b"", None, b"", None, tasks_of(tasks), outputs_of(outputs), {})


def outputs_of(flat: Any) -> dict[int, bytes]:
    return {int(idx): body for idx, body in pairs(flat)}


def tails_of(raws: Iterable[tuple[int | bytes, bytes]]) -> Iterator[tuple[int, list[str]]]:
    for idx, raw in raws:
        try:
            yield int(idx), unpack_tails(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):  # somebody spoilt it; the run is shown without
            continue


def value_of(output: bytes) -> Any:
    try:
        return decode(output)
    except msgspec.DecodeError:
        return None


def solo_state(state: bytes, known: int, run: str) -> TaskRecord:
    try:
        return read_state(state, known, run)
    except Spoilt:  # put aside when a worker comes to it
        return TaskRecord(s=RUNNING)


def pairs(flat: Any) -> Iterator[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True) if flat else iter(())


def run_view(run: str, record: RunRecord, params: bytes) -> RunView:
    return RunView(
        id=run, workflow=record.W, status=RUN_STATES[record.s], cause=record.c if record.s > COMPLETED else None,
        params=decode(params), key=record.ky, round=record.R, submitted_at=rfc3339(record.S),
        start_at=rfc3339(record.sa), scheduled_at=rfc3339(record.sc), started_at=rfc3339(record.B),
        finished_at=rfc3339(record.E),
    )  # fmt: skip


def solo_run(run: str, label: str, task: TaskRecord, extra: bytes | None, place: str) -> RunView:
    more = extra_of(extra)
    claimed = task.k > 0 or place.startswith("lock ")
    return RunView(
        id=run, workflow=label, status=rules.run_state(STATES[task.s], claimed=claimed),
        cause=task.c if task.s > COMPLETED else None, key=more.key, round=task.R,
        submitted_at=rfc3339(task.S or task.Q), start_at=rfc3339(more.start_at), started_at=rfc3339(task.B),
        finished_at=rfc3339(task.E),
    )  # fmt: skip


def extra_of(extra: bytes | None) -> Extra:
    try:
        return decode_extra(extra) if extra else Extra()
    except msgspec.DecodeError:
        return Extra()


def fill_claim(task: TaskRecord, place: str) -> None:
    """A single task that runs: who has it is said by its lock (gone for a while after an outage)."""
    if not place.startswith("lock "):
        return
    told = dict(word.partition("=")[::2] for word in place.split()[1:])
    task.s = RUNNING
    task.k = int(told.get("token") or task.k)
    if "node" in told:
        task.w = f"{told['node']}|{told.get('worker', '0')}"


def graph_tasks(run: str, plan: Plan, found: Found) -> list[TaskView]:
    """In graph order, the children of a fan-out after it; gates are hidden, and children of an earlier round too."""
    views: list[TaskView] = []
    for idx, node in enumerate(plan.nodes):
        task = found.tasks.get(idx)
        if task is None or node.kind is Kind.GATE:
            continue
        output = joined_output(found, task) if task.b is not None else found.outputs.get(idx)
        views.append(task_view(run, idx, task, node.step, output, found.tails.get(idx)))
        for item in range(task.m or 0) if task.b is not None else ():
            at = (task.b or 0) + item
            if (child := found.tasks.get(at)) is not None:
                step = f"{node.step}[{child.i}]"
                views.append(task_view(run, at, child, step, found.outputs.get(at), found.tails.get(at)))
    return views


def joined_output(found: Found, task: TaskRecord) -> bytes:
    base, total = task.b or 0, task.N or 0
    children = ((idx, found.tasks.get(idx)) for idx in range(base, base + total))
    done = {idx: found.outputs.get(idx) for idx, child in children if child is not None and child.s == COMPLETED}
    return join_outputs(done, base, total)


def task_view(
    run: str, idx: int, task: TaskRecord, step: str, output: bytes | None, tails: list[str] | None
) -> TaskView:
    more = decode_detail(task.D) if task.D else Detail()
    node, _, worker = (task.w or "").partition("|")
    held = task.s == RUNNING and task.w is not None
    return TaskView(
        id=f"{run}.{idx}", step=step, status=STATES[task.s], cause=task.c, message=more.message or None,
        attempt=task.a + held, token=task.k, node=node or None, worker=int(worker) if worker else None,
        exit_code=more.exit_code, signal=more.signal, queued_at=rfc3339(task.Q), started_at=rfc3339(task.B),
        finished_at=rfc3339(task.E), due_at=rfc3339(task.d),
        output=value_of(output) if output and task.s == COMPLETED else None, stdout_tail=tails[0] if tails else "",
        stderr_tail=tails[1] if tails else "",
        usage=usage_view(more),
        unenforced=list(more.unenforced),
    )  # fmt: skip


def matches(view: RunView, where: RunFilter) -> bool:
    submitted = view.submitted_at or ""
    since, until = rfc3339(where.since), rfc3339(where.until)
    return (
        (where.status is None or view.status is where.status)
        and (where.workflow is None or view.workflow == where.workflow)
        and (where.key is None or view.key == where.key)
        and (since is None or submitted >= since)
        and (until is None or submitted <= until)
        and has_params(view, where.params)
    )
