"""What becomes of claims that were not finished: given back, or their worker or its whole node is dead.

Running a task twice is better than losing it: whatever its owner did not settle is queued again.
"""

from __future__ import annotations

from collections.abc import Sequence

from kubemin.model.records import Owner
from kubemin.model.states import Cause, TaskState
from kubemin.store.base import Blame
from kubemin.store.codec import Detail, encode
from kubemin.store.sqlite.outcomes import CHARGES, REPORTED, Outcomes
from kubemin.store.sqlite.quarantine import CorruptRun
from kubemin.store.sqlite.rows import RunRow, TaskRow
from kubemin.store.sqlite.session import Session
from kubemin.store.sqlite.settle import Settler


class Losses:
    def __init__(self, session: Session, settler: Settler, outcomes: Outcomes) -> None:
        self.s = session
        self.settler = settler
        self.outcomes = outcomes

    def give_back(self, owner: Owner, claims: Sequence[tuple[str, int, int]]) -> int:
        key = self.s.owners.key(owner)
        given = [(run, idx) for run, idx, token in dict.fromkeys(claims) if self._holds(key, run, idx, token)]
        solos = [(run,) for run, idx in given if self.s.claims[run, idx].label and (run, idx) not in self.s.stopping]
        for run_id, idx in given:
            held = self.s.claims.pop((run_id, idx), None)
            if held is None:
                continue
            if self.s.stopping.pop((run_id, idx), None) is not None or not held.label:
                self._give_back_one(run_id, idx)
        if solos:
            self.s.flush_tasks()
            self.s.write_many("give_back_solo", solos)
        self.settler.settle()
        return len(given)

    def _give_back_one(self, run_id: str, idx: int) -> None:
        task = self.s.task(run_id, idx)
        task.started = None
        try:
            self.settler.requeue(self.outcomes.run_of(task), task)
        except CorruptRun as corrupt:
            self.settler.put_aside(corrupt)

    def _holds(self, owner: int, run: str, idx: int, token: int) -> bool:
        held = self.s.claims.get((run, idx))
        return held is not None and held.owner == owner and held.token == token

    # --- deaths ------------------------------------------------------------------------------------------------------

    def lose(self, owner: Owner, blame: Blame | None) -> list[tuple[str, int]]:
        key = self.s.owners.key(owner)
        self.s.owners.retire(key)
        requeued = []
        for task_key in [task for task, held in self.s.claims.items() if held.owner == key]:
            held = self.s.claims.pop(task_key, None)
            if held is None:
                continue
            self.s.stopping.pop(task_key, None)
            blamed = blame is not None and (blame.run, blame.idx, blame.token) == (*task_key, held.token)
            try:
                if self._lose_one(self.s.task(*task_key), blame if blamed else None):
                    requeued.append(task_key)
            except CorruptRun as corrupt:
                self.settler.put_aside(corrupt)
        self.settler.settle()
        return requeued

    def _lose_one(self, task: TaskRow, blame: Blame | None) -> bool:
        run = self.outcomes.run_of(task)
        self.s.touch(task)
        if blame is None:
            return self.outcomes.requeue(run, task, Cause.WORKER_LOST)
        if blame.state is None:
            cause = blame.cause if blame.cause in CHARGES else Cause.WORKER_LOST
            return self.outcomes.charge(run, task, cause, blame.message)
        return self._blamed(run, task, blame, blame.state)

    def _blamed(self, run: RunRow | None, task: TaskRow, blame: Blame, state: TaskState) -> bool:
        task.detail = encode(Detail(blame.message, blame.exit_code, blame.signal))
        self.outcomes.attempt_ended(
            run, task, state if state in REPORTED else TaskState.FAILED, blame.cause, blame.message
        )
        return False

    def recover(self, live: Sequence[Owner], started: dict[tuple[str, int], int]) -> int:
        keep = {self.s.owners.key(owner) for owner in live}
        lost = [(task, held) for task, held in self.s.claims.items() if held.owner not in keep]
        count = 0
        for owner in {held.owner for _, held in lost}:
            self.s.owners.retire(owner)
        for task_key, held in lost:
            if self.s.claims.pop(task_key, None) is None:
                continue
            self.s.stopping.pop(task_key, None)
            try:
                count += self._recover_one(self.s.task(*task_key), charged=started.get(task_key) == held.token)
            except CorruptRun as corrupt:
                self.settler.put_aside(corrupt)
            self.settler.settle()
        return count

    def _recover_one(self, task: TaskRow, *, charged: bool) -> bool:
        run = self.outcomes.run_of(task)
        if charged:
            return self.outcomes.charge(run, task, Cause.NODE_LOST, "")
        return self.outcomes.requeue(run, task, Cause.NODE_LOST)
