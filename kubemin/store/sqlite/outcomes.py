"""What workers report: each outcome is checked against its claim, and its attempt ends or is made again.

The fencing token makes one result the only one accepted. Completions of single Python tasks go past the row objects.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

from kubemin.clock import SECOND
from kubemin.model import transitions as rules
from kubemin.model.graph import Retry
from kubemin.model.records import Outcome, Owner
from kubemin.model.states import TASK_TERMINAL, Cause, TaskState
from kubemin.store.admission import as_retry
from kubemin.store.base import CRASH_LIMIT, LOSS_LIMIT, Change, Verdict
from kubemin.store.codec import (
    COMPLETED,
    FAILED,
    NUMBERS,
    QUEUED,
    SETTLED,
    WAITING,
    Detail,
    decode_extra,
    detail_of,
    encode,
)
from kubemin.store.sqlite.inputs import Inputs
from kubemin.store.sqlite.quarantine import CorruptRun
from kubemin.store.sqlite.rows import CAUSES, CRASH, DRAIN, ENDED, LOSS, NAMES, SOLO, Held, RunRow, TaskRow
from kubemin.store.sqlite.session import Session, TaskKey
from kubemin.store.sqlite.settle import Settler

REPORTED = TASK_TERMINAL - {TaskState.SKIPPED}  # the states that a worker may report
CHARGES = {Cause.WORKER_LOST: (CRASH, CRASH_LIMIT), Cause.NODE_LOST: (LOSS, LOSS_LIMIT)}


class Outcomes:
    def __init__(self, session: Session, settler: Settler, inputs: Inputs) -> None:
        self.s = session
        self.settler = settler
        self.inputs = inputs

    def finish(self, owner: Owner, outcomes: Sequence[Outcome]) -> list[Verdict]:
        key = self.s.owners.key(owner)
        claims, stopping, now = self.s.claims, self.s.stopping, self.s.now
        verdicts: list[Verdict] = []
        completed, bare = [], []
        settled: dict[TaskKey, int] = {}  # in this batch, not yet in the database
        for outcome in outcomes:
            task = (outcome.run, outcome.idx)
            held = claims.get(task)
            if held is None or held.token != outcome.token or held.owner != key:
                twice = settled.get(task) == outcome.token
                verdicts.append(Verdict.DUPLICATE if twice else self._late(outcome))
                continue
            del claims[task]
            settled[task] = outcome.token
            if held.clean and outcome.state is TaskState.COMPLETED and task not in stopping:
                detail, output = detail_of(outcome) or None, outcome.output
                started = outcome.started or held.started
                if detail is None and output is not None:  # sqlite3 binds a bytearray at once, and asks what else is
                    bare.append((started, now, bytearray(output), outcome.run))
                else:
                    completed.append((started, now, detail, output, outcome.run))
                self._tell_completed(outcome.run, held, (now - started) / SECOND)
                if outcome.stdout or outcome.stderr:
                    self.s.write("put_tail", (outcome.run, 0, outcome.stdout, outcome.stderr))
            else:
                stopping.pop(task, None)
                try:
                    self._settle_outcome(outcome)
                except CorruptRun as corrupt:
                    self.settler.put_aside(corrupt)
            verdicts.append(Verdict.ACCEPTED)
        if completed or bare:
            self.s.flush_tasks()
            self.s.write_many("finish_solo", completed)
            self.s.write_many("complete_solo", bare)
        self.settler.settle()
        return verdicts

    def _tell_completed(self, run: str, held: Held, seconds: float) -> None:
        self.s.changes.append(Change("finished", run, held.label, "", "", "completed", "", 1, "", True, seconds))

    def _late(self, outcome: Outcome) -> Verdict:
        """A repeat after a lost acknowledgement, or an outcome of somebody who no longer owns the task."""
        task = self.s.find_task(outcome.run, outcome.idx)
        if task is not None and task.token == outcome.token and task.flags & SETTLED:
            return Verdict.DUPLICATE
        workflow, step = ("", "") if task is None else self._names(task)
        self.s.changes.append(
            Change(
                "fenced", outcome.run, workflow, step, f"{outcome.run}.{outcome.idx}", message=f"token {outcome.token}"
            )
        )
        return Verdict.FENCED

    def _names(self, task: TaskRow) -> tuple[str, str]:
        """Of a task's workflow and step."""
        run = self.run_of(task)
        if run is None:
            return (self.inputs.label(task.run),) * 2
        try:
            return run.workflow, self.s.plan(run).step_path(task.node, task.item)
        except CorruptRun:
            return run.workflow, ""

    def _settle_outcome(self, outcome: Outcome) -> None:
        task = self.s.task(outcome.run, outcome.idx)
        run = self.run_of(task)
        task.flags |= SETTLED
        task.started = outcome.started or task.started
        task.detail = detail_of(outcome) or None
        self.s.touch(task, ENDED)
        self._keep_tails(run, task, outcome)
        if outcome.state is None:
            self._put_back(run, task, outcome.cause)
            return
        state = outcome.state if outcome.state in REPORTED else TaskState.FAILED
        if state is TaskState.COMPLETED and outcome.output is not None:
            task.output = bytes(outcome.output)
        self.attempt_ended(run, task, state, outcome.cause, outcome.message)

    def _keep_tails(self, run: RunRow | None, task: TaskRow, outcome: Outcome) -> None:
        if outcome.stdout or outcome.stderr:
            self.s.write("put_tail", (task.run, task.idx, outcome.stdout, outcome.stderr))
        elif outcome.state is not None and (task.attempt or run is None or run.round > 1):
            self.s.write("drop_tail", (task.run, task.idx))  # of an earlier attempt

    def attempt_ended(
        self, run: RunRow | None, task: TaskRow, state: TaskState, cause: Cause | None, message: str
    ) -> None:
        if state is TaskState.COMPLETED:  # what most do
            task.attempt += 1
            self.settler.end(run, task, COMPLETED, None, message)
            return
        stopped = self.settler.stopped(run, task)
        if state is TaskState.CANCELLED:
            cause = stopped or cause or Cause.CANCELLED
        retry = self._retry_of(run, task)
        then = rules.after_attempt(state, cause, task.attempt, retry, stopped=stopped is not None, spread=_spread())
        if isinstance(then, rules.Again):
            self._try_again(run, task, then, cause, message)
            return
        task.attempt += 1
        self.settler.end(run, task, NUMBERS[then.state], CAUSES[then.cause], message)

    def _try_again(
        self, run: RunRow | None, task: TaskRow, then: rules.Again, cause: Cause | None, message: str
    ) -> None:
        task.attempt = then.used
        task.state, task.cause, task.seq = WAITING, CAUSES[cause], None
        task.due = self.s.now + round(then.delay * SECOND)
        self.s.touch(task)
        self._tell(run, task, "retrying", message)

    def _retry_of(self, run: RunRow | None, task: TaskRow) -> Retry | None:
        if run is not None:
            return self.s.plan(run).nodes[task.node].retry
        row = self.s.one("solo_spec", (task.run,))
        given = decode_extra(row[1]).retry if row and row[1] else None
        return None if given is None else as_retry(given)

    # --- put back ----------------------------------------------------------------------------------------------------

    def _put_back(self, run: RunRow | None, task: TaskRow, cause: Cause | None) -> None:
        """An attempt that did not end by itself: queued again, at no cost up to a limit."""
        self.s.touch(task)
        if cause is Cause.DRAIN:
            retry = self._retry_of(run, task)
            then = rules.after_drain(task.strike(DRAIN), LOSS_LIMIT, task.attempt, retry)
            if isinstance(then, rules.End):
                task.attempt += 1
                self.settler.end(run, task, NUMBERS[then.state], CAUSES[then.cause])
                return
            if isinstance(then, rules.Again):
                task.attempt = then.used
            self.requeue(run, task, cause)
        elif cause is not None and cause in CHARGES:
            self.charge(run, task, cause, "")
        else:
            self.requeue(run, task, cause)

    def charge(self, run: RunRow | None, task: TaskRow, cause: Cause, message: str) -> bool:
        """Count a death under this task; quarantine at the limit. True: it was queued again."""
        kind, limit = CHARGES[cause]
        if task.strike(kind) < limit:
            return self.requeue(run, task, cause)
        task.attempt += 1
        text = message or f"its worker was killed under it {limit} times"
        task.detail = encode(Detail(message=text))
        self.settler.end(run, task, FAILED, Cause.CRASH.value, text)
        return False

    def requeue(self, run: RunRow | None, task: TaskRow, cause: Cause | None) -> bool:
        self.settler.requeue(run, task)
        if task.state != QUEUED:
            return False
        self._tell(run, task, "requeued", "", cause)
        return True

    # --- telling -----------------------------------------------------------------------------------------------------

    def _tell(self, run: RunRow | None, task: TaskRow, event: str, message: str, cause: Cause | None = None) -> None:
        if run is not None:
            self.settler.tell_task(event, run, self.s.plan(run), task, message)
        else:
            label = self.settler.inputs.label(task.run)
            state, why = NAMES[task.state], task.cause or ""
            self.s.changes.append(Change(event, task.run, label, "", "", state, why, task.attempt, message, True))
        if cause is not None:
            self.s.changes[-1] = msgspec.structs.replace(self.s.changes[-1], cause=cause.value)

    def run_of(self, task: TaskRow) -> RunRow | None:
        return None if task.flags & SOLO else self.s.run(task.run)


def _spread() -> float:
    """0 to 1, evenly: `random` would cost every start some milliseconds."""
    return int.from_bytes(os.urandom(4), "big") / 2**32
