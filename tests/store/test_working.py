"""Claims and their ends: fencing, retries, give-backs, dead workers, quarantine, the window of each run."""

from __future__ import annotations

import msgspec
import pytest
from driving import (
    ALICE,
    BOB,
    accept,
    complete_all,
    drain,
    ended,
    finish,
    outcome,
    run_one,
    shape,
    single,
    start,
    steps,
    take,
)
from engines import Engine
from graphs import node, workflow

from kubemin.model.graph import Retry
from kubemin.model.ids import run_id
from kubemin.model.records import Outcome, Owner, Usage
from kubemin.model.states import Cause, RunState, TaskState
from kubemin.store.base import CRASH_LIMIT, LOSS_LIMIT, WINDOW, Blame, Verdict

ONE = workflow("one", node("only"))
AGAIN = workflow("again", node("flaky", retry=Retry(2, delay=10, factor=3, max_delay=20)))


def claim_one(engine: Engine, owner: Owner = ALICE):  # type: ignore[no-untyped-def]
    (claim,) = take(engine.store, owner=owner)
    return claim


# --- fencing ---


@pytest.mark.parametrize("kind", ["single", "step"])
def test_one_outcome_is_accepted_and_a_repeat_is_known_as_one(engine: Engine, kind: str) -> None:
    run = start(engine.store, ONE) if kind == "step" else accept(engine.store, single())[0]
    claim = claim_one(engine)
    done = outcome(claim, output=1)
    assert engine.store.finish(BOB, [done]) == [Verdict.FENCED]
    assert engine.store.finish(ALICE, [done, done]) == [Verdict.ACCEPTED, Verdict.DUPLICATE]
    engine.reopen()
    late = outcome(claim, TaskState.FAILED, Cause.EXIT)
    assert engine.store.finish(ALICE, [done, late]) == [Verdict.DUPLICATE, Verdict.DUPLICATE]
    assert ended(engine.store, run) == ("completed", None)


@pytest.mark.parametrize("kind", ["single", "step"])
def test_an_old_token_is_refused_and_told(engine: Engine, kind: str) -> None:
    run = start(engine.store, ONE) if kind == "step" else accept(engine.store, single())[0]
    old = claim_one(engine)
    assert engine.store.lose(ALICE, None) == [(run, 0)]
    new = claim_one(engine, BOB)
    assert new.token > old.token and new.attempt == 1
    engine.store.changes()
    assert engine.store.finish(ALICE, [outcome(old)]) == [Verdict.FENCED]
    (told,) = engine.store.changes()
    assert (told.event, told.task) == ("fenced", f"{run}.0")
    finish(engine.store, outcome(new), owner=BOB)
    assert engine.store.finish(ALICE, [outcome(old)]) == [Verdict.FENCED]


def test_a_late_outcome_of_a_second_attempt_is_not_taken_for_a_repeat_of_the_first(engine: Engine) -> None:
    start(engine.store, AGAIN)
    finish(engine.store, outcome(claim_one(engine), TaskState.FAILED, Cause.EXIT))
    engine.clock.forward(20)
    engine.store.promote()
    second = claim_one(engine)
    engine.store.lose(ALICE, None)
    assert engine.store.finish(ALICE, [outcome(second)]) == [Verdict.FENCED]


def test_outcomes_of_nothing_are_refused(engine: Engine) -> None:
    assert engine.store.finish(ALICE, [Outcome(run_id(), 0, 1, TaskState.COMPLETED)]) == [Verdict.FENCED]


def test_a_retired_worker_claims_and_finishes_nothing(engine: Engine) -> None:
    run = start(engine.store, ONE)
    claim = claim_one(engine)
    engine.store.lose(ALICE, None)
    engine.reopen()
    assert take(engine.store, owner=ALICE) == []
    assert engine.store.finish(ALICE, [outcome(claim)]) == [Verdict.FENCED]
    assert engine.store.lose(ALICE, None) == []
    assert claim_one(engine, Owner("test", 0, 2)).run == run


# --- what is kept of an end ---


def test_what_a_worker_tells_is_kept(engine: Engine) -> None:
    run = start(engine.store, ONE)
    claim = claim_one(engine)
    told = outcome(
        claim, TaskState.FAILED, Cause.EXIT, message="exit code 3", exit_code=3, stdout="out", stderr="err",
        started=engine.clock.now, usage=Usage(1.5, 4096), unenforced=("memory",),
    )  # fmt: skip
    engine.clock.forward(2)
    finish(engine.store, told)
    (task,) = engine.store.run(run).tasks
    assert (task.status, task.cause, task.message, task.exit_code) == (TaskState.FAILED, "exit", "exit code 3", 3)
    assert (task.stdout_tail, task.stderr_tail, task.usage) == ("out", "err", {"cpu": 1.5, "memory": 4096})
    assert (task.unenforced, task.node, task.worker, task.attempt) == (["memory"], "node-a", 0, 1)
    assert ended(engine.store, run) == ("failed", "exit")
    assert task.started_at is not None and task.finished_at is not None and task.started_at < task.finished_at


