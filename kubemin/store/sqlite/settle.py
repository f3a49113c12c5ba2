"""The transitions that follow from one another inside a run: what a task's end starts, skips or ends.

Rules are `model/transitions.py`'s; this module finds the rows they speak of, in steps that fit into one call. What
does not fit is a *ripple*: (kind, run, idx, pos) in the database, taken up again by `advance`. Nothing recurses over
steps: a chain of 10,000 skips is a loop.

  TELL       the dependents of node `idx`, from the `pos`-th, hear that it ended
  FAN        the fan-out `idx` goes on making children
  BUILD      rows of the run's nodes, from node `pos`; REBUILD: their reset for `retry`
  RELEASE    roots are decided, from the `pos`-th; RERELEASE: of a retried run, rows from idx `pos`
  STOP       queued tasks of a stopped run end, from idx `pos`
  TRASH      rows of a run that was pruned, deleted piece by piece
"""

from __future__ import annotations

from collections import deque

from kubemin.clock import SECOND
from kubemin.model import transitions as rules
from kubemin.model.references import ReferenceMissing
from kubemin.model.states import Cause, Kind, TaskState, When
from kubemin.store.base import SLICE, WINDOW, Change
from kubemin.store.sqlite.graphs import GATE, SOFT, Plan
from kubemin.store.sqlite.inputs import Inputs
from kubemin.store.sqlite.rows import (
    COMPLETED,
    FAILED,
    FRESH,
    KEPT,
    NUMBERS,
    QUEUED,
    RUNNING,
    SETTLED,
    SKIPPED,
    STATES,
    STOPPING,
    TIMEOUT,
    WAITING,
    Detail,
    RunRow,
    TaskRow,
    encode,
)
from kubemin.store.sqlite.session import Session

TELL, FAN, BUILD, REBUILD, RELEASE, RERELEASE, STOP, TRASH = range(8)
BUILDING, BUILT, RELEASED = range(3)  # RunRow.stage


