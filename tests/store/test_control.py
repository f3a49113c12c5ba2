"""Cancelling, timing out, retrying runs, and concurrency keys."""

from __future__ import annotations

import pytest
from driving import (
    ALICE,
    BOB,
    accept,
    complete_all,
    drain,
    ended,
    finish,
    of,
    outcome,
    run_one,
    shape,
    single,
    start,
    steps,
    take,
)
from engines import Engine
from graphs import join, node, workflow

from kubemin.errors import NotFound, Refused
from kubemin.model.graph import Concurrency, Retry
from kubemin.model.ids import run_id
from kubemin.model.records import Definition, Rejection
from kubemin.model.states import Cause, Kind, RunState, TaskState
from kubemin.store.base import Stop

FAILED = (TaskState.FAILED, Cause.EXIT)
CHAIN = workflow("chain", node("a"), node("b", 0), node("c", 1))


# --- cancel ---


def test_cancel_stops_what_runs_and_starts_only_always_steps(engine: Engine) -> None:
    definition = workflow(
        "w", node("a"), node("b", 0), node("idle"), node("clean", 1, when="always"), node("page", 1, when="failure")
    )
    run = start(engine.store, definition)
    running = take(engine.store, 1)[0]
    assert engine.store.cancel(run) is True
    assert engine.store.cancel(run) is False
    assert engine.store.stops() == [Stop(ALICE, run, 0, running.token, Cause.CANCELLED)]
    engine.reopen()
    assert engine.store.stops() == [Stop(ALICE, run, 0, running.token, Cause.CANCELLED)]
    assert take(engine.store) == []
    assert ended(engine.store, run) == ("running", None)
    finish(engine.store, outcome(running, TaskState.CANCELLED, Cause.CANCELLED))
    assert engine.store.stops() == []
    assert complete_all(engine.store) == ["clean"]
    assert shape(engine.store, run) == {
        "a": ("cancelled", "cancelled"), "b": ("cancelled", "cancelled"), "idle": ("cancelled", "cancelled"),
        "clean": ("completed", None), "page": ("cancelled", "cancelled"),
    }  # fmt: skip
    assert ended(engine.store, run) == ("cancelled", "cancelled")
    assert engine.store.cancel(run) is False


def tidying(retry: Retry | None = None) -> Definition:
    """A step, and an `always` group of two plain steps with a group between, as the compiler makes it."""
    return workflow(
        "w", node("a"), node("t/", 0, kind=Kind.GATE, when="always"), node("t/m", 1, when="cleanup", retry=retry),
        node("t/g/", 2, kind=Kind.GATE, when="cleanup"), node("t/g/x", 3, when="cleanup"),
        join("t/g", 3, 4, when="cleanup"), node("t/own", 1), node("t/n", 5, when="cleanup"),
        join("t", 1, 2, 5, 6, 7, when="always"),
    )  # fmt: skip


def test_the_plain_steps_of_an_always_group_run_after_a_cancel(engine: Engine) -> None:
    run = start(engine.store, tidying())
    running = take(engine.store, 1)[0]
    engine.store.cancel(run)
    finish(engine.store, outcome(running, TaskState.CANCELLED, Cause.CANCELLED))
    cleaning = take(engine.store)
    assert steps(cleaning) == ["t/m"]
    assert engine.store.stops() == []
    engine.reopen()
    assert engine.store.stops() == []
    finish(engine.store, outcome(cleaning[0]))
    assert complete_all(engine.store) == ["t/g/x", "t/n"]
    found = shape(engine.store, run)
    assert found["t/own"] == ("cancelled", "cancelled")
    assert found["t/g"] == found["t/n"] == ("completed", None)
    assert ended(engine.store, run) == ("cancelled", "cancelled")


