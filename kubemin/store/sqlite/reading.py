"""Reads: rows turned into the views of the JSON contract. The caller provides one consistent snapshot."""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any

import msgspec

from kubemin import clock
from kubemin.clock import SECOND, rfc3339
from kubemin.errors import NotFound, Unreachable
from kubemin.model import transitions as rules
from kubemin.model.graph import Graph
from kubemin.model.records import Definition, RunView, TaskView
from kubemin.model.states import Kind, RunState
from kubemin.store import staged
from kubemin.store.base import QueueView, RunFilter, WorkflowView
from kubemin.store.codec import (
    COMPLETED,
    NUMBERS,
    RUN_STATES,
    RUNNING,
    STATES,
    Detail,
    Extra,
    decode,
    decode_detail,
    decode_extra,
    decode_graph,
    label_of,
)
from kubemin.store.inputs import join_outputs
from kubemin.store.parcel import IN_FLEET, Parcel, unpack_parcel
from kubemin.store.sqlite.rows import ROUND, SOLO
from kubemin.store.views import has_params, usage_view, workflow_view

IDS_AT_ONCE = 10_000  # ids in one query
MOVES_SINCE = 2  # version of the schema


class Reads:
    """Over one connection; `queries` by name."""

    def __init__(self, db: sqlite3.Connection, queries: dict[str, str]) -> None:
        self._db = db
        self._sql = queries
        self._graphs: dict[str, Graph] = {}

    def _all(self, name: str, arguments: Sequence[Any] = ()) -> list[Any]:
        return self._db.execute(self._sql[name], arguments).fetchall()

    def _one(self, name: str, arguments: Sequence[Any] = ()) -> Any:
        return self._db.execute(self._sql[name], arguments).fetchone()

    @property
    def _knows_moves(self) -> bool:
        """A file that no daemon of this version has opened yet has no such table."""
        return int(self._db.execute("PRAGMA user_version").fetchone()[0]) >= MOVES_SINCE

    def graph(self, digest: str) -> Graph:
        graph = self._graphs.get(digest)
        if graph is None:
            if len(self._graphs) > 50:
                self._graphs.clear()
            row = self._one("graph", (digest,))
            graph = self._graphs[digest] = _graph(row[0]) if row else UNREADABLE
        return graph

    def spec(self, run: str, spec: bytes | None) -> bytes:
        if spec:
            return spec
        row = self._one("payload", (run,))
        return row[0] if row else b""

    # --- one run -----------------------------------------------------------------------------------------------------

    def run(self, run: str) -> RunView:
        row = self._one("view_run", (run,))
        tasks = self._all("view_tasks", (run,))
        if row is not None:
            view = _run_view(row)
            view.tasks = _graph_tasks(run, self.graph(row[12]), tasks)
            return view
        if tasks and tasks[0][4] & SOLO:
            return self._solo_view(run, tasks[0])
        waiting = staged.view(self._sealed_parts(), run) or self._carried(run)
        if waiting is None:
            raise NotFound(f"there is no run {run}")
        return waiting

    def _solo_view(self, run: str, row: Any) -> RunView:
        state, flags, token, cause, started, finished = row[3], row[4], row[6], row[7], row[9], row[10]
        submitted, key, extra, spec = row[17:21]
        spec = self.spec(run, spec)
        view = _solo_run((run, state, flags, token, cause, key, submitted, started, finished, extra), spec)
        view.tasks = [_task_view(run, row, label_of(spec, extra))]
        return view

    def _sealed_parts(self) -> Iterator[bytes]:
        """Of batches that are not unpacked yet, one at a time: together they may be large."""
        return (body for _, _, _, body in self._db.execute(self._sql["sealed_parts"]))

    def _carried(self, run: str) -> RunView | None:
        """Of a run that is on its way into a fleet. Raises Unreachable when it has arrived there."""
        row = self._one("move", (run,)) if self._knows_moves else None
        if row is None:
            return None
        if row[0] is None:
            message = f"run {run} has moved into the fleet; it can be looked at while its Redis answers"
            raise Unreachable(message, code=IN_FLEET)
        return _parcel_view(unpack_parcel(row[0]))

    # --- many runs ---------------------------------------------------------------------------------------------------

    def runs(self, where: RunFilter) -> list[RunView]:
        found: list[RunView] = []
        waiting = staged.runs(self._sealed_parts(), where)
        sources = self._graph_runs(where), self._solo_runs(where), waiting
        for view in heapq.merge(*sources, key=attrgetter("id"), reverse=True):
            if len(found) >= where.limit:
                break
            if where.params and not has_params(view, where.params):
                continue
            found.append(view)
        return found

    def _graph_runs(self, where: RunFilter) -> Iterator[RunView]:
        state = None if where.status is None else NUMBERS[where.status.value]
        arguments = (state, where.workflow, where.since, where.until, where.key)
        for row in self._db.execute(self._sql["list_runs"], arguments):
            yield _run_view(row)

    def _solo_runs(self, where: RunFilter) -> Iterator[RunView]:
        for row in self._db.execute(self._sql["list_solos"], (where.since, where.until, where.key)):
            if where.status is not None and _solo_state(row[1], row[3]) is not where.status:
                continue
            view = _solo_run(row[:10], self.spec(row[0], row[10]))
            if where.workflow is None or view.workflow == where.workflow:
                yield view

    def states(self, ids: Sequence[str]) -> dict[str, RunState]:
        states: dict[str, RunState] = {}
        for at in range(0, len(ids), IDS_AT_ONCE):
            some = ids[at : at + IDS_AT_ONCE]
            for run, state, token in self._all("solo_states", (_json_list(some),)):
                states[run] = RUN_STATES[state] if state >= RUNNING else _solo_state(state, token)
            missing = [run for run in some if run not in states]
            if missing:
                states.update(
                    {run: RUN_STATES[state] for run, state in self._all("run_states", (_json_list(missing),))}
                )
        if len(states) < len(ids):
            states.update(staged.states(self._sealed_parts(), set(ids).difference(states)))
        missing = [run for run in ids if run not in states]
        if missing and self._knows_moves:
            moves = self._all("moves", (_json_list(missing),))
            states.update({run: unpack_parcel(head).state for run, head in moves if head is not None})
        return states

    def outputs(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        outputs: dict[str, dict[str, Any]] = {}
        for at in range(0, len(ids), IDS_AT_ONCE):
            some = ids[at : at + IDS_AT_ONCE]
            for run, state, output, extra, spec in self._all("solo_outputs", (_json_list(some),)):
                done = state == COMPLETED and output is not None
                outputs[run] = {label_of(spec or b"", extra): decode(output)} if done else {}
            missing = [run for run in some if run not in outputs]
            if missing:
                self._graph_outputs(missing, outputs)
        return outputs

    def _graph_outputs(self, ids: Sequence[str], outputs: dict[str, dict[str, Any]]) -> None:
        outputs.update({run: {} for run, _ in self._all("run_states", (_json_list(ids),))})
        children: dict[str, dict[int, bytes | None]] = {}
        fans = []
        for run, digest, idx, node, item, output, base, total in self._all("run_outputs", (_json_list(ids),)):
            if item is not None:
                children.setdefault(run, {})[idx] = output
            elif self.graph(digest) is UNREADABLE:
                continue
            elif base is not None:
                fans.append((run, self.graph(digest).nodes[node].step, base, total))
            elif output is not None:
                outputs[run][self.graph(digest).nodes[node].step] = decode(output)
        for run, step, base, total in fans:
            outputs[run][step] = decode(join_outputs(children.get(run, {}), base, total))

    # --- queues and definitions --------------------------------------------------------------------------------------

    def queues(self) -> list[QueueView]:
        lengths: dict[str, int] = {name: 0 for (name,) in self._all("paused")}
        paused = set(lengths)
        for query in ("queue_lengths", "parked_lengths", "unmade_lengths"):
            for name, count in self._all(query):
                lengths[name] = lengths.get(name, 0) + (count or 0)
        for name, count in staged.lengths(self._sealed_parts(), clock.wall()).items():
            lengths[name] = lengths.get(name, 0) + count
        return [QueueView(name, lengths[name], name in paused, self._oldest(name)) for name in sorted(lengths)]

    def _oldest(self, queue: str) -> float | None:
        row = self._one("queue_oldest", (queue,))
        return None if row is None or row[0] is None else max((clock.wall() - row[0]) / SECOND, 0.0)

    def workflows(self) -> list[WorkflowView]:
        views = []
        for name, digest, published, mark, body, _ in self._all("workflows"):
            if (graph := _graph(body)) is not UNREADABLE:
                views.append(workflow_view(name, digest, graph, published, mark))
        return views

    def definition(self, name_or_hash: str) -> Definition | None:
        published = self._one("published_hash", (name_or_hash,))
        row = self._one("definition", (published[0] if published else name_or_hash,))
        if row is None or _graph(row[1]) is UNREADABLE:
            return None
        return Definition(row[0], _graph(row[1]), row[2])


UNREADABLE = Graph("", ())  # stands for a definition that is broken or gone: its run is shown without tasks


def _graph(body: bytes) -> Graph:
    try:
        return decode_graph(body)
    except msgspec.DecodeError:
        return UNREADABLE


# --- views -----------------------------------------------------------------------------------------------------------


def _run_view(row: Any) -> RunView:
    run, workflow, state, cause, key, turn, submitted, start_at, scheduled_at, started, finished, params, _ = row
    return RunView(
        id=run,
        workflow=workflow,
        status=RUN_STATES[state],
        cause=cause if state > COMPLETED else None,
        params=_params(params) if params else {},
        key=key,
        round=turn,
        submitted_at=rfc3339(submitted),
        start_at=rfc3339(start_at),
        scheduled_at=rfc3339(scheduled_at),
        started_at=rfc3339(started),
        finished_at=rfc3339(finished),
    )


def _parcel_view(parcel: Parcel) -> RunView:
    return RunView(
        id=parcel.id,
        workflow=parcel.workflow or label_of(parcel.work),
        status=parcel.state,
        params=_params(parcel.params) if parcel.params else {},
        key=parcel.key,
        round=parcel.round,
        submitted_at=rfc3339(parcel.submitted),
        start_at=rfc3339(parcel.start_at),
        scheduled_at=rfc3339(parcel.scheduled_at),
        started_at=rfc3339(parcel.started),
    )


def _params(body: bytes) -> dict[str, Any]:
    try:
        return dict(decode(body))
    except msgspec.DecodeError:
        return {}


def _solo_state(state: int, token: int) -> RunState:
    return rules.run_state(STATES[state], claimed=token > 0)


def _solo_run(row: Any, spec: bytes) -> RunView:
    run, state, flags, token, cause, key, submitted, started, finished, extra = row
    more = decode_extra(extra) if extra else Extra()
    return RunView(
        id=run,
        workflow=label_of(spec, extra),
        status=_solo_state(state, token),
        cause=cause if state > COMPLETED else None,
        key=key,
        round=flags // ROUND + 1,
        submitted_at=rfc3339(submitted),
        start_at=rfc3339(more.start_at),
        started_at=rfc3339(started),
        finished_at=rfc3339(finished),
    )


def _graph_tasks(run: str, graph: Graph, found: list[Any]) -> list[TaskView]:
    """In graph order, the children of a fan-out after it; gates are hidden, and children of an earlier round too."""
    views: list[TaskView] = []
    by_idx = {row[0]: row for row in found}
    for idx, node in enumerate(graph.nodes):
        row = by_idx.get(idx)
        if row is None or node.kind is Kind.GATE:
            continue
        view = _task_view(run, row, node.step)
        views.append(view)
        if row[12] is not None:
            base, made, total = row[12:15]
            if row[3] == COMPLETED:
                rows = {child[0]: child[16] for child in found if base <= child[0] < base + total}
                view.output = decode(join_outputs(rows, base, total))
            children = (by_idx.get(base + item) for item in range(made or 0))
            views += [_task_view(run, child, f"{node.step}[{child[2]}]") for child in children if child is not None]
    return views


def _task_view(run: str, row: Any, step: str) -> TaskView:
    idx, _, _, state, _, attempt, token, cause, queued, started, finished, due, _, _, _, detail, output = row[:17]
    node, slot, stdout, stderr = row[21:]
    more = decode_detail(detail) if detail else Detail()
    return TaskView(
        id=f"{run}.{idx}",
        step=step,
        status=STATES[state],
        cause=cause,
        message=more.message or None,
        attempt=attempt + (state == RUNNING and node is not None),
        token=token,
        node=node,
        worker=slot,
        exit_code=more.exit_code,
        signal=more.signal,
        queued_at=rfc3339(queued),
        started_at=rfc3339(started),
        finished_at=rfc3339(finished),
        due_at=rfc3339(due),
        output=decode(output) if output and state == COMPLETED else None,
        stdout_tail=stdout or "",
        stderr_tail=stderr or "",
        usage=usage_view(more),
        unenforced=list(more.unenforced),
    )


def _json_list(ids: Sequence[str]) -> str:
    return msgspec.json.encode(ids).decode()