class Settler:
    def __init__(self, session: Session, inputs: Inputs) -> None:
        self.s = session
        self.inputs = inputs
        self.budget = SLICE
        self._queue: deque[tuple[int, str, int, int]] = deque()
        self._short: set[str] = set()  # runs with a free place in the queue and tasks that wait for one
        self._steps = {
            TELL: self._tell,
            FAN: self._fan_on,
            BUILD: self._build,
            REBUILD: self._rebuild,
            RELEASE: self._release,
            RERELEASE: self._rerelease,
            STOP: self._stop,
            TRASH: self._trash,
        }

    # --- the loop ----------------------------------------------------------------------------------------------------

    def push(self, kind: int, run: str, idx: int = 0, pos: int = 0) -> None:
        self._queue.append((kind, run, idx, pos))

    def settle(self, limit: int = SLICE) -> None:
        """Draw all consequences, as far as `limit` records reach; leave the rest as ripples."""
        if not self._queue and not self._short:
            return
        self.budget = limit
        while self._queue and self.budget > 0:
            kind, run, idx, pos = self._queue.popleft()
            self._steps[kind](run, idx, pos)
        if self._queue:
            self.s.write_many("insert_ripple", ((run, kind, idx, pos) for kind, run, idx, pos in self._queue))
            self.s.unfinished = True
            self._queue.clear()
        if self._short:
            self._refill()

    def forget(self) -> None:
        """The transaction was undone."""
        self._queue.clear()
        self._short.clear()

    # --- ends --------------------------------------------------------------------------------------------------------

    def end(self, run: RunRow | None, task: TaskRow, state: int, cause: str | None, message: str = "") -> None:
        """A task's end. Its output and details are set by the caller."""
        was_queued = task.state == QUEUED
        task.state, task.cause, task.due, task.finished = state, cause, None, self.s.now
        self.s.touch(task)
        if run is None:
            self._tell_solo(task, message)
            return
        if was_queued:
            self.unlist(run, task)
        plan = self.s.plan(run)
        node = plan.nodes[task.node]
        if run.cause is None and state in (FAILED, TIMEOUT) and rules.fails_run(node.kind, STATES[state]):
            run.cause = cause or STATES[state].value
        if node.kind is not Kind.GATE:
            self.tell_task(_END_EVENTS.get(state, "finished"), run, plan, task, message)
        run.live -= 1
        self.s.touch_run(run)
        if task.item is not None:
            self._child_ended(run, plan, task)
        elif plan.dependents[task.idx]:
            self.push(TELL, run.id, task.idx)
        if run.live == 0 and not run.ended:
            self._end_run(run)

    def _end_run(self, run: RunRow) -> None:
        state, cause = rules.run_end(run.stopped, run.cause)
        run.state, run.cause = NUMBERS[state.value], cause
        run.finished, run.deadline, run.due = self.s.now, None, None
        seconds = (run.finished - (run.started or run.finished)) / SECOND
        self.s.changes.append(
            Change("finished", run.id, run.workflow, state=state.value, cause=cause or "", seconds=seconds)
        )
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
            self.release_if_ready(run)

    # --- countdown ---------------------------------------------------------------------------------------------------

    def _tell(self, run_id: str, idx: int, pos: int) -> None:
        run = self.s.run(run_id)
        plan = self.s.plan(run)
        task = self.s.task(run_id, idx)
        state = STATES[task.state]
        dependents = plan.dependents[idx]
        upto = min(len(dependents), pos + max(self.budget, 1))
        for dependent, marks in dependents[pos:upto]:
            other = self.s.task(run_id, dependent)
            other.flags |= rules.passes(state, task.cause, task.flags, soft=marks & SOFT != 0, gate=marks & GATE != 0)
            other.open -= 1
            self.s.touch(other)
            if other.open == 0:
                self._decide(run, plan, other)
        self.budget -= upto - pos
        if upto < len(dependents):
            self.push(TELL, run_id, idx, upto)

    def _decide(self, run: RunRow, plan: Plan, task: TaskRow) -> None:
        """All its needs have ended."""
        node = plan.nodes[task.node]
        if task.flags & KEPT:
            task.flags &= ~KEPT
            self.s.touch(task)
            if plan.dependents[task.idx]:
                self.push(TELL, run.id, task.idx)
            return
        if node.kind is Kind.JOIN:
            end: rules.End | None = rules.join_state(node.when, task.flags, run.stopped)
        else:
            end = rules.decide(node.when, task.flags, run.stopped)
        if end is not None:
            self.end(run, task, NUMBERS[end.state.value], end.cause and end.cause.value)
        elif node.kind is Kind.GATE:
            self.end(run, task, COMPLETED, None)
        elif node.kind is Kind.FANOUT:
            self._start_fan(run, plan, task)
        else:
            self.enqueue(run, task)

    # --- queues ------------------------------------------------------------------------------------------------------

    def enqueue(self, run: RunRow | None, task: TaskRow) -> None:
        """Ready: into its queue, or, when enough of its run stand there, into the run's own line."""
        task.state, task.due, task.queued = QUEUED, None, self.s.now
        self.s.touch(task)
        if run is None:
            task.seq = self.s.numbers(1)
        elif run.listed < WINDOW:
            task.seq = self.s.numbers(1)
            run.listed += 1
            self.s.touch_run(run)
        else:
            task.seq = None
            run.parked += 1
            self.s.touch_run(run)

    def requeue(self, run: RunRow | None, task: TaskRow) -> None:
        """A claimed task back to its old place, or to its end when its run is being stopped."""
        task.due = None
        stopped = self.stopped(run, task)
        if stopped is not None:
            self.end(run, task, NUMBERS["cancelled"], stopped.value)
            return
        task.state = QUEUED
        self.s.touch(task)
        if run is not None:
            run.listed += 1
            self.s.touch_run(run)

    def unlist(self, run: RunRow, task: TaskRow) -> None:
        """It leaves the queue, by a claim or an end."""
        if task.seq is None:
            run.parked -= 1
        else:
            run.listed -= 1
        if run.parked:
            self._short.add(run.id)
        self.s.touch_run(run)

    def _refill(self) -> None:
        for run_id in self._short:
            run = self.s.run(run_id)
            room = min(WINDOW - run.listed, run.parked)
            if room <= 0:
                continue
            self.s.flush()
            found = self.s.all("parked", (run_id, room))
            first = self.s.numbers(len(found))
            for seq, (idx,) in enumerate(found, first):
                task = self.s.task(run_id, idx)
                task.seq = seq
                self.s.touch(task)
            run.listed += len(found)
            run.parked -= len(found)
            self.s.touch_run(run)
        self._short.clear()

    def stopped(self, run: RunRow | None, task: TaskRow) -> Cause | None:
        """Why this task must not go on, if so."""
        if run is None:
            return Cause(task.cause) if task.flags & STOPPING and task.cause else None
        if run.stop is None or self.s.plan(run).nodes[task.node].when is When.ALWAYS:
            return None
        return Cause(run.stop)

    # --- fan-outs ----------------------------------------------------------------------------------------------------

    def _start_fan(self, run: RunRow, plan: Plan, task: TaskRow) -> None:
        self.s.flush()
        try:
            items = self.inputs.items(run, plan, task)
        except (ReferenceMissing, ValueError) as error:
            task.detail = encode(Detail(message=str(error)))
            self.end(run, task, FAILED, Cause.REFERENCE.value, str(error))
            return
        if task.base is None or task.total != len(items):
            task.base = run.next
            run.next += len(items)
            self.s.touch_run(run)
        task.total, task.made = len(items), 0
        task.flags &= ~rules.PASSED | rules.TAINTED
        task.state, task.started = RUNNING, self.s.now
        self.s.touch(task)
        self.tell_task("started", run, plan, task)
        self.push(FAN, run.id, task.idx)

    def _fan_on(self, run_id: str, idx: int, pos: int) -> None:
        run = self.s.run(run_id)
        self._fan(run, self.s.plan(run), self.s.task(run_id, idx))

    def _fan(self, run: RunRow, plan: Plan, task: TaskRow) -> None:
        """Make the children there is room for; end the fan-out when all have ended."""
        if task.state != RUNNING or task.made is None or task.total is None:
            return
        node = plan.nodes[task.node]
        if self.stopped(run, task) is None:
            most = node.max_parallel or task.total
            while task.made < task.total and task.open < most and (task.open == 0 or run.listed < WINDOW):
                if self.budget <= 0:
                    self.push(FAN, run.id, task.idx)
                    return
                self.budget -= 1
                self._begin_child(run, task, task.made)
                task.made += 1
                self.s.touch(task)
            if task.made < task.total:
                return
        if task.open == 0:
            task.flags &= ~FRESH
            end = rules.join_state(node.when, task.flags, run.stopped)
            self.end(run, task, NUMBERS[end.state.value], end.cause and end.cause.value)

    def fan_for(self, run: RunRow, child: TaskRow) -> None:
        """A child was claimed: another may take its place in the queue."""
        parent = self.s.task(run.id, child.node)
        if parent.made is not None and parent.total is not None and parent.made < parent.total:
            self.push(FAN, run.id, parent.idx)

    def _begin_child(self, run: RunRow, parent: TaskRow, item: int) -> None:
        idx = (parent.base or 0) + item
        child = self.s.find_task(run.id, idx) if run.round > 1 else None
        if child is None:
            child = new_task(run.id, idx, parent.node, parent.queue, item=item)
            self.s.add_task(child)
        elif child.state == COMPLETED and not parent.flags & FRESH:
            return
        else:
            reset(child, 0)
        parent.open += 1
        run.live += 1
        self.enqueue(run, child)

    def _child_ended(self, run: RunRow, plan: Plan, child: TaskRow) -> None:
        parent = self.s.task(run.id, child.node)
        parent.flags |= rules.passes(STATES[child.state], child.cause, 0)
        parent.open -= 1
        self.s.touch(parent)
        self._fan(run, plan, parent)

    # --- building and releasing --------------------------------------------------------------------------------------

    def _build(self, run_id: str, idx: int, pos: int) -> None:
        run = self.s.run(run_id)
        nodes = self.s.plan(run).nodes
        upto = min(len(nodes), pos + max(self.budget, 1))
        for number in range(pos, upto):
            node = nodes[number]
            self.s.add_task(new_task(run_id, number, number, node.queue, opened=len(node.needs)))
        run.live += upto - pos
        self.s.touch_run(run)
        self.budget -= upto - pos
        if upto < len(nodes):
            self.push(BUILD, run_id, 0, upto)
        else:
            self._built(run)

    def _rebuild(self, run_id: str, idx: int, pos: int) -> None:
        run = self.s.run(run_id)
        plan = self.s.plan(run)
        forced = plan.downstream(run.again) if run.again else frozenset()
        upto = min(len(plan.nodes), pos + max(self.budget, 1))
        for number in range(pos, upto):
            self._rebuild_node(run, plan, self.s.task(run_id, number), forced=number in forced)
        self.budget -= upto - pos
        if upto < len(plan.nodes):
            self.push(REBUILD, run_id, 0, upto)
        else:
            self._built(run)

    def _rebuild_node(self, run: RunRow, plan: Plan, task: TaskRow, *, forced: bool) -> None:
        """Back to `waiting`, or kept; a kept one passes on again after a need of it that is run again."""
        opened = heard = 0
        for edge in plan.nodes[task.idx].needs:
            need = self.s.task(run.id, edge.node)
            if need.state == WAITING or need.flags & KEPT:
                opened += 1
            else:
                marks = plan.marks(task.idx, edge.node, edge.soft)
                heard |= rules.passes(
                    STATES[need.state], need.cause, need.flags, soft=marks & SOFT != 0, gate=marks & GATE != 0
                )
        if rules.runs_again(STATES[task.state], forced=forced):
            fresh = FRESH if forced and plan.nodes[task.idx].kind is Kind.FANOUT else 0
            reset(task, opened, heard | fresh)
            run.live += 1
            self.s.touch_run(run)
            self.s.touch(task)
        else:
            task.flags = task.flags & SETTLED | heard | (KEPT if opened else 0)
            task.open = opened
            self.s.touch(task)

    def _built(self, run: RunRow) -> None:
        run.stage = BUILT
        self.s.touch_run(run)
        self.release_if_ready(run)

    def release_if_ready(self, run: RunRow) -> None:
        """Its roots start when all its rows exist, it is due, and it holds its concurrency key."""
        if run.stage != BUILT or run.due is not None or (run.ckey is not None and not run.holds):
            return
        run.stage = RELEASED
        self.s.touch_run(run)
        self.push(RELEASE if run.round == 1 else RERELEASE, run.id)

    def _release(self, run_id: str, idx: int, pos: int) -> None:
        run = self.s.run(run_id)
        plan = self.s.plan(run)
        upto = min(len(plan.roots), pos + max(self.budget, 1))
        for number in plan.roots[pos:upto]:
            self._decide(run, plan, self.s.task(run_id, number))
        self.budget -= upto - pos
        if upto < len(plan.roots):
            self.push(RELEASE, run_id, 0, upto)
        else:
            self._released(run)

    def _rerelease(self, run_id: str, idx: int, pos: int) -> None:
        run = self.s.run(run_id)
        plan = self.s.plan(run)
        self.s.flush()
        count = max(self.budget, 1)
        found = self.s.all("releasable", (run_id, pos, len(plan.nodes), count))
        for (number,) in found:
            self._decide(run, plan, self.s.task(run_id, number))
        self.budget -= count
        if len(found) == count:
            self.push(RERELEASE, run_id, 0, found[-1][0] + 1)
        else:
            self._released(run)

    def _released(self, run: RunRow) -> None:
        run.live -= 1
        self.s.touch_run(run)
        if run.live == 0 and not run.ended:
            self._end_run(run)

    # --- stopping and deleting ---------------------------------------------------------------------------------------

    def stop_run(self, run: RunRow, cause: Cause) -> None:
        """Cancel, replace or time out: what is not `always` starts no more, what runs has to be stopped."""
        run.stop, run.deadline, run.due = cause.value, None, None
        if not run.holds:
            run.ckey = None
        self.s.touch_run(run)
        self.s.changes.append(Change("cancelling", run.id, run.workflow, cause=cause.value))
        for run_id, idx in self.s.claims:
            if run_id == run.id and not self.s.always(run_id, idx):
                self.s.stopping[run_id, idx] = cause
        if run.stage != BUILDING:
            self.release_if_ready(run)
            self.push(STOP, run.id)

    def _stop(self, run_id: str, idx: int, pos: int) -> None:
        run = self.s.run(run_id)
        if run.ended:
            return
        self.s.flush()
        count = max(self.budget, 1)
        found = self.s.all("stoppable", (run_id, pos, count))
        for (number,) in found:
            task = self.s.task(run_id, number)
            stopped = self.stopped(run, task)
            if stopped is not None and task.state in (WAITING, QUEUED):
                self.end(run, task, NUMBERS["cancelled"], stopped.value)
        self.budget -= count
        if len(found) == count:
            self.push(STOP, run_id, 0, found[-1][0] + 1)

    def _trash(self, run_id: str, idx: int, pos: int) -> None:
        last = self.s.one("nth_task", (run_id, pos, max(self.budget, 1)))
        upto = last[0] if last else 1 << 62
        self.s.write("delete_tasks", (run_id, upto))
        self.s.write("delete_tails", (run_id, upto))
        self.budget -= max(self.budget, 1)
        if last:
            self.push(TRASH, run_id, 0, upto)

    # --- telling -----------------------------------------------------------------------------------------------------

    def tell_task(self, event: str, run: RunRow, plan: Plan, task: TaskRow, message: str = "") -> None:
        seconds = 0.0
        if task.finished is not None and task.started is not None:
            seconds = (task.finished - task.started) / SECOND
        if event == "finished" and task.cause == "crash":
            event = "quarantined"
        self.s.changes.append(
            Change(
                event, run.id, run.workflow, step_path(plan, task), f"{run.id}.{task.idx}", STATES[task.state].value,
                task.cause or "", task.attempt, message, False, seconds,
            )
        )  # fmt: skip

    def _tell_solo(self, task: TaskRow, message: str) -> None:
        label = self.inputs.label(task.run)
        state = rules.run_state(STATES[task.state], claimed=True).value
        if task.cause == "crash":
            self.s.changes.append(
                Change(
                    "quarantined", task.run, label, label, f"{task.run}.0", state, "crash", task.attempt, message, True
                )
            )
        seconds = (self.s.now - (task.started or self.s.now)) / SECOND
        self.s.changes.append(
            Change("finished", task.run, label, "", "", state, task.cause or "", task.attempt, message, True, seconds)
        )


def new_task(run: str, idx: int, node: int, queue: str, *, opened: int = 0, item: int | None = None) -> TaskRow:
    return TaskRow(
        run, idx, node, item, WAITING, 0, opened, queue, None, None, 0, 0, None, 0, None, None, None, None, None, None, None
    )  # fmt: skip


def reset(task: TaskRow, opened: int, heard: int = 0) -> None:
    """As before its first attempt; its token stays, so that tokens only rise."""
    task.state, task.flags, task.open = WAITING, heard, opened
    task.seq = task.due = task.cause = task.queued = task.started = task.finished = task.detail = None
    task.attempt = task.strikes = 0
    if task.made is not None:
        task.made = 0


def step_path(plan: Plan, task: TaskRow) -> str:
    step = plan.nodes[task.node].step
    return step if task.item is None else f"{step}[{task.item}]"


_END_EVENTS: dict[int, str] = {SKIPPED: "skipped", NUMBERS[TaskState.CANCELLED.value]: "cancelled"}