def test_a_cleanup_is_tried_again_after_a_cancel_and_stops_at_its_failure(engine: Engine) -> None:
    run = start(engine.store, tidying(Retry(1, delay=1)))
    engine.store.cancel(run)
    finish(engine.store, outcome(take(engine.store)[0], *FAILED))
    assert take(engine.store) == []
    engine.clock.forward(2)
    engine.store.promote()
    finish(engine.store, outcome(take(engine.store)[0], *FAILED))
    assert take(engine.store) == []
    found = shape(engine.store, run)
    assert found["t/m"] == ("failed", "exit")
    assert found["t/n"] == found["t/g/x"] == ("skipped", "upstream")
    assert found["t"] == ("failed", "group")
    assert ended(engine.store, run) == ("cancelled", "cancelled")


def test_a_completion_that_races_a_cancel_wins_for_its_step(engine: Engine) -> None:
    run = start(engine.store, CHAIN)
    claim = take(engine.store)[0]
    engine.store.cancel(run)
    finish(engine.store, outcome(claim, output=1))
    assert shape(engine.store, run)["a"] == ("completed", None)
    assert ended(engine.store, run) == ("cancelled", "cancelled")


@pytest.mark.parametrize("when", ["queued", "running", "completes anyway", "backoff", "delayed"])
def test_cancel_of_a_single_task(engine: Engine, when: str) -> None:
    at = engine.clock.now + 10**9 if when == "delayed" else None
    run = accept(engine.store, single(retry={"limit": 3}, start_at=at))[0]
    claim = None if when in ("queued", "delayed") else take(engine.store)[0]
    if claim is not None and when == "backoff":
        finish(engine.store, outcome(claim, *FAILED))
    assert engine.store.cancel(run) is True
    assert engine.store.cancel(run) is False
    if claim is not None and when in ("running", "completes anyway"):
        engine.reopen()
        assert engine.store.stops() == [Stop(ALICE, run, 0, claim.token, Cause.CANCELLED)]
        done = outcome(claim) if when == "completes anyway" else outcome(claim, TaskState.CANCELLED)
        finish(engine.store, done)
    final = RunState.COMPLETED if when == "completes anyway" else RunState.CANCELLED
    assert engine.store.states([run]) == {run: final}
    assert engine.store.stops() == [] and engine.store.next_due() is None and take(engine.store) == []


def test_a_stopped_task_whose_worker_dies_or_drains_is_not_queued_again(engine: Engine) -> None:
    runs = [start(engine.store, CHAIN), accept(engine.store, single())[0], accept(engine.store, single())[0]]
    claims = take(engine.store)
    for run in runs:
        engine.store.cancel(run)
    finish(engine.store, outcome(claims[2], None, Cause.DRAIN))
    assert engine.store.lose(ALICE, None) == []
    assert set(engine.store.states(runs).values()) == {RunState.CANCELLED}


def test_a_failure_after_a_cancel_is_not_tried_again(engine: Engine) -> None:
    run = start(engine.store, workflow("w", node("a", retry=Retry(5, delay=0)), node("b", 0)))
    claim = take(engine.store)[0]
    engine.store.cancel(run)
    finish(engine.store, outcome(claim, *FAILED))
    assert ended(engine.store, run) == ("cancelled", "cancelled")
    assert shape(engine.store, run)["a"] == ("failed", "exit")
    assert engine.store.promote() == 0 and take(engine.store) == []


def test_cancel_while_waiting_for_a_retry(engine: Engine) -> None:
    run = start(engine.store, workflow("w", node("a", retry=Retry(5)), node("b", 0)))
    run_one(engine.store, "a", *FAILED)
    assert engine.store.cancel(run)
    assert ended(engine.store, run) == ("cancelled", "cancelled")
    assert engine.store.next_due() is None


def test_cancel_of_a_group_at_work(engine: Engine) -> None:
    nodes = (node("g/"), node("g/x", 0), node("g/y", 1), join("g", 0, 1, 2), node("clean", 3, when="always"))
    run = start(engine.store, workflow("w", *nodes))
    claim = take(engine.store)[0]
    engine.store.cancel(run)
    finish(engine.store, outcome(claim, TaskState.CANCELLED))
    assert complete_all(engine.store) == ["clean"]
    assert shape(engine.store, run)["g"] == ("cancelled", "cancelled")


