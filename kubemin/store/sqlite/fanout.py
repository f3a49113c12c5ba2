"""Fan-outs (`forEach`): children are made a few at a time, as places in the queue come free, and end like a group.

Children stand at `base + item`; a later round finds those that completed there and keeps them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubemin.model import transitions as rules
from kubemin.model.references import ReferenceMissing
from kubemin.model.states import Cause
from kubemin.store.codec import COMPLETED, FAILED, NUMBERS, RUNNING, STATES, Detail, encode
from kubemin.store.plans import Plan
from kubemin.store.sqlite.inputs import round_of
from kubemin.store.sqlite.ripples import FAN
from kubemin.store.sqlite.rows import CAUSES, FRESH, RunRow, TaskRow, new_task, reset

if TYPE_CHECKING:
    from kubemin.store.sqlite.settle import Settler


class Fans:
    def __init__(self, settler: Settler) -> None:
        self.settler = settler
        self.s = settler.s

    def start(self, run: RunRow, plan: Plan, task: TaskRow) -> None:
        self.s.flush()
        try:
            items = self.settler.inputs.items(plan, task.node, round_of(run))
        except (ReferenceMissing, ValueError) as error:
            task.detail = encode(Detail(message=str(error)))
            self.settler.end(run, task, FAILED, Cause.REFERENCE.value, str(error))
            return
        if task.base is None or task.total != len(items):
            task.base = run.next
            run.next += len(items)
            self.s.count(run)
        task.total, task.made = len(items), 0
        task.flags &= ~rules.PASSED | rules.TAINTED | rules.OUTSIDE
        task.state, task.started = RUNNING, self.s.now
        self.s.touch(task)
        self.settler.tell_task("started", run, plan, task)
        self.settler.push(FAN, run.id, task.idx)

    def go_on(self, run_id: str, idx: int, pos: int) -> None:
        run = self.s.run(run_id)
        self._make(run, self.s.plan(run), self.s.task(run_id, idx))

    def _make(self, run: RunRow, plan: Plan, task: TaskRow) -> None:
        """Make the children there is room for; end the fan-out when all have ended."""
        if task.state != RUNNING or task.made is None or task.total is None:
            return
        node = plan.nodes[task.node]
        if self.settler.stopped(run, task) is None:
            most = node.max_parallel or task.total
            while (
                task.made < task.total
                and task.open < most
                and (task.open == 0 or run.listed.get(task.queue, 0) < self.settler.window)
            ):
                if self.settler.budget <= 0:
                    self.settler.push(FAN, run.id, task.idx)
                    return
                self.settler.budget -= 1
                self._begin_child(run, task, task.made)
                task.made += 1
                self.s.touch(task)
            if task.made < task.total:
                return
        if task.open == 0:
            task.flags &= ~FRESH
            end = rules.join_state(node.when, task.flags, run.stopped)
            self.settler.end(run, task, NUMBERS[end.state], CAUSES[end.cause])

    def child_claimed(self, run: RunRow, child: TaskRow) -> None:
        """A child was claimed: another may take its place in the queue."""
        parent = self.s.task(run.id, child.node)
        if parent.made is not None and parent.total is not None and parent.made < parent.total:
            self.settler.push(FAN, run.id, parent.idx)

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
            self.s.touch(child)
        parent.open += 1
        run.live += 1
        self.settler.enqueue(run, child)

    def child_ended(self, run: RunRow, plan: Plan, child: TaskRow) -> None:
        parent = self.s.task(run.id, child.node)
        parent.flags |= rules.passes(STATES[child.state], child.cause, 0)
        parent.open -= 1
        self.s.touch(parent)
        self._make(run, plan, parent)
