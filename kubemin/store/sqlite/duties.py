"""The leader's duties: what is due, what is late, what was left unfinished, schedules, definitions, what may go."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kubemin.clock import SECOND, Micros
from kubemin.model.graph import Schedule
from kubemin.model.records import Definition, Rejection, Submission
from kubemin.model.states import Cause
from kubemin.store.base import Change, Retention
from kubemin.store.codec import CANCELLED, WAITING, decode_graph, encode
from kubemin.store.sqlite.intake import Intake
from kubemin.store.sqlite.quarantine import CorruptRun
from kubemin.store.sqlite.ripples import TRASH
from kubemin.store.sqlite.rows import SOLO, TaskRow
from kubemin.store.sqlite.session import Session
from kubemin.store.sqlite.settle import Settler

RIPPLES_AT_ONCE = 200
DAY = 86_400 * SECOND
KEPT_FOR_REPEATS = DAY  # retired owners, sealed and never sealed batches: what a late repeat may still ask about


class Duties:
    def __init__(self, session: Session, settler: Settler, intake: Intake) -> None:
        self.s = session
        self.settler = settler
        self.intake = intake
        self._last_run = ""  # ripples are taken up run by run, in a circle

    # --- time --------------------------------------------------------------------------------------------------------

    def promote(self, limit: int) -> int:
        self.s.flush()
        tasks = self.s.all("due_tasks", (self.s.now, limit))
        for key in tasks:
            try:
                self._task_due(self.s.task(*key))
            except CorruptRun as corrupt:
                self.settler.put_aside(corrupt)
        runs = self.s.all("due_runs", (self.s.now, limit - len(tasks))) if len(tasks) < limit else []
        for (run_id,) in runs:
            try:
                self._run_due(run_id)
            except CorruptRun as corrupt:
                self.settler.put_aside(corrupt)
        self.settler.settle()
        return len(tasks) + len(runs)

    def _task_due(self, task: TaskRow) -> None:
        if task.state != WAITING:
            return  # its run was put aside a moment ago
        run = None if task.flags & SOLO else self.s.run(task.run)
        stopped = self.settler.stopped(run, task)
        if stopped is None:
            self.settler.enqueue(run, task)
        else:
            self.settler.end(run, task, CANCELLED, stopped.value)

    def _run_due(self, run_id: str) -> None:
        run = self.s.run(run_id)
        rule = self.s.plan(run).graph.concurrency
        run.due = None
        self.s.touch_run(run)
        self.intake.acquire(run, rule)
        self.settler.building.release_if_ready(run)

    def expire(self, limit: int) -> int:
        self.s.flush()
        late = self.s.all("late_runs", (self.s.now, limit))
        for (run_id,) in late:
            try:
                self.settler.building.stop_run(self.s.run(run_id), Cause.RUN_TIMEOUT)
            except CorruptRun as corrupt:
                self.settler.put_aside(corrupt)
        self.settler.settle()
        return len(late)

    def next_due(self) -> Micros | None:
        self.s.flush()
        row = self.s.one("next_due")
        return None if row is None else row[0]

    # --- what was left -----------------------------------------------------------------------------------------------

    def advance(self, limit: int) -> bool:
        left = limit
        if self.s.unfinished:
            left = self._ripple(limit // 2 if self.s.sealed else limit)
        if self.s.sealed:
            self.intake.unpack(max(left, 1))
        return self.s.unfinished or self.s.sealed

    def _ripple(self, limit: int) -> int:
        left = limit
        self.s.flush()
        while left > 0:
            row = self.s.one("ripple_run", (self._last_run,)) or self.s.one("ripple_run", ("",))
            if row is None:
                break
            self._last_run = row[0]
            for ripple in self.s.all("ripples", (row[0], RIPPLES_AT_ONCE)):
                kind, run, idx, pos = ripple
                self.s.write("delete_ripple", (run, kind, idx))
                self.settler.push(kind, run, idx, pos)
            self.settler.settle(left)
            left = min(left - 1, self.settler.budget)
            self.s.flush()
        self.s.unfinished = self.s.one("any_ripple") is not None
        return left

    # --- definitions and schedules -----------------------------------------------------------------------------------

    def define(self, definitions: Sequence[Definition]) -> None:
        for each in definitions:
            self.s.write(
                "insert_definition", (each.hash, each.graph.workflow, encode(each.graph), each.source, self.s.now)
            )

    def publish(self, definitions: Sequence[Definition]) -> dict[str, list[str]]:
        told: dict[str, list[str]] = {"added": [], "changed": [], "removed": []}
        known = {row[0]: row for row in self.s.all("workflows")}
        self.define(definitions)
        for each in definitions:
            name = each.graph.workflow
            old = known.pop(name, None)
            if old is not None and old[1] == each.hash:
                continue
            told["added" if old is None else "changed"].append(name)
            same_schedule = old is not None and _schedule(old[4]) == each.graph.schedule
            mark = old[3] if old is not None and same_schedule else self.s.now
            self.s.write("put_workflow", (name, each.hash, self.s.now, mark))
        for name in known:
            self.s.write("delete_workflow", (name,))
            told["removed"].append(name)
        return {what: sorted(names) for what, names in told.items()}

    def fire(self, workflow: str, slot: Micros, submission: Submission | None) -> bool:
        if not self.s.write("raise_mark", (slot, workflow)):
            return False
        if submission is not None:
            answer = self.intake.submit([submission])[0]
            if isinstance(answer, Rejection):
                self.s.changes.append(
                    Change("skipped", submission.id, workflow, cause=answer.code, message=answer.message)
                )
        return True

    def schedule_marks(self) -> dict[str, tuple[Definition, Micros]]:
        marks = {}
        for name, digest, _, mark, graph, source in self.s.all("workflows"):
            try:
                definition = Definition(digest, decode_graph(graph), source)
            except msgspec.DecodeError:
                continue
            if definition.graph.schedule is not None:
                marks[name] = (definition, mark)
        return marks

    # --- pruning -----------------------------------------------------------------------------------------------------

    def prune(self, retention: Retention, limit: int) -> int:
        self.s.flush()
        now = self.s.now
        excess = self.s.one("count_finished")[0] - retention.runs
        aged = now - round(retention.days * DAY)
        oldest = self.s.all("oldest_finished", (now - round(retention.minimum * SECOND), limit))
        gone = [row for place, row in enumerate(oldest) if row[1] <= aged or place < excess]
        for run, _, _, solo in gone:
            if solo:
                self.s.write("delete_solo", (run,))
                self.s.write("delete_tails", (run, 1))
            else:
                self.s.forget_run(run)
                self.s.write("delete_run", (run,))
                self.s.write("delete_ripples", (run,))
                self.settler.push(TRASH, run)
        self.s.write_many("delete_payload", ((row[0],) for row in gone))
        self.s.write_many("delete_key", ((row[2], row[0]) for row in gone if row[2] is not None))
        self._prune_rest(now, retention)
        self.settler.settle(limit)
        return len(gone)

    def _prune_rest(self, now: Micros, retention: Retention) -> None:
        minimum = max(round(retention.minimum * SECOND), 0)
        for (digest,) in self.s.all("prune_definitions", (now - minimum,)):
            self.s.plans.drop(digest)
        self.s.write("prune_sealed", (now - max(minimum, KEPT_FOR_REPEATS),))
        self.s.write("prune_unsealed", (now - max(minimum, KEPT_FOR_REPEATS),))
        self.s.owners.forget(now - max(round(retention.days * DAY), KEPT_FOR_REPEATS))


def _schedule(graph: bytes) -> Schedule | None:
    """None also for a graph that cannot be read: what replaces it starts from now."""
    try:
        return decode_graph(graph).schedule
    except msgspec.DecodeError:
        return None