def test_cancel_of_a_fan_out_makes_no_more_items(engine: Engine) -> None:
    run = start(engine.store, workflow("w", node("f", items=list(range(500)))))
    claims = take(engine.store, 5)
    engine.store.cancel(run)
    drain(engine.store)
    assert take(engine.store) == []
    finish(engine.store, *(outcome(claim, TaskState.CANCELLED) for claim in claims))
    drain(engine.store)
    assert ended(engine.store, run) == ("cancelled", "cancelled")
    assert shape(engine.store, run)["f"] == ("cancelled", "cancelled")
    engine.check()


def test_cancel_of_what_is_over_or_unknown(engine: Engine) -> None:
    run, alone = start(engine.store, workflow("w", node("a"))), accept(engine.store, single())[0]
    complete_all(engine.store)
    for each in (run, alone):
        with pytest.raises(Refused):
            engine.store.cancel(each)
    with pytest.raises(NotFound):
        engine.store.cancel(run_id())


# --- time-outs ---


def test_a_run_times_out_from_its_first_claim(engine: Engine) -> None:
    definition = workflow("w", node("a"), node("b", 0), node("clean", 1, when="always"), timeout=60.0)
    run = start(engine.store, definition)
    engine.clock.forward(1000)
    assert engine.store.expire() == 0
    claim = take(engine.store)[0]
    assert engine.store.next_due() == engine.clock.now + 60_000_000
    engine.clock.forward(59)
    assert engine.store.expire() == 0
    engine.clock.forward(1)
    assert engine.store.expire() == 1
    assert engine.store.stops() == [Stop(ALICE, run, 0, claim.token, Cause.RUN_TIMEOUT)]
    assert engine.store.expire() == 0
    finish(engine.store, outcome(claim, TaskState.CANCELLED, Cause.RUN_TIMEOUT))
    assert complete_all(engine.store) == ["clean"]
    assert shape(engine.store, run)["a"] == ("cancelled", "run-timeout")
    assert ended(engine.store, run) == ("timeout", "run-timeout")
    engine.store.retry(run)
    assert engine.store.next_due() is None
    assert complete_all(engine.store) == ["a", "b"]
    assert ended(engine.store, run) == ("completed", None)


# --- retry of runs ---


def test_retry_keeps_what_completed(engine: Engine) -> None:
    run = start(engine.store, workflow("w", node("a"), node("b", 0), node("c", 1), node("page", 1, when="failure")))
    first = run_one(engine.store, "a", output=1)
    second = run_one(engine.store, "b", *FAILED)
    complete_all(engine.store)
    assert engine.store.retry(run) == 2
    assert ended(engine.store, run) == ("running", None)
    (claim,) = take(engine.store)
    assert (claim.step, claim.attempt) == ("b", 1) and claim.token > second.token > first.token
    with pytest.raises(Refused):
        engine.store.retry(run)
    finish(engine.store, outcome(claim))
    assert complete_all(engine.store) == ["c"]
    view = engine.store.run(run)
    assert (view.status, view.round, view.cause) == (RunState.COMPLETED, 2, None)
    assert shape(engine.store, run)["page"] == ("completed", None)
    assert engine.store.outputs([run]) == {run: {"a": 1}}


def test_retry_from_a_step_runs_it_and_all_after_it(engine: Engine) -> None:
    run = start(engine.store, workflow("w", node("a"), node("b", 0), node("c", 1), node("d", 0)))
    complete_all(engine.store)
    with pytest.raises(Refused):
        engine.store.retry(run)
    with pytest.raises(NotFound):
        engine.store.retry(run, "nowhere")
    assert engine.store.retry(run, "b") == 2
    assert complete_all(engine.store) == ["b", "c"]
    assert ended(engine.store, run) == ("completed", None)


