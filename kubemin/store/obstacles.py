"""How the facts that `kubemin.why` reasons about follow from the records of one run, for every engine. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from kubemin.clock import Micros
from kubemin.errors import NotFound
from kubemin.model.graph import Graph
from kubemin.model.obstacles import TASKS, Obstacles, OpenNeed, TaskFacts
from kubemin.model.records import RunView
from kubemin.model.states import TASK_FAILURES, Kind, TaskState
from kubemin.store.codec import COMPLETED, QUEUED, RUNNING, STATES, WAITING, Detail, Extra, decode_detail

NEEDS = 20
FAILED_STEPS = 20


class Record(msgspec.Struct, gc=False):
    """A task as its engine keeps it; the fields are in the order of the query `obstacle_tasks`."""

    idx: int
    node: int
    item: int | None
    state: int
    queue: str
    seq: int | None  # its place, while it stands in the hand-out window
    due: Micros | None
    attempt: int
    token: int
    started: Micros | None
    cause: str | None
    detail: bytes | str | None
    base: int | None = None
    made: int | None = None
    total: int | None = None
    open: int = 0
    slot: int | None = None
    host: str = ""  # of the slot, in a fleet

    @property
    def listed(self) -> bool:
        return self.state == QUEUED and self.seq is not None


Position = Callable[[Record], int | None]  # of a listed one: how many are handed out before it


class RunObstacles:
    """Of a run with a graph. `records` in rising order of their index."""

    def __init__(self, graph: Graph, records: Iterable[Record], position: Position) -> None:
        self._nodes = graph.nodes
        self._records = {record.idx: record for record in records}
        self._position = position

    def add_to(self, facts: Obstacles, step: str | None) -> None:
        """Raises NotFound when the run has no such step."""
        wanted = self._wanted(facts.run, step)
        facts.total = len(self._nodes)
        facts.unpacked = sum(idx < facts.total for idx in self._records)
        facts.tasks = [self._facts(record) for record in wanted[:TASKS]]
        facts.more = max(len(wanted) - TASKS, 0)
        facts.failed = [
            self._path(record)
            for record in self._records.values()
            if STATES[record.state] in TASK_FAILURES and self._does_work(record.node)
        ][:FAILED_STEPS]

    def _wanted(self, run: str, step: str | None) -> list[Record]:
        shown = [record for record in self._records.values() if self._nodes[record.node].kind is not Kind.GATE]
        if step is None:
            return [record for record in shown if record.state < COMPLETED]
        found = [record for record in shown if self._path(record) == step]
        if not found:
            raise NotFound(f"run {run} has no step {step}")
        return found

    def _path(self, record: Record) -> str:
        step = self._nodes[record.node].step
        return step if record.item is None else f"{step}[{record.item}]"

    def _does_work(self, node: int) -> bool:
        return self._nodes[node].kind in (Kind.TASK, Kind.FANOUT)

    def _facts(self, record: Record) -> TaskFacts:
        node = self._nodes[record.node]
        facts = task_facts(record, self._path(record), self._position)
        facts.kind = node.kind.value if record.item is None else "task"
        facts.attempts = None if node.retry is None else node.retry.limit + 1
        facts.max_parallel = node.max_parallel if node.kind is Kind.FANOUT else None
        facts.needs = self._open_needs(record.node) if record.item is None and record.state == WAITING else []
        facts.blamed = self._blamed(record.node) if facts.state is TaskState.SKIPPED else None
        if record.base is not None and record.state == RUNNING:
            facts.children_live, facts.children_total = record.open, record.total
            facts.children_ended = (record.made or 0) - record.open
        return facts

    def _open_needs(self, node: int) -> list[OpenNeed]:
        found = []
        for edge in self._nodes[node].needs:
            need = self._records.get(edge.node)
            if need is not None and need.state < COMPLETED:
                found.append(OpenNeed(self._nodes[edge.node].step.rstrip("/"), STATES[need.state]))
        return found[:NEEDS]

    def _blamed(self, node: int) -> str | None:
        """The first step upstream that failed, timed out or was cancelled."""
        seen: set[int] = set()
        pending = [edge.node for edge in self._nodes[node].needs]
        culprits = []
        while pending:
            at = pending.pop()
            if at in seen:
                continue
            seen.add(at)
            need = self._records.get(at)
            ended_badly = need is not None and STATES[need.state] in (*TASK_FAILURES, TaskState.CANCELLED)
            if ended_badly and self._does_work(at):
                culprits.append(at)
            pending += [edge.node for edge in self._nodes[at].needs]
        return self._nodes[min(culprits)].step if culprits else None


def task_facts(record: Record, step: str, position: Position) -> TaskFacts:
    more = decode_detail(record.detail) if record.detail else Detail()
    return TaskFacts(
        idx=record.idx,
        step=step,
        state=STATES[record.state],
        queue=record.queue,
        listed=record.listed,
        position=position(record) if record.listed else None,
        due_at=record.due,
        attempt=record.attempt + (record.state == RUNNING and record.slot is not None),
        token=record.token,
        slot=record.slot,
        host=record.host,
        started_at=record.started,
        cause=record.cause,
        message=more.message,
        exit_code=more.exit_code,
        signal=more.signal,
    )


def of_single(
    view: RunView, record: Record, extra: Extra, position: Position, step: str | None, *, stopping: bool
) -> Obstacles:
    """Of a single task, which is its own run. Raises NotFound when it has no such step."""
    label = view.workflow
    if step is not None and step != label:
        raise NotFound(f"run {view.id} has no step {step}")
    facts = task_facts(record, label, position)
    if extra.retry is not None:
        facts.attempts = int(extra.retry.get("limit", 0)) + 1
    if extra.start_at is not None and record.state == WAITING and not record.token:
        facts.due_at = None  # it waits for its start: that is the run's
    ended = record.state >= COMPLETED
    return Obstacles(
        run=view.id,
        workflow=label,
        state=view.status,
        cause=view.cause,
        round=view.round,
        start_at=extra.start_at,
        cancelling=record.cause if stopping and not ended else None,
        unpacked=1,
        total=1,
        tasks=[] if ended and step is None else [facts],
        failed=[label] if STATES[record.state] in TASK_FAILURES else [],
    )
