"""Workers' side: claim, finish, give back; and what becomes of a claim whose worker is dead.

Running a task twice is better than losing it: whatever is not settled by its owner is queued again. The fencing token
makes one result the only one accepted. Single Python tasks, the hot path, go past the row objects in batches.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec

from kubemin.clock import SECOND
from kubemin.model import transitions as rules
from kubemin.model.graph import Retry
from kubemin.model.records import Claim, Outcome, Owner
from kubemin.model.states import TASK_TERMINAL, Cause, TaskState
from kubemin.store.base import CRASH_LIMIT, LOSS_LIMIT, Blame, Change, Verdict
from kubemin.store.sqlite.graphs import Plan
from kubemin.store.sqlite.inputs import Inputs
from kubemin.store.sqlite.intake import as_retry
from kubemin.store.sqlite.rows import (
    CLAIMED,
    CRASH,
    DRAIN,
    ENDED,
    FAILED,
    LOSS,
    NUMBERS,
    QUEUED,
    ROUND,
    RUNNING,
    SETTLED,
    SOLO,
    WAITING,
    Detail,
    Held,
    RunRow,
    TaskRow,
    decode_extra,
    decode_label,
    encode,
    label_of,
)
from kubemin.store.sqlite.session import Session, TaskKey
from kubemin.store.sqlite.settle import Settler, step_path

_ENDS = TASK_TERMINAL - {TaskState.SKIPPED}  # what a worker may report
_CHARGES = {Cause.WORKER_LOST: (CRASH, CRASH_LIMIT), Cause.NODE_LOST: (LOSS, LOSS_LIMIT)}


class Claims:
    def __init__(self, session: Session, settler: Settler, inputs: Inputs, task_timeout: float) -> None:
        self.s = session
        self.settler = settler
        self.inputs = inputs
        self.task_timeout = task_timeout

    # --- claim -------------------------------------------------------------------------------------------------------

    def claim(self, owner: Owner, queues: Sequence[str], limit: int) -> list[Claim]:
        key = self.s.owner_id(owner)
        claims: list[Claim] = []
        if self.s.retired(key):
            return claims
        for queue in queues:
            if queue not in self.s.paused:
                self._claim_from(queue, key, limit, claims)
        self.settler.settle()
        return claims

    def _claim_from(self, queue: str, owner: int, limit: int, claims: list[Claim]) -> None:
        while (room := limit - len(claims)) > 0:
            self.s.flush()
            found = self.s.all("ready", (queue, room))
            if not found:
                return
            self._take(found, owner, claims)
            self.settler.settle()  # a step that was taken may let others of its run into the queue
            if len(found) < room and all(row[2] & SOLO for row in found):
                return

    def _take(self, found: list[Any], owner: int, claims: list[Claim]) -> None:
        now = self.s.now
        held = self.s.claims
        solos = []
        for token, (run, idx, flags, attempt, extra, spec) in enumerate(found, self.s.numbers(len(found))):
            if not flags & SOLO:
                self._take_step(run, idx, token, owner, claims)
                continue
            try:
                work, label, timeout = self._solo_work(run, spec, extra)
            except msgspec.DecodeError as error:
                self._corrupt(run, error)
                continue
            solos.append((token, owner, now, run))
            held[run, 0] = Held(token, owner, not attempt and flags < ROUND, label, now)
            claims.append(Claim(run, 0, label, label, token, attempt + 1, timeout, msgspec.Raw(work), None, "", True))
        if solos:
            self.s.write_many("claim_solo", solos)

    def _solo_work(self, run: str, spec: bytes, extra: bytes | None) -> tuple[bytes, str, float]:
        if not spec:
            spec = self.inputs.spec(run, spec)
        label = decode_label(spec).python
        if extra is None and label:
            return spec, label, self.task_timeout
        more = decode_extra(extra or b"{}")
        return spec, label_of(spec, extra), self.task_timeout if more.timeout is None else more.timeout

    def _corrupt(self, run: str, error: Exception) -> None:
        """Its record cannot be read: quarantined, the bytes are kept, the worker never sees it."""
        task = self.s.task(run, 0)
        task.detail = encode(Detail(message=f"its record cannot be read: {error}"))
        self.settler.end(None, task, FAILED, Cause.CORRUPT.value, str(error))

    def _take_step(self, run_id: str, idx: int, token: int, owner: int, claims: list[Claim]) -> None:
        run = self.s.run(run_id)
        task = self.s.task(run_id, idx)
        stopped = self.settler.stopped(run, task)
        if stopped is not None:
            self.settler.end(run, task, NUMBERS["cancelled"], stopped.value)
            return
        plan = self.s.plan(run)
        self.settler.unlist(run, task)
        task.state, task.token, task.owner, task.started = RUNNING, token, owner, self.s.now
        task.flags &= ~SETTLED
        self.s.touch(task, CLAIMED)
        self._run_begins(run, plan)
        self.settler.tell_task("started", run, plan, task)
        self.s.claims[run_id, idx] = Held(token, owner, False, "", self.s.now)
        claims.append(self._step_claim(run, plan, task))
        if task.item is not None:
            self.settler.fans.child_claimed(run, task)

    def _run_begins(self, run: RunRow, plan: Plan) -> None:
        """Its time-out counts from the first claim (of this round)."""
        if run.state == WAITING:
            self.s.touch_run(run)
            run.state = RUNNING
            run.started = run.started or self.s.now
            self.s.changes.append(Change("started", run.id, run.workflow, state="running"))
        if run.deadline is None and plan.graph.timeout is not None and run.stop is None:
            self.s.touch_run(run)
            run.deadline = self.s.now + round(plan.graph.timeout * SECOND)

    def _step_claim(self, run: RunRow, plan: Plan, task: TaskRow) -> Claim:
        node = plan.nodes[task.node]
        work, refers = plan.work(task.node)
        inputs = msgspec.Raw(encode(self.inputs.of(run, plan, task))) if refers else None
        timeout = self.task_timeout if node.timeout is None else node.timeout
        step = step_path(plan, task)
        return Claim(
            run.id, task.idx, step, run.workflow, task.token, task.attempt + 1, timeout, msgspec.Raw(work), inputs,
            plan.graph.directory,
        )  # fmt: skip

    # --- finish ------------------------------------------------------------------------------------------------------

    def finish(self, owner: Owner, outcomes: Sequence[Outcome]) -> list[Verdict]:
        key = self.s.owner_id(owner)
        claims, stopping, now = self.s.claims, self.s.stopping, self.s.now
        verdicts: list[Verdict] = []
        completed = []
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
                detail, output = _detail(outcome), outcome.output
                started = outcome.started or held.started
                completed.append((started, now, detail, output, outcome.run))
                self._tell_completed(outcome.run, held, (now - started) / SECOND)
                if outcome.stdout or outcome.stderr:
                    self.s.write("put_tail", (outcome.run, 0, outcome.stdout, outcome.stderr))
            else:
                stopping.pop(task, None)
                self._settle_outcome(outcome)
            verdicts.append(Verdict.ACCEPTED)
        if completed:
            self.s.flush()
            self.s.write_many("finish_solo", completed)
        self.settler.settle()
        return verdicts

    def _tell_completed(self, run: str, held: Held, seconds: float) -> None:
        self.s.changes.append(Change("finished", run, held.label, "", "", "completed", "", 1, "", True, seconds))

    def _late(self, outcome: Outcome) -> Verdict:
        """A repeat after a lost acknowledgement, or an outcome of somebody who no longer owns the task."""
        task = self.s.find_task(outcome.run, outcome.idx)
        if task is not None and task.token == outcome.token and task.flags & SETTLED:
            return Verdict.DUPLICATE
        workflow = step = ""
        if task is not None and not task.flags & SOLO:
            run = self.s.run(outcome.run)
            workflow, step = run.workflow, step_path(self.s.plan(run), task)
        elif task is not None:
            workflow = step = self.inputs.label(outcome.run)
        self.s.changes.append(
            Change(
                "fenced", outcome.run, workflow, step, f"{outcome.run}.{outcome.idx}", message=f"token {outcome.token}"
            )
        )
        return Verdict.FENCED

    def _settle_outcome(self, outcome: Outcome) -> None:
        task = self.s.task(outcome.run, outcome.idx)
        run = self._run_of(task)
        task.flags |= SETTLED
        task.started = outcome.started or task.started
        task.detail = _detail(outcome)
        self.s.touch(task, ENDED)
        self._keep_tails(run, task, outcome)
        if outcome.state is None:
            self._put_back(run, task, outcome.cause)
            return
        state = outcome.state if outcome.state in _ENDS else TaskState.FAILED
        if state is TaskState.COMPLETED and outcome.output is not None:
            task.output = bytes(outcome.output)
        self._attempt_ended(run, task, state, outcome.cause, outcome.message)

    def _keep_tails(self, run: RunRow | None, task: TaskRow, outcome: Outcome) -> None:
        if outcome.stdout or outcome.stderr:
            self.s.write("put_tail", (task.run, task.idx, outcome.stdout, outcome.stderr))
        elif outcome.state is not None and (task.attempt or run is None or run.round > 1):
            self.s.write("drop_tail", (task.run, task.idx))  # of an earlier attempt

    def _attempt_ended(
        self, run: RunRow | None, task: TaskRow, state: TaskState, cause: Cause | None, message: str
    ) -> None:
        stopped = self.settler.stopped(run, task)
        if state is TaskState.CANCELLED:
            cause = stopped or cause or Cause.CANCELLED
        halting = stopped is not None or (run is not None and run.stop is not None)
        then = rules.after_attempt(
            state, cause, task.attempt, self._retry_of(run, task), stopped=halting, spread=random.random()
        )
        if isinstance(then, rules.Again):
            self._try_again(run, task, then, cause, message)
            return
        task.attempt += 1
        self.settler.end(run, task, NUMBERS[then.state.value], then.cause and then.cause.value, message)

    def _try_again(
        self, run: RunRow | None, task: TaskRow, then: rules.Again, cause: Cause | None, message: str
    ) -> None:
        task.attempt = then.used
        task.state, task.cause, task.seq = WAITING, cause and cause.value, None
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
                self.settler.end(run, task, NUMBERS[then.state.value], then.cause and then.cause.value)
                return
            if isinstance(then, rules.Again):
                task.attempt = then.used
            self._requeue(run, task, cause)
        elif cause is not None and cause in _CHARGES:
            self._charge(run, task, cause, "")
        else:
            self._requeue(run, task, cause)

    def _charge(self, run: RunRow | None, task: TaskRow, cause: Cause, message: str) -> bool:
        """Count a death under this task; quarantine at the limit. True: it was queued again."""
        kind, limit = _CHARGES[cause]
        if task.strike(kind) < limit:
            return self._requeue(run, task, cause)
        task.attempt += 1
        text = message or f"its worker was killed under it {limit} times"
        task.detail = encode(Detail(message=text))
        self.settler.end(run, task, FAILED, Cause.CRASH.value, text)
        return False

    def _requeue(self, run: RunRow | None, task: TaskRow, cause: Cause | None) -> bool:
        self.settler.requeue(run, task)
        if task.state != QUEUED:
            return False
        self._tell(run, task, "requeued", "", cause)
        return True

    def give_back(self, owner: Owner, claims: Sequence[tuple[str, int, int]]) -> int:
        key = self.s.owner_id(owner)
        given = [(run, idx) for run, idx, token in dict.fromkeys(claims) if self._holds(key, run, idx, token)]
        solos = [(run,) for run, idx in given if self.s.claims[run, idx].label and (run, idx) not in self.s.stopping]
        for run_id, idx in given:
            held = self.s.claims.pop((run_id, idx))
            if self.s.stopping.pop((run_id, idx), None) is not None or not held.label:
                task = self.s.task(run_id, idx)
                task.started = None
                self.settler.requeue(self._run_of(task), task)
        if solos:
            self.s.flush()
            self.s.write_many("give_back_solo", solos)
        self.settler.settle()
        return len(given)

    def _holds(self, owner: int, run: str, idx: int, token: int) -> bool:
        held = self.s.claims.get((run, idx))
        return held is not None and held.owner == owner and held.token == token

    # --- deaths ------------------------------------------------------------------------------------------------------

    def lose(self, owner: Owner, blame: Blame | None) -> list[tuple[str, int]]:
        key = self.s.owner_id(owner)
        self.s.retire(key)
        requeued = []
        for task_key in [task for task, held in self.s.claims.items() if held.owner == key]:
            held = self.s.claims.pop(task_key)
            self.s.stopping.pop(task_key, None)
            task = self.s.task(*task_key)
            run = self._run_of(task)
            self.s.touch(task)
            if blame is None or (blame.run, blame.idx, blame.token) != (*task_key, held.token):
                back = self._requeue(run, task, Cause.WORKER_LOST)
            elif blame.state is None:
                back = self._charge(
                    run, task, blame.cause if blame.cause in _CHARGES else Cause.WORKER_LOST, blame.message
                )
            else:
                back = self._blamed(run, task, blame, blame.state)
            if back:
                requeued.append(task_key)
        self.settler.settle()
        return requeued

    def _blamed(self, run: RunRow | None, task: TaskRow, blame: Blame, state: TaskState) -> bool:
        task.detail = encode(Detail(blame.message, blame.exit_code, blame.signal))
        self._attempt_ended(run, task, state if state in _ENDS else TaskState.FAILED, blame.cause, blame.message)
        return False

    def recover(self, live: Sequence[Owner], started: dict[tuple[str, int], int]) -> int:
        keep = {self.s.owner_id(owner) for owner in live}
        lost = [(task, held) for task, held in self.s.claims.items() if held.owner not in keep]
        count = 0
        for owner in {held.owner for _, held in lost}:
            self.s.retire(owner)
        for task_key, held in lost:
            del self.s.claims[task_key]
            self.s.stopping.pop(task_key, None)
            task = self.s.task(*task_key)
            run = self._run_of(task)
            if started.get(task_key) == held.token:
                count += self._charge(run, task, Cause.NODE_LOST, "")
            else:
                count += self._requeue(run, task, Cause.NODE_LOST)
            self.settler.settle()
        return count

    # --- telling -----------------------------------------------------------------------------------------------------

    def _tell(self, run: RunRow | None, task: TaskRow, event: str, message: str, cause: Cause | None = None) -> None:
        if run is not None:
            self.settler.tell_task(event, run, self.s.plan(run), task, message)
        if cause is not None and run is not None:
            self.s.changes[-1] = msgspec.structs.replace(self.s.changes[-1], cause=cause.value)

    def _run_of(self, task: TaskRow) -> RunRow | None:
        return None if task.flags & SOLO else self.s.run(task.run)


def _detail(outcome: Outcome) -> bytes | None:
    if (
        outcome.usage is None
        and outcome.exit_code is None
        and not (outcome.message or outcome.signal or outcome.unenforced)
    ):
        return None
    return encode(Detail(outcome.message, outcome.exit_code, outcome.signal, outcome.usage, outcome.unenforced))
