"""The facts that `kubemin.why` reasons about, read in one snapshot (see `model/obstacles.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kubemin.model.obstacles import Obstacles
from kubemin.model.states import RunState
from kubemin.store.codec import COMPLETED, RUN_STATES, STOPPING, Extra, decode_extra
from kubemin.store.obstacles import Record, RunObstacles, of_single
from kubemin.store.sqlite.rows import SOLO

if TYPE_CHECKING:
    from kubemin.store.sqlite.reading import Reads

RECORD = 17  # columns of the query `obstacle_tasks` that make a Record; those after it:
FLAGS, EXTRA, SUBMITTED = range(RECORD, RECORD + 3)


def obstacles(reads: Reads, run: str, step: str | None) -> Obstacles:
    row = reads._one("obstacle_run", (run,))
    tasks = reads._all("obstacle_tasks", (run,))
    if row is not None:
        facts = _of_run(reads, run, row, tasks, step)
    elif tasks and tasks[0][FLAGS] & SOLO:
        facts = _of_solo(reads, run, tasks[0], step)
    else:
        view = reads.run(run)  # raises NotFound; staged
        facts = Obstacles(run, view.workflow, RunState.WAITING, total=1)
    facts.paused = [name for (name,) in reads._all("paused")]
    return facts


def _of_run(reads: Reads, run: str, row: Any, tasks: list[Any], step: str | None) -> Obstacles:
    workflow, state, cause, turn, submitted, start_at, deadline, ckey, holds, stop, digest, _ = row
    graph = reads.graph(digest)
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
    )
    records = [Record(*task[:RECORD]) for task in tasks] if graph.nodes else []  # none: a broken definition
    RunObstacles(graph, records, lambda record: _position(reads, record)).add_to(facts, step)
    if ckey is not None and not holds:
        _add_holder(reads, facts, ckey)
    return facts


def _position(reads: Reads, record: Record) -> int:
    return int(reads._one("ahead", (record.queue, record.seq))[0])


def _add_holder(reads: Reads, facts: Obstacles, ckey: str) -> None:
    holder = reads._one("key_holder", (ckey,))
    facts.held_by = holder[0] if holder else None
    waiting = [run for (run,) in reads._all("key_queue", (ckey,))]
    facts.ahead = waiting.index(facts.run) if facts.run in waiting else 0


def _of_solo(reads: Reads, run: str, task: Any, step: str | None) -> Obstacles:
    extra = decode_extra(task[EXTRA]) if task[EXTRA] else Extra()
    stopping = bool(task[FLAGS] & STOPPING)
    record = Record(*task[:RECORD])
    facts = of_single(reads.run(run), record, extra, lambda record: _position(reads, record), step, stopping=stopping)
    facts.submitted_at = task[SUBMITTED]
    return facts
