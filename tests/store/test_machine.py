"""Random histories of the store, held against the model after each step that leaves nothing unfinished."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engines import SMALL_ENGINES, Engine
from graphs import define, graphs
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from model import Run, Task

from kubemin.clock import SECOND
from kubemin.errors import Refused
from kubemin.model.ids import run_id
from kubemin.model.records import Accepted, Claim, Outcome, Owner, Submission
from kubemin.model.states import Cause, Kind, RunState, TaskState
from kubemin.store.base import Blame, Verdict

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
SLOTS = 3
QUEUES = ("default", "other")
ENDINGS = st.sampled_from(
    [
        (TaskState.COMPLETED, None),
        (TaskState.COMPLETED, None),
        (TaskState.FAILED, Cause.EXIT),
        (TaskState.TIMEOUT, Cause.TIMEOUT),
        (TaskState.CANCELLED, Cause.CANCELLED),
        (None, Cause.DRAIN),
    ]
)


class StoreMachine(RuleBasedStateMachine):
    make: Callable[[Path], Engine]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(
            tempfile.mkdtemp(prefix="kubemin-machine-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        )
        self.engine = type(self).make(self.folder)
        self.runs: dict[str, Run] = {}
        self.owners = [Owner("test", slot, 1) for slot in range(SLOTS)]
        self.held: dict[tuple[str, int], tuple[Claim, Owner]] = {}
        self.sent: list[tuple[Owner, Outcome]] = []
        self.dead: list[tuple[Owner, Outcome]] = []
        self.paused: set[str] = set()
        self.steps: dict[tuple[str, int], str] = {}
        self.unfinished = False

    @property
    def store(self) -> Any:
        return self.engine.store

    def teardown(self) -> None:
        try:
            self.finish_everything()
        finally:
            self.engine.close()
            shutil.rmtree(self.folder)

    # --- helpers -----------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        for _ in range(2000):
            if not self.store.advance(3):
                return
        raise AssertionError("advance never ends")

    def follow(self) -> None:
        """A run was stopped while the store had not drawn all consequences of what was before: how far it was, only the
        store knows. The model takes over what became of it."""
        self.drain()
        for name, run in self.runs.items():
            run.take_over(self.engine.states(name))
            run.settle()

    def task_of(self, claim: Claim) -> tuple[Run, int, Task]:
        run = self.runs[claim.run]
        idx, task = run.find(claim.step)
        return run, idx, task

    def outcome(self, claim: Claim, ending: tuple[TaskState | None, Cause | None]) -> Outcome:
        return Outcome(claim.run, claim.idx, claim.token, *ending, message="told")

    def settled(self, claim: Claim, ending: tuple[TaskState | None, Cause | None]) -> None:
        run, idx, task = self.task_of(claim)
        task.accepted = claim.token
        if ending[0] is None:
            run.drained(idx, task)
        else:
            run.attempt_ended(idx, task, *ending)
        run.settle()

    # --- rules -------------------------------------------------------------------------------------------------------

    @rule(graph=graphs(), delay=st.sampled_from([None, None, None, 30.0]))
    def submit(self, graph: Any, delay: float | None) -> None:
        definition = define(graph)
        run = run_id()
        start_at = None if delay is None else self.engine.clock.now + round(delay * SECOND)
        self.store.define([definition])
        submission = Submission(run, workflow="random", definition=definition.hash, start_at=start_at)
        assert self.store.submit([submission]) == [Accepted(run, True)]
        assert self.store.submit([submission]) == [Accepted(run, False)]
        self.runs[run] = Run(graph, released=delay is None)

    @rule(slot=st.integers(0, SLOTS - 1), limit=st.integers(1, 4), both=st.booleans())
    def claim(self, slot: int, limit: int, both: bool) -> None:
        owner = self.owners[slot]
        queues = QUEUES if both else QUEUES[:1]
        possible = self.claimable(queues)
        claims = self.store.claim(owner, queues, limit)
        assert len(claims) <= limit
        if possible and not self.unfinished:
            assert claims, possible
        for claim in claims:
            run, idx, task = self.task_of(claim)
            assert task.state is TaskState.QUEUED, (claim.step, task)
            assert run.graph.nodes[idx].queue in set(queues) - self.paused
            assert claim.token > task.last_token
            assert claim.attempt == task.used + 1
            assert self.steps.setdefault((claim.run, claim.idx), claim.step) == claim.step
            task.state, task.last_token, task.holder = TaskState.RUNNING, claim.token, (owner, claim.token)
            if run.state is RunState.WAITING:
                run.state = RunState.RUNNING
            run.deadline = run.deadline or (run.graph.timeout is not None and run.stop is None)
            self.held[claim.run, claim.idx] = (claim, owner)
        for claim in claims:
            self.check_parallel(claim)

    def claimable(self, queues: tuple[str, ...]) -> int:
        count = 0
        for run in self.runs.values():
            for idx, task in enumerate(run.nodes):
                node = run.graph.nodes[idx]
                if node.queue not in queues or node.queue in self.paused:
                    continue
                queued = sum(child.state is TaskState.QUEUED for child in task.items.values())
                busy = sum(child.holder is not None or child.backoff for child in task.items.values())
                count += task.state is TaskState.QUEUED
                if task.state is TaskState.RUNNING and task.items:
                    count += max(min(queued, (node.max_parallel or queued) - busy), 0)
        return count

    def check_parallel(self, claim: Claim) -> None:
        run, idx, _ = self.task_of(claim)
        most = run.graph.nodes[idx].max_parallel
        busy = sum(child.holder is not None for child in run.nodes[idx].items.values())
        assert most is None or busy <= most

    @precondition(lambda self: self.held)
    @rule(data=st.data(), ending=ENDINGS, twice=st.booleans())
    def finish(self, data: st.DataObject, ending: tuple[TaskState | None, Cause | None], twice: bool) -> None:
        claim, owner = self.held.pop(data.draw(st.sampled_from(sorted(self.held))))
        outcome = self.outcome(claim, ending)
        verdicts = self.store.finish(owner, [outcome, outcome] if twice else [outcome])
        assert verdicts == [Verdict.ACCEPTED, Verdict.DUPLICATE][: len(verdicts)]
        self.settled(claim, ending)
        self.sent.append((owner, outcome))

    @precondition(lambda self: self.sent or self.dead)
    @rule(data=st.data())
    def finish_again(self, data: st.DataObject) -> None:
        owner, outcome = data.draw(st.sampled_from(self.sent + self.dead))
        step = self.steps[outcome.run, outcome.idx]
        _, task = self.runs[outcome.run].find(step)
        repeated = task.accepted == outcome.token == task.last_token
        assert self.store.finish(owner, [outcome]) == [Verdict.DUPLICATE if repeated else Verdict.FENCED]

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def finish_of_another(self, data: st.DataObject) -> None:
        claim, owner = self.held[data.draw(st.sampled_from(sorted(self.held)))]
        stranger = Owner(owner.instance, owner.slot, owner.incarnation + 1000)
        outcome = self.outcome(claim, (TaskState.COMPLETED, None))
        assert self.store.finish(stranger, [outcome]) == [Verdict.FENCED]

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        claim, owner = self.held.pop(data.draw(st.sampled_from(sorted(self.held))))
        key = [(claim.run, claim.idx, claim.token)]
        assert self.store.give_back(owner, key) == 1
        assert self.store.give_back(owner, key) == 0
        run, idx, task = self.task_of(claim)
        run.put_back(idx, task)
        run.settle()
        self.dead.append((owner, self.outcome(claim, (TaskState.COMPLETED, None))))

    @rule(slot=st.integers(0, SLOTS - 1), data=st.data())
    def lose(self, slot: int, data: st.DataObject) -> None:
        owner = self.owners[slot]
        mine = sorted(key for key, (_, holder) in self.held.items() if holder == owner)
        blamed = data.draw(st.sampled_from([None, *mine]))
        state = data.draw(st.sampled_from([None, None, TaskState.FAILED, TaskState.TIMEOUT]))
        cause = {None: Cause.WORKER_LOST, TaskState.FAILED: Cause.SIGNAL, TaskState.TIMEOUT: Cause.TIMEOUT}[state]
        blame = None if blamed is None else Blame(*blamed, self.held[blamed][0].token, state, cause)
        requeued = self.store.lose(owner, blame)
        expected = []
        for key in mine:
            claim, _ = self.held.pop(key)
            run, idx, task = self.task_of(claim)
            if blame is None or key != blamed:
                back = run.put_back(idx, task)
            elif state is None:
                back = run.crashed(idx, task)
            else:
                run.attempt_ended(idx, task, state, cause)
                back = False
            run.settle()
            expected += [key] if back else []
            self.dead.append((owner, self.outcome(claim, (TaskState.COMPLETED, None))))
        assert sorted(requeued) == expected
        assert self.store.claim(owner, QUEUES, 4) == []
        self.owners[slot] = Owner("test", slot, owner.incarnation + 1)

    @rule(clean=st.booleans(), data=st.data())
    def restart(self, clean: bool, data: st.DataObject) -> None:
        """The coordinator dies, or the whole daemon: what dead workers held is recovered."""
        if clean:
            self.store.close()
        self.engine.reopen()
        assert {(run, idx): (owner, token) for owner, run, idx, token in self.store.running()} == {
            key: (owner, claim.token) for key, (claim, owner) in self.held.items()
        }
        live = data.draw(st.lists(st.sampled_from(self.owners), unique=True))
        lost = sorted(key for key, (_, owner) in self.held.items() if owner not in live)
        started = data.draw(st.lists(st.sampled_from(lost), unique=True)) if lost else []
        count = 0
        for key in lost:
            claim, owner = self.held[key]
            run, idx, task = self.task_of(claim)
            count += run.lost(idx, task) if key in started else run.put_back(idx, task)
            run.settle()
            self.dead.append((owner, self.outcome(claim, (TaskState.COMPLETED, None))))
        assert self.store.recover(live, {key: self.held[key][0].token for key in started}) == count
        for key in lost:
            del self.held[key]
        self.owners = [
            owner if owner in live else Owner("test", owner.slot, owner.incarnation + 1) for owner in self.owners
        ]

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.runs)))
        run = self.runs[name]
        if run.ended:
            self.drain()
            if run.state is RunState.CANCELLED:
                assert self.store.cancel(name) is False
            else:
                with pytest.raises(Refused):
                    self.store.cancel(name)
            return
        late = self.unfinished
        assert self.store.cancel(name) is (run.stop is None)
        run.stop = run.stop or Cause.CANCELLED
        run.released, run.deadline = True, False
        run.settle()
        if late:
            self.follow()

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), whole=st.booleans())
    def retry(self, data: st.DataObject, whole: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.runs)))
        run = self.runs[name]
        steps = [node.step for node in run.graph.nodes if node.kind is not Kind.GATE]
        step = None if whole else data.draw(st.sampled_from(steps))
        if run.ended:
            self.drain()
        if not run.ended or (step is None and run.state is RunState.COMPLETED):
            with pytest.raises(Refused):
                self.store.retry(name, step)
            return
        assert self.store.retry(name, step) == run.round + 1
        run.retry(step)

    @rule(queue=st.sampled_from(QUEUES))
    def pause_or_resume(self, queue: str) -> None:
        if queue in self.paused:
            self.store.resume(queue)
            self.paused.discard(queue)
        else:
            self.store.pause(queue)
            self.paused.add(queue)

    @rule(limit=st.integers(1, 3))
    def time_passes(self, limit: int) -> None:
        """Everything that waits for a time is due, and every deadline is past."""
        late = self.unfinished
        self.engine.clock.forward(10_000)
        for _ in range(1000):
            if not self.store.promote(limit) + self.store.expire(limit):
                break
        for run in self.runs.values():
            run.released = True
            for idx, _, task in run.tasks():
                if task.backoff:
                    task.backoff = False
                    task.state, task.cause = TaskState.QUEUED, None
                    if run.stopped(idx):
                        run.end(idx, task, TaskState.CANCELLED, run.stop)
            run.settle()
            if run.deadline and not run.ended:
                run.stop, run.deadline = Cause.RUN_TIMEOUT, False
                run.settle()
        if late:
            self.follow()

    @rule(limit=st.integers(1, 5))
    def advance(self, limit: int) -> None:
        self.unfinished = self.store.advance(limit)

    @rule()
    def advance_to_the_end(self) -> None:
        self.drain()

    # --- what must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def counters_are_right(self) -> None:
        self.engine.check()
        self.store.changes()
        self.unfinished = self.store.advance(1)

    @invariant()
    def stops_name_what_has_to_stop(self) -> None:
        expected = {
            key: (owner, claim.token, self.runs[claim.run].stop)
            for key, (claim, owner) in self.held.items()
            if self.runs[claim.run].stopped(self.task_of(claim)[1])
        }
        assert {(s.run, s.idx): (s.owner, s.token, s.cause) for s in self.store.stops()} == expected

    @invariant()
    def states_are_the_models(self) -> None:
        if self.unfinished:
            return
        for name, run in self.runs.items():
            view = self.store.run(name)
            assert view.status is run.state, (name, view.status, run.state)
            shown = {task.step: task for task in view.tasks}
            for step, state in run.shape().items():
                if step in shown:
                    assert shown[step].status is state, (step, shown[step], state)
                else:
                    assert self.may_be_unmade(run, step), step
            assert set(shown) <= set(run.shape())
            if run.state is RunState.FAILED:
                assert view.cause in run.causes

    def may_be_unmade(self, run: Run, step: str) -> bool:
        """An item of a fan-out that was not made yet, or never will be."""
        _, task = run.find(step)
        _, fan = run.find(step.partition("[")[0])
        if fan is task:
            return False
        not_begun = (TaskState.WAITING, TaskState.SKIPPED, TaskState.CANCELLED)
        later = task.state in (TaskState.QUEUED, TaskState.CANCELLED)
        kept = task.state is TaskState.COMPLETED and fan.state is TaskState.RUNNING and run.round > 1
        return fan.state in not_begun or later or kept

    # --- the end -----------------------------------------------------------------------------------------------------

    def finish_everything(self) -> None:
        """Nothing accepted is lost: with workers that complete what they get, every run ends."""
        for queue in QUEUES:
            self.store.resume(queue)
        self.paused.clear()
        for key in sorted(self.held):
            claim, owner = self.held.pop(key)
            self.store.finish(owner, [self.outcome(claim, (TaskState.COMPLETED, None))])
            self.settled(claim, (TaskState.COMPLETED, None))
        for _ in range(500):
            self.drain()
            self.time_passes(3)
            self.drain()
            self.claim(0, 4, True)
            if not self.held:
                break
            for key in sorted(self.held):
                claim, owner = self.held.pop(key)
                self.store.finish(owner, [self.outcome(claim, (TaskState.COMPLETED, None))])
                self.settled(claim, (TaskState.COMPLETED, None))
        self.drain()
        self.unfinished = False
        self.states_are_the_models()
        self.engine.check()
        for name, state in self.store.states(sorted(self.runs)).items():
            assert state in (RunState.COMPLETED, RunState.FAILED, RunState.TIMEOUT, RunState.CANCELLED), name


def run_histories(machine: type[StoreMachine], examples: int) -> None:
    """`examples` of them, unless KUBEMIN_TEST_EXAMPLES says how many."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=int(os.environ.get("KUBEMIN_TEST_EXAMPLES", examples)),
            stateful_step_count=40,
            deadline=None,
            report_multiple_bugs=False,
            print_blob=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("engine_name", sorted(SMALL_ENGINES))
def test_random_histories(engine_name: str) -> None:
    run_histories(type("Machine", (StoreMachine,), {"make": staticmethod(SMALL_ENGINES[engine_name])}), 60)