def test_exit_code_0_is_shown(engine: Engine) -> None:
    run = start(engine.store, ONE)
    finish(engine.store, outcome(claim_one(engine), exit_code=0))
    assert engine.store.run(run).tasks[0].exit_code == 0


def test_changes_tell_the_story(engine: Engine) -> None:
    start(engine.store, AGAIN)
    finish(engine.store, outcome(claim_one(engine), TaskState.FAILED, Cause.EXIT, message="no"))
    engine.clock.forward(100)
    engine.store.promote()
    finish(engine.store, outcome(claim_one(engine)))
    accept(engine.store, single())
    finish(engine.store, outcome(claim_one(engine)))
    story = [(change.event, change.step, change.state, change.quiet) for change in engine.store.changes()]
    assert story == [
        ("started", "", "running", False),
        ("started", "flaky", "running", False),
        ("retrying", "flaky", "waiting", False),
        ("started", "flaky", "running", False),
        ("finished", "flaky", "completed", False),
        ("finished", "", "completed", False),
        ("finished", "", "completed", True),
    ]
    assert engine.store.changes() == []


def test_changes_of_single_tasks_tell_what_happens_before_their_end(engine: Engine) -> None:
    """Tries that failed and what was put back: for the counts; in the log only at debug."""
    run = accept(engine.store, single(retry={"limit": 1}))[0]
    finish(engine.store, outcome(claim_one(engine), TaskState.FAILED, Cause.EXIT, message="no"))
    engine.clock.forward(100)
    engine.store.promote()
    finish(engine.store, outcome(claim_one(engine), None, Cause.DRAIN))
    claim = claim_one(engine)
    engine.store.lose(ALICE, Blame(run, 0, claim.token))
    told = [(one.event, one.step, one.cause, one.quiet, one.workflow) for one in engine.store.changes()]
    assert told == [
        ("retrying", "", "exit", True, "reports.load:run"),
        ("requeued", "", "drain", True, "reports.load:run"),
        ("requeued", "", "worker-lost", True, "reports.load:run"),
    ]


# --- retries of attempts ---


def test_failed_attempts_are_tried_again_after_a_backoff(engine: Engine) -> None:
    run = start(engine.store, AGAIN)
    for attempt, delay in ((1, 10), (2, 20)):
        claim = claim_one(engine)
        assert claim.attempt == attempt
        finish(engine.store, outcome(claim, TaskState.FAILED, Cause.EXIT))
        assert shape(engine.store, run) == {"flaky": ("waiting", "exit")}
        assert engine.store.promote() == 0 and take(engine.store) == []
        due = engine.store.next_due()
        assert due is not None and delay <= (due - engine.clock.now) / 1e6 <= delay * 1.1
        engine.reopen()
        engine.clock.forward(delay * 1.1)
        assert engine.store.promote() == 1
    finish(engine.store, outcome(claim_one(engine), TaskState.TIMEOUT, Cause.TIMEOUT))
    assert ended(engine.store, run) == ("failed", "timeout")
    assert engine.store.run(run).tasks[0].attempt == 3


def test_only_the_named_causes_are_tried_again(engine: Engine) -> None:
    run = start(engine.store, workflow("w", node("a", retry=Retry(3, causes=("timeout",)))))
    run_one(engine.store, "a", TaskState.FAILED, Cause.EXIT)
    assert ended(engine.store, run) == ("failed", "exit")


@pytest.mark.parametrize("cause", [Cause.START, Cause.REFERENCE, Cause.CORRUPT])
def test_what_would_only_happen_again_is_not_tried_again(engine: Engine, cause: Cause) -> None:
    run = start(engine.store, AGAIN)
    alone = accept(engine.store, single(retry={"limit": 1, "delay": 0}))[0]
    finish(engine.store, *(outcome(claim, TaskState.FAILED, cause) for claim in take(engine.store)))
    assert engine.store.states([run, alone]) == {run: RunState.FAILED, alone: RunState.FAILED}


def test_a_single_task_has_a_retry_and_a_timeout_too(engine: Engine) -> None:
    run = accept(engine.store, single(retry={"limit": 1, "delay": 0}, timeout=7.5))[0]
    claim = claim_one(engine)
    assert claim.timeout == 7.5
    finish(engine.store, outcome(claim, TaskState.FAILED, Cause.EXCEPTION, stderr="first"))
    assert engine.store.run(run).tasks[0].stderr_tail == "first"
    assert engine.store.promote() == 1
    claim = claim_one(engine)
    assert claim.attempt == 2
    finish(engine.store, outcome(claim, output=5))
    (task,) = engine.store.run(run).tasks
    assert (task.status, task.stderr_tail, task.output, task.attempt) == (TaskState.COMPLETED, "", 5, 2)


