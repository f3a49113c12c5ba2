"""What operators ask for: cancel, retry, pause, resume."""

from __future__ import annotations

from kubemin.errors import NotFound, Refused
from kubemin.model.records import Owner
from kubemin.model.states import Cause
from kubemin.store.admission import concurrency_key
from kubemin.store.base import Change, Stop
from kubemin.store.codec import CANCELLED, COMPLETED, RUN_STATES, RUNNING, STOPPING, WAITING, decode
from kubemin.store.sqlite.inputs import Inputs
from kubemin.store.sqlite.intake import Intake
from kubemin.store.sqlite.quarantine import CorruptRun
from kubemin.store.sqlite.ripples import BUILDING, REBUILD
from kubemin.store.sqlite.rows import NAMES, ROUND, SOLO, RunRow, TaskRow, reset
from kubemin.store.sqlite.session import Session
from kubemin.store.sqlite.settle import Settler


class Control:
    def __init__(self, session: Session, settler: Settler, inputs: Inputs, intake: Intake) -> None:
        self.s = session
        self.settler = settler
        self.inputs = inputs
        self.intake = intake

    def _find(self, run: str) -> RunRow | TaskRow:
        """A run, unpacked first if its batch was not yet; a single task is its own run."""
        for _ in range(2):
            found = self.s.find_run(run)
            if found is not None:
                return found
            task = self.s.find_task(run, 0)
            if task is not None and task.flags & SOLO:
                return task
            if not self.intake.unpack_run(run):
                break
        if self.s.moves and self.s.one("move", (run,)):
            raise Refused(f"run {run} is on its way into the fleet, or there: it goes on when its Redis answers")
        raise NotFound(f"there is no run {run}")

    # --- cancel ------------------------------------------------------------------------------------------------------

    def cancel(self, run: str, cause: Cause) -> bool:
        found = self._find(run)
        if found.ended:
            if found.state == CANCELLED:
                return False
            raise Refused(f"run {run} has ended: {NAMES[found.state]}")
        if isinstance(found, TaskRow):
            return self._cancel_solo(found, cause)
        if found.stop is not None:
            return False
        try:
            self.settler.building.stop_run(found, cause)
        except CorruptRun as corrupt:
            self.settler.put_aside(corrupt)
        self.settler.settle()
        return True

    def _cancel_solo(self, task: TaskRow, cause: Cause) -> bool:
        if task.flags & STOPPING:
            return False
        if task.state != RUNNING:
            self.settler.end(None, task, CANCELLED, cause.value)
            return True
        task.flags |= STOPPING
        task.cause = cause.value
        self.s.touch(task)
        self.s.stopping[task.run, 0] = cause
        label = self.inputs.label(task.run)
        self.s.changes.append(Change("cancelling", task.run, label, cause=cause.value, quiet=True))
        return True

    def stops(self) -> list[Stop]:
        stops = []
        for (run, idx), cause in self.s.stopping.items():
            held = self.s.claims[run, idx]
            stops.append(Stop(self.s.owners.of(held.owner), run, idx, held.token, cause))
        return stops

    def running(self) -> list[tuple[Owner, str, int, int]]:
        return [(self.s.owners.of(held.owner), run, idx, held.token) for (run, idx), held in self.s.claims.items()]

    # --- retry -------------------------------------------------------------------------------------------------------

    def retry(self, run: str, step: str | None) -> int:
        found = self._find(run)
        if not found.ended:
            raise Refused(f"run {run} has not ended; cancel it first, or wait")
        if found.state == COMPLETED and step is None:
            raise Refused(f"run {run} has completed; name the step to run again from (--from STEP)")
        if isinstance(found, TaskRow):
            return self._retry_solo(found, step)
        return self._retry_run(found, step)

    def _retry_solo(self, task: TaskRow, step: str | None) -> int:
        if step is not None and step != self.inputs.label(task.run):
            raise NotFound(f"run {task.run} has no step {step}")
        flags = task.flags + ROUND & ~STOPPING
        reset(task, 0, flags)
        self.s.touch(task)
        self.settler.enqueue(None, task)
        return flags // ROUND + 1

    def _retry_run(self, run: RunRow, step: str | None) -> int:
        try:
            plan = self.s.plan(run)
            ckey = concurrency_key(plan, decode(self.inputs.params(run.id)))
        except CorruptRun as corrupt:
            raise Refused(f"{corrupt}; submit it again") from corrupt
        if step is not None and step not in plan.by_step:
            raise NotFound(f"run {run.id} has no step {step}; a forEach step is run again as a whole")
        rule = plan.graph.concurrency
        if rule is not None and rule.policy == "reject":
            self.intake.refuse_held(ckey)
        self.s.write("delete_ripples", (run.id,))
        self._reopen(run, step, ckey)
        self.intake.acquire(run, rule)
        if run.ckey is None or run.holds:
            run.state = RUNNING
        self.s.changes.append(Change("retrying", run.id, run.workflow, state=RUN_STATES[run.state].value))
        self.settler.push(REBUILD, run.id)
        self.settler.settle()
        return run.round

    def _reopen(self, run: RunRow, step: str | None, ckey: str | None) -> None:
        run.round += 1
        run.again = step
        run.state, run.stage = WAITING, BUILDING
        run.stop = run.cause = run.finished = run.deadline = run.due = None
        run.ckey, run.holds = ckey, 0
        run.live, run.listed, run.parked = 1, {}, 0
        self.s.touch_run(run)

    # --- queues ------------------------------------------------------------------------------------------------------

    def pause(self, queue: str) -> None:
        self.s.write("pause", (queue,))
        self.s.paused.add(queue)

    def resume(self, queue: str) -> None:
        self.s.write("resume", (queue,))
        self.s.paused.discard(queue)
