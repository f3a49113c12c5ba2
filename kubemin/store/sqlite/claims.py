"""Handing tasks to workers. Single Python tasks, the hot path, go past the row objects in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from kubemin.clock import SECOND
from kubemin.model.records import Claim, Owner
from kubemin.model.states import Cause
from kubemin.store.base import Change
from kubemin.store.codec import (
    CANCELLED,
    FAILED,
    QUEUED,
    RUNNING,
    SETTLED,
    WAITING,
    Detail,
    decode_extra,
    decode_label,
    encode,
    label_of,
)
from kubemin.store.plans import Plan
from kubemin.store.sqlite.inputs import Inputs, round_of
from kubemin.store.sqlite.quarantine import CorruptRun
from kubemin.store.sqlite.rows import CLAIMED, ROUND, SOLO, Held, RunRow, TaskRow
from kubemin.store.sqlite.session import Session
from kubemin.store.sqlite.settle import Settler


class Claims:
    def __init__(self, session: Session, settler: Settler, inputs: Inputs, task_timeout: float) -> None:
        self.s = session
        self.settler = settler
        self.inputs = inputs
        self.task_timeout = task_timeout

    def claim(self, owner: Owner, queues: Sequence[str], limit: int) -> list[Claim]:
        key = self.s.owners.key(owner)
        claims: list[Claim] = []
        if self.s.owners.retired(key):
            return claims
        for queue in queues:
            if queue not in self.s.paused:
                self._claim_from(queue, key, limit, claims)
        self.settler.settle()
        return claims

    def _claim_from(self, queue: str, owner: int, limit: int, claims: list[Claim]) -> None:
        while (room := limit - len(claims)) > 0:
            self.s.flush_tasks()
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
                try:
                    self._take_step(run, idx, token, owner, claims)
                except CorruptRun as corrupt:
                    self.settler.put_aside(corrupt)
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
        if task.state != QUEUED:
            return  # its run was put aside a moment ago
        stopped = self.settler.stopped(run, task)
        if stopped is not None:
            self.settler.end(run, task, CANCELLED, stopped.value)
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
        inputs = msgspec.Raw(encode(self.inputs.of(plan, task.node, task.item, round_of(run)))) if refers else None
        timeout = self.task_timeout if node.timeout is None else node.timeout
        step = plan.step_path(task.node, task.item)
        return Claim(
            run.id, task.idx, step, run.workflow, task.token, task.attempt + 1, timeout, msgspec.Raw(work), inputs,
            plan.graph.directory,
        )  # fmt: skip