# --- put back ---


@pytest.mark.parametrize("kind", ["single", "step"])
def test_what_is_given_back_is_next_again(engine: Engine, kind: str) -> None:
    for _ in range(3):
        accept(engine.store, single()) if kind == "single" else start(engine.store, ONE)
    claims = take(engine.store)
    keys = [(claim.run, claim.idx, claim.token) for claim in claims]
    assert engine.store.give_back(BOB, keys) == 0
    assert engine.store.give_back(ALICE, [keys[1], keys[1], (run_id(), 0, 1)]) == 1
    late = accept(engine.store, single())
    again = take(engine.store)
    assert [claim.run for claim in again] == [claims[1].run, *late]
    assert again[0].token > claims[1].token and again[0].attempt == 1
    assert engine.store.finish(ALICE, [outcome(claims[1])]) == [Verdict.FENCED]


@pytest.mark.parametrize("kind", ["single", "step"])
def test_what_is_given_back_keeps_its_place(engine: Engine, kind: str) -> None:
    runs = [accept(engine.store, single())[0] if kind == "single" else start(engine.store, ONE) for _ in range(3)]
    (first,) = take(engine.store, 1)
    assert engine.store.give_back(ALICE, [(first.run, first.idx, first.token)]) == 1
    assert [claim.run for claim in take(engine.store)] == runs


def test_drains_are_free_up_to_a_limit(engine: Engine) -> None:
    run = start(engine.store, workflow("w", node("slow", retry=Retry(1))))
    for _ in range(LOSS_LIMIT):
        claim = claim_one(engine)
        assert claim.attempt == 1
        finish(engine.store, outcome(claim, None, Cause.DRAIN))
    finish(engine.store, outcome(claim_one(engine), None, Cause.DRAIN))
    claim = claim_one(engine)
    assert claim.attempt == 2
    finish(engine.store, outcome(claim, None, Cause.DRAIN))
    assert ended(engine.store, run) == ("failed", "drain")


# --- deaths ---


@pytest.mark.parametrize("kind", ["single", "step"])
def test_a_task_that_kills_its_workers_is_quarantined(engine: Engine, kind: str) -> None:
    run = start(engine.store, AGAIN) if kind == "step" else accept(engine.store, single(retry={"limit": 9}))[0]
    for life in range(CRASH_LIMIT):
        owner = Owner("test", 0, life)
        claim = claim_one(engine, owner)
        requeued = engine.store.lose(owner, Blame(run, 0, claim.token))
        assert requeued == ([(run, 0)] if life < CRASH_LIMIT - 1 else [])
        engine.reopen() if life == 1 else None
    assert ended(engine.store, run) == ("failed", "crash")
    assert engine.store.run(run).tasks[0].cause == "crash"
    assert any(change.event == "quarantined" for change in engine.store.changes())
    assert take(engine.store, owner=BOB) == []
    engine.store.retry(run)
    assert claim_one(engine, BOB).attempt == 1


@pytest.mark.parametrize("kind", ["single", "step"])
def test_a_death_from_outside_costs_no_attempt(engine: Engine, kind: str) -> None:
    run = start(engine.store, AGAIN) if kind == "step" else accept(engine.store, single())[0]
    engine.store.lose(ALICE, Blame(run, 0, claim_one(engine).token))
    claim = claim_one(engine, BOB)
    assert claim.attempt == 1
    finish(engine.store, outcome(claim), owner=BOB)
    assert engine.store.run(run).tasks[0].attempt == 1


def test_only_the_blamed_task_is_charged(engine: Engine) -> None:
    runs = accept(engine.store, *(single() for _ in range(4)))
    for life in range(CRASH_LIMIT):
        owner = Owner("test", 0, life)
        claims = take(engine.store, owner=owner)
        guilty = next(claim for claim in claims if claim.run == runs[2])
        engine.store.lose(owner, Blame(guilty.run, 0, guilty.token))
    states = {run: state.value for run, state in engine.store.states(runs).items()}
    assert states.pop(runs[2]) == "failed"
    assert set(states.values()) == {"running"}
    assert [claim.run for claim in take(engine.store, owner=BOB)] == [runs[0], runs[1], runs[3]]


def test_a_worker_that_dies_of_its_own_step_ends_the_attempt(engine: Engine) -> None:
    run = start(engine.store, ONE)
    claim = claim_one(engine)
    blame = Blame(run, 0, claim.token, TaskState.FAILED, Cause.SIGNAL, "segmentation fault", signal=11)
    assert engine.store.lose(ALICE, blame) == []
    (task,) = engine.store.run(run).tasks
    assert (task.status, task.cause, task.signal) == (TaskState.FAILED, "signal", 11)


