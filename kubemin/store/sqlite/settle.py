"""The transitions that follow from one another inside a run: what a task's end starts, skips or ends.

Rules are `model/transitions.py`'s; this module finds the rows they speak of, in steps that fit into one call. What
does not fit is a *ripple*: (kind, run, idx, pos) in the database (ripples.py), taken up again by `advance`. Nothing
recurses over steps: a chain of 10,000 skips is a loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from kubemin.clock import SECOND
from kubemin.model import transitions as rules
from kubemin.model.states import STARTS_IN_STOPPED_RUN, Cause, Kind
from kubemin.store.base import SLICE, WINDOW, Change
from kubemin.store.codec import CANCELLED, COMPLETED, FAILED, NUMBERS, QUEUED, SKIPPED, STATES, STOPPING, TIMEOUT
from kubemin.store.plans import Plan
from kubemin.store.sqlite.building import Building
from kubemin.store.sqlite.fanout import Fans
from kubemin.store.sqlite.inputs import Inputs
from kubemin.store.sqlite.quarantine import CorruptRun, put_aside
from kubemin.store.sqlite.ripples import FAN, TELL
from kubemin.store.sqlite.rows import ALL, CAUSES, ENDED, HEARD, KEPT, NAMES, PLACED, RunRow, TaskRow
from kubemin.store.sqlite.session import Session


class Settler:
    """`slice_size`: records that one call may touch; `window`: tasks of one run that stand in a queue at once."""

    def __init__(self, session: Session, inputs: Inputs, *, slice_size: int = SLICE, window: int = WINDOW) -> None:
        self.s = session
        self.inputs = inputs
        self.slice = slice_size
        self.window = window
        self.budget = slice_size
        self._queue: deque[tuple[int, str, int, int]] = deque()
        # (run, queue) with a free place in the hand-out window, and perhaps a task that waits for it
        self._short: set[tuple[str, str]] = set()
        self.fans = Fans(self)
        self.building = Building(self)
        self._steps: dict[int, Callable[[str, int, int], None]] = {
            TELL: self._tell,
            FAN: self.fans.go_on,
            **self.building.steps,
        }

    # --- the loop ----------------------------------------------------------------------------------------------------

    def push(self, kind: int, run: str, idx: int = 0, pos: int = 0) -> None:
        self._queue.append((kind, run, idx, pos))

    def settle(self, limit: int | None = None) -> None:
        """Draw all consequences, as far as `limit` records reach; leave the rest as ripples."""
        if not self._queue and not self._short:
            return
        self.budget = self.slice if limit is None else limit
        while self._queue and self.budget > 0:
            kind, run, idx, pos = self._queue.popleft()
            try:
                self._steps[kind](run, idx, pos)
            except CorruptRun as corrupt:
                self.put_aside(corrupt)
        if self._queue:
            self.s.write_many("insert_ripple", ((run, kind, idx, pos) for kind, run, idx, pos in self._queue))
            self.s.unfinished = True
            self._queue.clear()
        if self._short:
            self._refill()

    def put_aside(self, corrupt: CorruptRun) -> None:
        """Fail that run alone."""
        self._queue = deque(item for item in self._queue if item[1] != corrupt.run)
        self._short = {item for item in self._short if item[0] != corrupt.run}
        put_aside(self, corrupt)

    def forget(self) -> None:
        """The transaction was undone."""
        self._queue.clear()
        self._short.clear()

    # --- ends --------------------------------------------------------------------------------------------------------

    def end(self, run: RunRow | None, task: TaskRow, state: int, cause: str | None, message: str = "") -> None:
        """A task's end. Its output and details are set by the caller."""
        was_queued = task.state == QUEUED
        self.s.touch(task, ENDED if task.due is None else ALL)
        task.state, task.cause, task.due, task.finished = state, cause, None, self.s.now
        if run is None:
            self._tell_solo(task, message)
            return
        if was_queued:
            self.unlist(run, task)
        plan = self.s.plan(run)
        node = plan.nodes[task.node]
        if run.cause is None and state in (FAILED, TIMEOUT) and rules.fails_run(node.kind, STATES[state]):
            run.cause = cause or NAMES[state]
        if node.kind is not Kind.GATE:
            self.tell_task(_END_EVENTS.get(state, "finished"), run, plan, task, message)
        run.live -= 1
        self.s.count(run)
        if task.item is not None:
            self.fans.child_ended(run, plan, task)
        elif plan.dependents[task.idx]:
            self.push(TELL, run.id, task.idx)
        if run.live == 0 and not run.ended:
            self.end_run(run)

    def end_run(self, run: RunRow) -> None:
        self.s.touch_run(run)
        state, cause = rules.run_end(run.stopped, run.cause)
        run.state, run.cause = NUMBERS[state], cause
        run.finished, run.deadline, run.due = self.s.now, None, None
        self.s.run_ended(run)
        seconds = (run.finished - (run.started or run.finished)) / SECOND
        self.s.changes.append(
            Change("finished", run.id, run.workflow, state=state.value, cause=cause or "", seconds=seconds)
        )
        self.release_key(run)

    def release_key(self, run: RunRow) -> None:
        key, held = run.ckey, run.holds
        run.ckey, run.holds = None, 0
        if key is not None and held:
            self._hand_over(key)

    def _hand_over(self, key: str) -> None:
        """The next run, by submission, that waits for a concurrency key gets it."""
        self.s.flush()
        row = self.s.one("next_for_key", (key,))
        if row is not None:
            run = self.s.run(row[0])
            run.holds = 1
            self.s.touch_run(run)
            self.building.release_if_ready(run)

    # --- countdown ---------------------------------------------------------------------------------------------------

    def _tell(self, run_id: str, idx: int, pos: int) -> None:
        run = self.s.run(run_id)
        plan = self.s.plan(run)
        task = self.s.task(run_id, idx)
        dependents = plan.dependents[idx]
        upto = min(len(dependents), pos + max(self.budget, 1))
        for dependent, marks in dependents[pos:upto]:
            other = self.s.task(run_id, dependent)
            other.flags |= task.passes(marks)
            other.open -= 1
            self.s.touch(other, HEARD)
            if other.open == 0:
                self.decide(run, plan, other)
        self.budget -= upto - pos
        if upto < len(dependents):
            self.push(TELL, run_id, idx, upto)

    def decide(self, run: RunRow, plan: Plan, task: TaskRow) -> None:
        """All its needs have ended."""
        node = plan.nodes[task.node]
        if task.flags & KEPT:
            task.flags &= ~KEPT
            self.s.touch(task, HEARD)
            if plan.dependents[task.idx]:
                self.push(TELL, run.id, task.idx)
            return
        if node.kind is Kind.JOIN:
            end: rules.End | None = rules.join_state(node.when, task.flags, run.stopped)
        else:
            end = rules.decide(node.when, task.flags, run.stopped)
        if end is not None:
            self.end(run, task, NUMBERS[end.state], CAUSES[end.cause])
        elif node.kind is Kind.GATE:
            self.end(run, task, COMPLETED, None)
        elif node.kind is Kind.FANOUT:
            self.fans.start(run, plan, task)
        else:
            self.enqueue(run, task)

    # --- queues ------------------------------------------------------------------------------------------------------

    def enqueue(self, run: RunRow | None, task: TaskRow) -> None:
        """Ready: into its queue, or, when enough of its run stand there, into the run's own line."""
        task.state, task.due, task.queued = QUEUED, None, self.s.now
        self.s.touch(task, PLACED)
        if run is None:
            task.seq = self.s.numbers(1)
        elif run.listed.get(task.queue, 0) < self.window:
            task.seq = self.s.numbers(1)
            run.listed[task.queue] = run.listed.get(task.queue, 0) + 1
            self.s.count(run)
        else:
            task.seq = None
            run.parked += 1
            self.s.count(run)

    def requeue(self, run: RunRow | None, task: TaskRow) -> None:
        """A claimed task back to its old place, or to its end when its run is being stopped."""
        task.due = None
        stopped = self.stopped(run, task)
        if stopped is not None:
            self.end(run, task, CANCELLED, stopped.value)
            return
        task.state = QUEUED
        self.s.touch(task)
        if run is not None:
            run.listed[task.queue] = run.listed.get(task.queue, 0) + 1
            self.s.count(run)

    def unlist(self, run: RunRow, task: TaskRow) -> None:
        """It leaves the queue, by a claim or an end."""
        if task.seq is None:
            run.parked -= 1
        else:
            run.listed[task.queue] -= 1
        if run.parked:
            self._short.add((run.id, task.queue))
        self.s.count(run)

    def _refill(self) -> None:
        for run_id, queue in self._short:
            run = self.s.run(run_id)
            room = min(self.window - run.listed.get(queue, 0), run.parked)
            if room <= 0:
                continue
            self.s.flush_tasks()
            found = self.s.all("parked", (run_id, queue, room))
            first = self.s.numbers(len(found))
            for seq, (idx,) in enumerate(found, first):
                task = self.s.task(run_id, idx)
                task.seq = seq
                self.s.touch(task, PLACED)
            run.listed[queue] = run.listed.get(queue, 0) + len(found)
            run.parked -= len(found)
            self.s.count(run)
        self._short.clear()

    def stopped(self, run: RunRow | None, task: TaskRow) -> Cause | None:
        """Why this task must not go on, if so."""
        if run is None:
            return Cause(task.cause) if task.flags & STOPPING and task.cause else None
        if run.stop is None or self.s.plan(run).nodes[task.node].when in STARTS_IN_STOPPED_RUN:
            return None
        return Cause(run.stop)

    # --- telling -----------------------------------------------------------------------------------------------------

    def tell_task(self, event: str, run: RunRow, plan: Plan, task: TaskRow, message: str = "") -> None:
        seconds = 0.0
        if event == "started" and task.queued is not None:
            seconds = max(self.s.now - task.queued, 0) / SECOND
        elif task.finished is not None and task.started is not None:
            seconds = (task.finished - task.started) / SECOND
        if event == "finished" and task.cause == "crash":
            event = "quarantined"
        step = plan.step_path(task.node, task.item)
        self.s.changes.append(
            Change(
                event, run.id, run.workflow, step, f"{run.id}.{task.idx}", NAMES[task.state],
                task.cause or "", task.attempt, message, False, seconds,
            )
        )  # fmt: skip

    def _tell_solo(self, task: TaskRow, message: str) -> None:
        label = self.inputs.label(task.run)
        state = rules.run_state(STATES[task.state], claimed=True).value
        if task.cause == "crash":
            self.s.changes.append(
                Change("quarantined", task.run, label, "", "", state, "crash", task.attempt, message, True)
            )
        seconds = (self.s.now - (task.started or self.s.now)) / SECOND
        self.s.changes.append(
            Change("finished", task.run, label, "", "", state, task.cause or "", task.attempt, message, True, seconds)
        )


_END_EVENTS: dict[int, str] = {SKIPPED: "skipped", CANCELLED: "cancelled"}
