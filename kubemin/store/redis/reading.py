"""Reads: records turned into the views of the JSON contract. One run is one snapshot; lists are read page by page."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any

import msgspec

from kubemin.clock import SECOND
from kubemin.errors import NotFound
from kubemin.model.records import Definition, RunView
from kubemin.model.states import Cause, RunState
from kubemin.store import staged
from kubemin.store.base import QueueView, RunFilter, WorkflowView
from kubemin.store.codec import (
    COMPLETED,
    RUN_STATES,
    label_of,
)
from kubemin.store.plans import CorruptDefinition, Plan
from kubemin.store.redis import keys
from kubemin.store.redis.intake import Intake
from kubemin.store.redis.records import (
    NewerRecord,
    RunRecord,
    Spoilt,
    TaskRecord,
    pack,
    read_run,
    read_schedule,
    read_state,
)
from kubemin.store.redis.replies import unpack_folded
from kubemin.store.redis.session import Session
from kubemin.store.redis.views import (
    Found,
    contents_of,
    fill_claim,
    graph_tasks,
    joined_output,
    matches,
    outputs_of,
    pairs,
    readable_tasks,
    run_view,
    solo_run,
    solo_state,
    tails_of,
    task_view,
    tasks_of,
    value_of,
)
from kubemin.store.views import workflow_view

AT_ONCE = 500  # runs or tasks in one call
MOST = 2000  # tasks of one run that are read in one snapshot
SMALL, FEW = 200, 50  # runs of so many tasks are read together, so many in one call


class Reads:
    def __init__(self, session: Session, intake: Intake) -> None:
        self.s = session
        self.intake = intake

    # --- one run -----------------------------------------------------------------------------------------------------

    def look(self, run: str) -> Found | None:
        touched = (keys.run(run), keys.tasks(run), keys.outputs(run), keys.tails(run))
        reply = self.s.client.run(
            "view", touched, keys.PREFIX, pack({"id": run, "most": MOST, "reads": True, "now": 0})
        )
        record, state, work, extra, params, output, tasks, outputs, tails, place = reply
        if record is None and state is None:
            return None
        known = self.s.version
        found = Found(
            None if record is None else read_run(record, known, run),
            None if state is None else solo_state(state, known, run), work or b"", extra, params or b"{}", output,
            {}, {}, dict(tails_of(pairs(tails))), place.decode(),
        )  # fmt: skip
        if tasks is None and found.run is not None:
            self._page(run, found, found.run.nx)
        else:
            found.tasks, found.outputs = tasks_of(tasks), outputs_of(outputs)
        return found

    def _page(self, run: str, found: Found, most: int) -> None:
        for at in range(0, most, AT_ONCE):
            some = range(at, min(at + AT_ONCE, most))
            tasks, outputs, tails = self.s.client.pipeline(
                [("HMGET", key, *some) for key in (keys.tasks(run), keys.outputs(run), keys.tails(run))]
            )
            found.tails.update(tails_of((idx, raw) for idx, raw in zip(some, tails, strict=True) if raw))
            found.tasks.update(readable_tasks((idx, raw) for idx, raw in zip(some, tasks, strict=True) if raw))
            found.outputs.update({idx: raw for idx, raw in zip(some, outputs, strict=True) if raw})

    def run(self, run: str) -> RunView:
        found = self.look(run)
        if found is None:
            waiting = staged.view(self.intake.sealed_parts(), run)
            if waiting is None:
                raise NotFound(f"there is no run {run}")
            return waiting
        if found.run is None:
            return self.solo_view(run, found)
        view = run_view(run, found.run, found.params)
        plan = self.plan(found.run)
        view.tasks = graph_tasks(run, plan, found) if plan is not None else []
        return view

    def plan(self, record: RunRecord) -> Plan | None:
        """None: of a run that was put aside, with what is left of it. Raises CorruptDefinition."""
        try:
            return self.s.plans.get(record.d)
        except CorruptDefinition:
            if record.c != Cause.CORRUPT:
                raise
            return None

    def solo_view(self, run: str, found: Found) -> RunView:
        task = found.solo or TaskRecord()
        label = label_of(found.work, found.extra)
        view = solo_run(run, label, task, found.extra, found.place)
        fill_claim(task, found.place)
        view.tasks = [task_view(run, 0, task, label, found.output, found.tails.get(0))]
        return view

    # --- many runs ---------------------------------------------------------------------------------------------------

    def runs(self, where: RunFilter) -> list[RunView]:
        waiting = staged.runs(self.intake.sealed_parts(), where)
        unpacked = (view for ids in self._pages() for view in self._views(ids) if matches(view, where))
        found: dict[str, RunView] = {}  # a part that is being unpacked is still there
        for view in heapq.merge(unpacked, waiting, key=attrgetter("id"), reverse=True):
            found.setdefault(view.id, view)
            if len(found) >= where.limit:
                break
        return list(found.values())

    def _pages(self) -> Iterator[list[str]]:
        """All run ids, newest first."""
        last = "+"
        while True:
            page = self.s.client.execute("ZREVRANGEBYLEX", keys.RUNS, last, "-", "LIMIT", 0, AT_ONCE)
            if not page:
                return
            yield [run.decode() for run in page]
            last = "(" + page[-1].decode()

    def _views(self, ids: Sequence[str]) -> Iterator[RunView]:
        raws = self.s.client.pipeline([("HMGET", keys.run(run), "r", "s", "w", "x", "p") for run in ids])
        states = self.states([run for run, raw in zip(ids, raws, strict=True) if raw[1] is not None])
        for run, (record, state, work, extra, params) in zip(ids, raws, strict=True):
            try:
                if record is not None:
                    yield run_view(run, read_run(record, self.s.version, run), params or b"{}")
                elif state is not None:
                    task = read_state(state, self.s.version, run)
                    view = solo_run(run, label_of(work or b"", extra), task, extra, "")
                    view.status = states.get(run, view.status)
                    yield view
            except (NewerRecord, Spoilt, msgspec.DecodeError) as error:
                cause = error.code if isinstance(error, NewerRecord) else Cause.CORRUPT.value
                yield RunView(run, "?", RunState.RUNNING, cause=cause)

    def states(self, ids: Sequence[str]) -> dict[str, RunState]:
        states: dict[str, RunState] = {}
        for at in range(0, len(ids), AT_ONCE):
            some = ids[at : at + AT_ONCE]
            numbers = self.s.client.run("states", (keys.RUNS,), keys.PREFIX, pack({"reads": True, "now": 0}), *some)
            states.update({run: RUN_STATES[n] for run, n in zip(some, numbers, strict=True) if n >= 0})
        if len(states) < len(ids) and (missing := set(ids).difference(states)):
            states.update(staged.states(self.intake.sealed_parts(), missing))
        return states

    def outputs(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        outputs: dict[str, dict[str, Any]] = {}
        for at in range(0, len(ids), AT_ONCE):
            some = ids[at : at + AT_ONCE]
            raws = self.s.client.pipeline([("HMGET", keys.run(run), "s", "o", "w", "x", "t", "r") for run in some])
            found = self._contents({run: raw[-2:] for run, raw in zip(some, raws, strict=True) if raw[-1] is not None})
            for run, (state, output, work, extra, _, record) in zip(some, raws, strict=True):
                if record is not None:
                    outputs[run] = self._graph_outputs(found[run])
                elif state is not None:
                    done = output is not None and read_state(state, self.s.version, run).s == COMPLETED
                    outputs[run] = {label_of(work or b"", extra): value_of(output)} if done else {}
        return outputs

    def _contents(self, kept: dict[str, list[bytes]]) -> dict[str, Found | None]:
        """Tasks and outputs of runs, from their fields t and r: small ones in a few calls together."""
        known = {run: read_run(raw[1], self.s.version, run) for run, raw in kept.items()}
        found: dict[str, Found | None] = {run: self.look(run) for run, each in known.items() if each.nx > SMALL}
        for run, (folded, _) in kept.items():
            if folded is not None and (texts := unpack_folded(folded)) is not None:
                found[run] = contents_of(known[run], *texts)
        small = [run for run in known if run not in found]
        for at in range(0, len(small), FEW):
            some = small[at : at + FEW]
            names = [name for run in some for name in (keys.tasks(run), keys.outputs(run))]
            raws = self.s.client.pipeline([("HGETALL", name) for name in names])
            for run, tasks, outputs in zip(some, raws[::2], raws[1::2], strict=True):
                found[run] = contents_of(known[run], tasks, outputs)
        return found

    def _graph_outputs(self, found: Found | None) -> dict[str, Any]:
        if found is None or found.run is None:
            return {}
        plan = self.plan(found.run)
        if plan is None:
            return {}
        outputs: dict[str, Any] = {}
        for idx, node in enumerate(plan.nodes):
            task = found.tasks.get(idx)
            if task is None or task.s != COMPLETED:
                continue
            if task.b is not None:
                outputs[node.step] = value_of(joined_output(found, task))
            elif idx in found.outputs:
                outputs[node.step] = value_of(found.outputs[idx])
        return outputs

    # --- queues and definitions --------------------------------------------------------------------------------------

    def queues(self) -> list[QueueView]:
        registered, paused, backlog = self.s.client.pipeline(
            [("SMEMBERS", keys.QUEUES), ("SMEMBERS", keys.PAUSED), ("HGETALL", keys.BACKLOG)]
        )
        versions: dict[str, list[int]] = {name.decode(): [] for name in paused}
        for each in registered:
            name, _, version = each.decode().rpartition("@")
            versions.setdefault(name, []).append(int(version))
        waiting = staged.lengths(self.intake.sealed_parts(), self.s.now())
        waiting.update({name.decode(): max(int(count), 0) for name, count in pairs(backlog)})
        for name in waiting:
            versions.setdefault(name, [])
        halted = {name.decode() for name in paused}
        views = [self._queue(name, versions[name], waiting[name], name in halted) for name in sorted(versions)]
        return [view for view in views if view.length or view.paused]

    def _queue(self, name: str, versions: Sequence[int], waiting: int, paused: bool) -> QueueView:
        oldest: float | None = None
        for version in versions:
            pending = keys.pending(name, version)
            count, first = self.s.client.pipeline([("ZCARD", pending), ("ZRANGE", pending, 0, 0)])
            waiting += int(count)
            if first and (age := self._age(first[0].decode())) is not None:
                oldest = age if oldest is None else max(oldest, age)
        return QueueView(name, waiting, paused, oldest)

    def _age(self, task: str) -> float | None:
        run, _, idx = task.partition(".")
        step, state = self.s.client.pipeline([("HGET", keys.tasks(run), idx), ("HGET", keys.run(run), "s")])
        raw = step or state
        try:
            queued = read_state(raw, self.s.version, run).Q if raw else None
        except (NewerRecord, Spoilt):
            return None
        return None if queued is None else max((self.s.now() - queued) / SECOND, 0.0)

    def workflows(self) -> list[WorkflowView]:
        raw = self.s.client.execute("HGETALL", keys.WORKFLOWS)
        views = []
        for name, packed in sorted(pairs(raw)):
            try:
                known = read_schedule(packed, self.s.version, name.decode())
                plan = self.s.plans.find(known.h)
            except (NewerRecord, Spoilt, CorruptDefinition) as error:
                self.s.leave_out(name.decode(), error)
                continue
            if plan is not None:
                views.append(workflow_view(name.decode(), known.h, plan.graph, known.at, known.m))
        return views

    def definition(self, name_or_hash: str) -> Definition | None:
        raw = self.s.client.execute("HGET", keys.WORKFLOWS, name_or_hash)
        if raw is None:
            return self.s.definition(name_or_hash)
        return self.s.definition(read_schedule(raw, self.s.version, name_or_hash).h, name_or_hash)
