"""Whole runs, piece by piece: making their rows, resetting them for `retry`, releasing, stopping and deleting them.

Nothing of a run starts before all its rows exist: a run holds one `live` of its own until it is wholly released.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kubemin.model import transitions as rules
from kubemin.model.states import Cause, Kind
from kubemin.store.base import Change
from kubemin.store.codec import CANCELLED, QUEUED, SETTLED, STATES, WAITING
from kubemin.store.plans import Plan
from kubemin.store.sqlite.ripples import BUILD, BUILDING, BUILT, REBUILD, RELEASE, RELEASED, RERELEASE, STOP, TRASH
from kubemin.store.sqlite.rows import FRESH, KEPT, RunRow, TaskRow, new_task, reset

if TYPE_CHECKING:
    from kubemin.store.sqlite.settle import Settler

PASSED = 20  # rows that a scan may pass over for the price of one that it touches


class Building:
    def __init__(self, settler: Settler) -> None:
        self.settler = settler
        self.s = settler.s
        self.steps: dict[int, Callable[[str, int, int], None]] = {
            BUILD: self._build,
            REBUILD: self._rebuild,
            RELEASE: self._release,
            RERELEASE: self._rerelease,
            STOP: self._stop,
            TRASH: self._trash,
        }

    def _build(self, run_id: str, idx: int, pos: int) -> None:
        run = self.s.run(run_id)
        nodes = self.s.plan(run).nodes
        upto = min(len(nodes), pos + max(self.settler.budget, 1))
        for number in range(pos, upto):
            node = nodes[number]
            self.s.add_task(new_task(run_id, number, number, node.queue, opened=len(node.needs)))
        run.live += upto - pos
        self.s.count(run)
        self.settler.budget -= upto - pos
        if upto < len(nodes):
            self.settler.push(BUILD, run_id, 0, upto)
        else:
            self._built(run)

    def _rebuild(self, run_id: str, idx: int, pos: int) -> None:
        run = self.s.run(run_id)
        plan = self.s.plan(run)
        forced = plan.downstream(run.again) if run.again else frozenset()
        upto = min(len(plan.nodes), pos + max(self.settler.budget, 1))
        for number in range(pos, upto):
            self._rebuild_node(run, plan, self.s.task(run_id, number), forced=number in forced)
        self.settler.budget -= upto - pos
        if upto < len(plan.nodes):
            self.settler.push(REBUILD, run_id, 0, upto)
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
                heard |= need.passes(marks)
        if rules.runs_again(STATES[task.state], forced=forced):
            fresh = FRESH if forced and plan.nodes[task.idx].kind is Kind.FANOUT else 0
            reset(task, opened, heard | fresh)
            run.live += 1
            self.s.count(run)
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
        self.settler.push(RELEASE if run.round == 1 else RERELEASE, run.id)

    def _release(self, run_id: str, idx: int, pos: int) -> None:
        run = self.s.run(run_id)
        plan = self.s.plan(run)
        upto = min(len(plan.roots), pos + max(self.settler.budget, 1))
        for number in plan.roots[pos:upto]:
            self.settler.decide(run, plan, self.s.task(run_id, number))
        self.settler.budget -= upto - pos
        if upto < len(plan.roots):
            self.settler.push(RELEASE, run_id, 0, upto)
        else:
            self._released(run)

    def _rerelease(self, run_id: str, idx: int, pos: int) -> None:
        run = self.s.run(run_id)
        plan = self.s.plan(run)
        found, upto = self._scan("releasable", run_id, pos, len(plan.nodes))
        for number in found:
            self.settler.decide(run, plan, self.s.task(run_id, number))
        if upto < len(plan.nodes):
            self.settler.push(RERELEASE, run_id, 0, upto)
        else:
            self._released(run)

    def _scan(self, query: str, run_id: str, pos: int, end: int) -> tuple[list[int], int]:
        """The idx from `pos` on that a query finds, and how far it looked: rows that are only passed cost little."""
        self.s.flush()
        most = max(self.settler.budget, 1)
        upto = min(pos + most * PASSED, end)
        found = [number for (number,) in self.s.all(query, (run_id, pos, upto, most))]
        if len(found) == most:
            upto = found[-1] + 1
        self.settler.budget -= len(found) + (upto - pos) // PASSED
        return found, upto

    def _released(self, run: RunRow) -> None:
        run.live -= 1
        self.s.count(run)
        if run.live == 0 and not run.ended:
            self.settler.end_run(run)

    # --- stopping and deleting ---------------------------------------------------------------------------------------

    def stop_run(self, run: RunRow, cause: Cause) -> None:
        """Cancel, replace or time out: what is not `always` starts no more, what runs has to be stopped."""
        self.s.plan(run)  # raises before anything is changed
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
            self.settler.push(STOP, run.id)

    def _stop(self, run_id: str, idx: int, pos: int) -> None:
        run = self.s.run(run_id)
        if run.ended:
            return
        found, upto = self._scan("stoppable", run_id, pos, run.next)
        for number in found:
            task = self.s.task(run_id, number)
            stopped = self.settler.stopped(run, task)
            if stopped is not None and task.state in (WAITING, QUEUED):
                self.settler.end(run, task, CANCELLED, stopped.value)
        if upto < run.next:
            self.settler.push(STOP, run_id, 0, upto)

    def _trash(self, run_id: str, idx: int, pos: int) -> None:
        last = self.s.one("nth_task", (run_id, pos, max(self.settler.budget, 1)))
        upto = last[0] if last else 1 << 62
        self.s.write("delete_tasks", (run_id, upto))
        self.s.write("delete_tails", (run_id, upto))
        self.settler.budget -= max(self.settler.budget, 1)
        if last:
            self.settler.push(TRASH, run_id, 0, upto)