def test_a_cleanup_that_is_kept_passes_on_what_is_true_now(engine: Engine) -> None:
    run = start(engine.store, workflow("w", node("a"), node("clean", 0, when="always"), node("b", 1)))
    run_one(engine.store, "a", *FAILED)
    complete_all(engine.store)
    assert shape(engine.store, run)["b"] == ("skipped", "upstream")
    engine.store.retry(run)
    assert steps(take(engine.store)) == ["a"]
    engine.reopen()
    engine.store.recover([], {})
    claim = take(engine.store, owner=BOB)[0]
    finish(engine.store, outcome(claim), owner=BOB)
    assert steps(take(engine.store, owner=BOB)) == ["b"]


def test_retry_from_a_group_runs_its_members(engine: Engine) -> None:
    nodes = (node("a"), node("g/", 0), node("g/x", 1), join("g", 1, 2), node("b", 3))
    run = start(engine.store, workflow("w", *nodes))
    complete_all(engine.store)
    engine.store.retry(run, "g")
    assert complete_all(engine.store) == ["g/x", "b"]
    engine.store.retry(run, "g/x")
    assert complete_all(engine.store) == ["g/x", "b"]
    assert ended(engine.store, run) == ("completed", None)


def test_retry_runs_only_the_items_that_did_not_complete(engine: Engine) -> None:
    run = start(engine.store, workflow("w", node("f", items=list(range(200)))))
    drain(engine.store)
    while claims := take(engine.store):
        ends = [FAILED if claim.step in ("f[3]", "f[150]") else (TaskState.COMPLETED, None) for claim in claims]
        finish(engine.store, *(outcome(claim, *end) for claim, end in zip(claims, ends, strict=True)))
    engine.store.retry(run)
    assert complete_all(engine.store) == ["f[3]", "f[150]"]
    assert ended(engine.store, run) == ("completed", None)
    engine.store.retry(run, "f")
    assert len(complete_all(engine.store)) == 200
    assert len(shape(engine.store, run)) == 201
    engine.check()


def test_retry_from_before_a_fan_out_takes_the_new_items(engine: Engine) -> None:
    fan = node("f", 0, items="${{ steps.a.output }}", refs=(0,))
    run = start(engine.store, workflow("w", node("a"), fan))
    run_one(engine.store, "a", output=[1, 2, 3])
    complete_all(engine.store)
    for items in ([1], [1, 2, 3, 4]):
        engine.store.retry(run, "a")
        run_one(engine.store, "a", output=items)
        assert sorted(complete_all(engine.store)) == [f"f[{n}]" for n in range(len(items))]
        assert len(shape(engine.store, run)) == len(items) + 2
        assert len(engine.store.outputs([run])[run]["f"]) == len(items)


def test_retry_of_a_large_run_goes_on_after_a_crash(engine: Engine) -> None:
    count = 2500
    run = start(engine.store, workflow("w", *(node(f"s{n}") for n in range(count)), node("end", *range(count))))
    drain(engine.store)
    while claims := take(engine.store):
        finish(
            engine.store,
            *(outcome(c, *(FAILED if c.step.endswith("7") else (TaskState.COMPLETED, None))) for c in claims),
        )
    drain(engine.store)
    assert ended(engine.store, run) == ("failed", "exit")
    engine.store.retry(run)
    engine.store.advance()
    engine.reopen()
    again = complete_all(engine.store)
    assert len(again) == count // 10 + 1 and again[-1] == "end"
    assert ended(engine.store, run) == ("completed", None)
    engine.check()


def test_retry_of_a_single_task(engine: Engine) -> None:
    run = accept(engine.store, single())[0]
    old = take(engine.store)[0]
    finish(engine.store, outcome(old, *FAILED, stderr="no"))
    assert engine.store.retry(run) == 2
    assert engine.store.states([run]) == {run: RunState.RUNNING}
    engine.reopen()
    claim = take(engine.store)[0]
    assert claim.token > old.token and claim.attempt == 1
    finish(engine.store, outcome(claim, output=2))
    view = engine.store.run(run)
    assert (view.status, view.round, view.tasks[0].stderr_tail) == (RunState.COMPLETED, 2, "")
    with pytest.raises(Refused):
        engine.store.retry(run)
    assert engine.store.retry(run, "reports.load:run") == 3