def test_blame_with_an_old_token_charges_nobody(engine: Engine) -> None:
    run = start(engine.store, ONE)
    claim = claim_one(engine)
    assert engine.store.lose(ALICE, Blame(run, 0, claim.token - 1, TaskState.FAILED, Cause.SIGNAL)) == [(run, 0)]


def test_after_a_restart_what_the_dead_held_is_queued_again(engine: Engine) -> None:
    runs = accept(engine.store, *(single() for _ in range(4)))
    kept = take(engine.store, 1, BOB)[0]
    claims = take(engine.store)
    engine.reopen()
    assert len(engine.store.running()) == 4
    assert engine.store.recover([BOB], {(runs[1], 0): claims[0].token}) == 3
    assert engine.store.running() == [(BOB, kept.run, 0, kept.token)]
    finish(engine.store, outcome(kept), owner=BOB)
    assert engine.store.finish(ALICE, [outcome(claims[0])]) == [Verdict.FENCED]
    assert [claim.run for claim in take(engine.store, owner=BOB)] == runs[1:]


def test_a_task_lost_with_its_node_too_often_is_quarantined(engine: Engine) -> None:
    run = start(engine.store, ONE)
    for life in range(LOSS_LIMIT):
        claim = claim_one(engine, Owner("test", 0, life))
        engine.reopen()
        engine.store.recover([], {(run, 0): claim.token})
    assert ended(engine.store, run) == ("failed", "crash")


# --- queues ---


def test_queues_in_priority_order_and_first_come_first_served(engine: Engine) -> None:
    low = accept(engine.store, *(single(queue="low") for _ in range(3)))
    high = accept(engine.store, *(single(queue="high") for _ in range(3)))
    assert take(engine.store, queues=["default"]) == []
    assert [claim.run for claim in take(engine.store, 4, queues=["high", "low"])] == [*high, low[0]]


def test_a_paused_queue_hands_out_nothing(engine: Engine) -> None:
    accept(engine.store, single(queue="etl"), single())
    engine.store.pause("etl")
    engine.reopen()
    assert len(take(engine.store, queues=["etl", "default"])) == 1
    assert [(view.name, view.length, view.paused) for view in engine.store.queues()] == [("etl", 1, True)]
    engine.store.resume("etl")
    engine.store.resume("etl")
    assert len(take(engine.store, queues=["etl"])) == 1


def test_a_run_with_many_ready_tasks_does_not_hold_up_another(engine: Engine) -> None:
    start(engine.store, workflow("wide", *(node(f"s{n}") for n in range(900))))
    small = start(engine.store, ONE)
    order = []
    while claims := take(engine.store, 10):
        order += [claim.run for claim in claims]
        finish(engine.store, *map(outcome, claims))
    assert len(order) == 901
    assert order.index(small) <= WINDOW
    engine.check()


def test_a_corrupt_record_is_quarantined_and_never_handed_out(engine: Engine) -> None:
    run, good = accept(engine.store, single(), single())
    engine.spoil(run)
    assert [claim.run for claim in take(engine.store)] == [good]
    assert ended(engine.store, run) == ("failed", "corrupt")


# --- inputs ---


def test_a_step_gets_what_its_references_read(engine: Engine) -> None:
    work = {"run": ["x", "${{ steps.a.output.n }}", "${{ params.p }}"]}
    definition = workflow(
        "w", node("a"), node("b"), node("c", 0, 1, work=work, refs=(0, 1)), node("d", 2),
        params={"p": {"default": "q"}}, directory="/srv/w",
    )  # fmt: skip
    run = start(engine.store, definition, scheduled_at=engine.clock.now)
    run_one(engine.store, "a", output={"n": 1})
    run_one(engine.store, "b")
    claim = claim_one(engine)
    assert claim.inputs is not None and msgspec.json.decode(claim.inputs) == {
        "params": {"p": "q"},
        "steps": {"a": {"n": 1}},
        "run": {"id": run, "name": "w", "scheduledAt": engine.store.run(run).scheduled_at, "attempt": 1},
    }
    assert msgspec.json.decode(claim.work) == work and claim.directory == "/srv/w"
    finish(engine.store, outcome(claim))
    assert claim_one(engine).inputs is None


def test_outputs_are_by_step(engine: Engine) -> None:
    run = start(engine.store, workflow("w", node("a"), node("b", 0), node("c", 0, when="failure")))
    run_one(engine.store, "a", output=[1, None, "x"])
    complete_all(engine.store)
    drain(engine.store)
    assert engine.store.outputs([run]) == {run: {"a": [1, None, "x"]}}
    assert steps(take(engine.store)) == []