# --- concurrency ---


def keyed(policy: str, name: str = "w"):  # type: ignore[no-untyped-def]
    rule = Concurrency("report-${{ params.day }}", policy)
    return workflow(name, node("a"), node("b", 0), concurrency=rule, params={"day": {"default": "mon"}})


def test_queue_runs_one_after_the_other_in_order(engine: Engine) -> None:
    definition = keyed("queue")
    runs = [start(engine.store, definition) for _ in range(3)]
    other = start(engine.store, definition, params={"day": "tue"})
    first = take(engine.store)
    assert {claim.run for claim in first} == {runs[0], other}
    engine.store.give_back(ALICE, [(claim.run, claim.idx, claim.token) for claim in first])
    engine.reopen()
    order = []
    while claims := take(engine.store):
        order += [claim.run for claim in claims if claim.run != other]
        finish(engine.store, *map(outcome, claims))
    assert order == [run for run in runs for _ in range(2)]


def test_a_run_that_waits_for_its_key_can_be_cancelled(engine: Engine) -> None:
    definition = keyed("queue")
    runs = [start(engine.store, definition) for _ in range(3)]
    engine.store.cancel(runs[1])
    assert engine.store.states(runs)[runs[1]] is RunState.CANCELLED
    engine.store.cancel(runs[0])
    assert {claim.run for claim in take(engine.store)} == {runs[2]}
    engine.check()


def test_reject_refuses_while_one_is_unfinished(engine: Engine) -> None:
    definition = keyed("reject")
    run = start(engine.store, definition)
    (answer,) = engine.store.submit([of(definition, key="k")])
    assert isinstance(answer, Rejection) and (answer.code, answer.exit_code) == ("concurrency", 5)
    assert run in answer.message
    complete_all(engine.store)
    assert accept(engine.store, of(definition, key="k"))


def test_replace_cancels_those_before(engine: Engine) -> None:
    definition = keyed("replace")
    first = start(engine.store, definition)
    claim = take(engine.store)[0]
    second, third = start(engine.store, definition), start(engine.store, definition)
    assert engine.store.stops() == [Stop(ALICE, first, 0, claim.token, Cause.REPLACED)]
    assert ended(engine.store, second) == ("cancelled", "replaced")
    assert take(engine.store) == []
    finish(engine.store, outcome(claim, TaskState.CANCELLED, Cause.REPLACED))
    assert ended(engine.store, first) == ("cancelled", "replaced")
    assert complete_all(engine.store) == ["a", "b"]
    assert ended(engine.store, third) == ("completed", None)
    engine.check()


def test_retry_takes_the_key_again(engine: Engine) -> None:
    definition = keyed("queue")
    first = start(engine.store, definition)
    run_one(engine.store, "a", *FAILED)
    second = start(engine.store, definition)
    assert engine.store.retry(first) == 2
    assert engine.store.states([first]) == {first: RunState.WAITING}
    assert {claim.run for claim in take(engine.store)} == {second}
    engine.store.cancel(second)
    engine.store.lose(ALICE, None)
    assert {claim.run for claim in take(engine.store, owner=BOB)} == {first}
    engine.check()


def test_a_delayed_run_takes_its_key_when_it_is_due(engine: Engine) -> None:
    definition = keyed("replace")
    engine.store.define([definition])
    later = accept(engine.store, of(definition, start_at=engine.clock.now + 1_000_000))[0]
    now = start(engine.store, definition)
    assert {claim.run for claim in take(engine.store)} == {now}
    engine.clock.forward(2)
    engine.store.promote()
    assert [stop.run for stop in engine.store.stops()] == [now]
    engine.store.lose(ALICE, None)
    assert {claim.run for claim in take(engine.store, owner=BOB)} == {later}
