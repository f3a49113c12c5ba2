"""The rules of `model/transitions.py`, each written down a second time: stores and their model share that module, so a
mistake in it would be made by both and seen by neither."""

from __future__ import annotations

import pytest

from kubemin.model import transitions as rules
from kubemin.model.graph import Retry
from kubemin.model.states import Cause, Kind, RunState, TaskState, When
from kubemin.model.transitions import HALTED, TAINTED, UNMET, Again, End

COMPLETED, FAILED, TIMEOUT = TaskState.COMPLETED, TaskState.FAILED, TaskState.TIMEOUT
CANCELLED, SKIPPED = TaskState.CANCELLED, TaskState.SKIPPED
TWICE = Retry(2, delay=10, factor=3, max_delay=20)
UPSTREAM, CONDITION = End(SKIPPED, Cause.UPSTREAM), End(SKIPPED, Cause.CONDITION)


@pytest.mark.parametrize(
    ("state", "cause", "heard", "soft", "told"),
    [
        (COMPLETED, None, 0, False, 0),
        (COMPLETED, None, TAINTED | UNMET, False, TAINTED),
        (FAILED, "exit", 0, False, TAINTED | rules.FAILED),
        (TIMEOUT, "timeout", 0, True, TAINTED | rules.FAILED),
        (CANCELLED, "cancelled", TAINTED, False, TAINTED | HALTED | rules.CANCELLED),
        (SKIPPED, "upstream", TAINTED, False, TAINTED | HALTED | rules.UPSTREAM),
        (SKIPPED, "condition", 0, False, UNMET),
        (SKIPPED, "condition", TAINTED, True, TAINTED),
    ],
)
def test_what_an_end_passes_on(state: TaskState, cause: str | None, heard: int, soft: bool, told: int) -> None:
    assert rules.passes(state, cause, heard, soft=soft) == told


def test_a_gate_tells_its_own_join_more() -> None:
    assert rules.passes(SKIPPED, "upstream", 0, gate=True) == HALTED | rules.GATE_UPSTREAM
    assert rules.passes(SKIPPED, "condition", 0, gate=True) == rules.GATE_CONDITION | UNMET


def test_a_gate_tells_its_members_of_a_failure_outside() -> None:
    """That starts an alert among them, and stops none of the others: the group's own condition has judged it."""
    assert rules.passes(COMPLETED, None, TAINTED, member=True) == rules.OUTSIDE
    assert rules.passes(COMPLETED, None, 0, member=True) == 0
    assert rules.passes(COMPLETED, None, rules.OUTSIDE) == rules.OUTSIDE


@pytest.mark.parametrize(
    ("heard", "success", "failure"),
    [
        (0, None, CONDITION),
        (TAINTED, UPSTREAM, None),
        (HALTED, UPSTREAM, UPSTREAM),
        (TAINTED | HALTED, UPSTREAM, None),
        (UNMET, CONDITION, CONDITION),
        (UNMET | TAINTED, UPSTREAM, None),
        (rules.OUTSIDE, None, None),
    ],
)
def test_who_starts(heard: int, success: End | None, failure: End | None) -> None:
    assert rules.decide(When.SUCCESS, heard) == success
    assert rules.decide(When.FAILURE, heard) == failure
    assert rules.decide(When.ALWAYS, heard) is None


def test_in_a_stopped_run_only_always_starts() -> None:
    for cause in (Cause.CANCELLED, Cause.RUN_TIMEOUT, Cause.REPLACED):
        assert (
            rules.decide(When.SUCCESS, 0, cause) == rules.decide(When.FAILURE, TAINTED, cause) == End(CANCELLED, cause)
        )
        assert rules.decide(When.ALWAYS, TAINTED, cause) is None
        assert rules.decide(When.CLEANUP, rules.OUTSIDE, cause) is None
        assert rules.decide(When.CLEANUP, TAINTED, cause) == UPSTREAM
        assert rules.join_state(When.SUCCESS, rules.FAILED, cause) == End(CANCELLED, cause)
        for when in (When.ALWAYS, When.CLEANUP):
            assert rules.join_state(when, rules.FAILED | TAINTED, cause) == End(FAILED, Cause.GROUP)


@pytest.mark.parametrize(
    ("heard", "end"),
    [
        (0, End(COMPLETED)),
        (UNMET, End(COMPLETED)),
        (TAINTED, End(COMPLETED)),
        (rules.FAILED | TAINTED, End(FAILED, Cause.GROUP)),
        (rules.CANCELLED | HALTED, End(CANCELLED, Cause.CANCELLED)),
        (rules.UPSTREAM | HALTED | TAINTED, End(FAILED, Cause.GROUP)),
        (rules.GATE_UPSTREAM | rules.FAILED, UPSTREAM),
        (rules.GATE_CONDITION | UNMET, CONDITION),
    ],
)
def test_how_a_group_ends(heard: int, end: End) -> None:
    assert rules.join_state(When.SUCCESS, heard) == end


@pytest.mark.parametrize(
    ("state", "cause", "used", "stopped", "then"),
    [
        (FAILED, Cause.EXIT, 0, False, Again(10.0, 1)),
        (TIMEOUT, Cause.TIMEOUT, 1, False, Again(20.0, 2)),
        (FAILED, Cause.EXIT, 2, False, End(FAILED, Cause.EXIT)),
        (FAILED, Cause.EXIT, 0, True, End(FAILED, Cause.EXIT)),
        *((FAILED, cause, 0, False, End(FAILED, cause)) for cause in (Cause.CRASH, Cause.START, Cause.CORRUPT)),
        (CANCELLED, Cause.CANCELLED, 0, False, End(CANCELLED, Cause.CANCELLED)),
        (COMPLETED, None, 0, False, End(COMPLETED)),
    ],
)
def test_what_an_attempt_s_end_becomes(
    state: TaskState, cause: Cause | None, used: int, stopped: bool, then: End | Again
) -> None:
    assert rules.after_attempt(state, cause, used, TWICE, stopped=stopped) == then


def test_without_a_policy_or_with_another_cause_nothing_is_tried_again() -> None:
    assert rules.after_attempt(FAILED, Cause.EXIT, 0, None) == End(FAILED, Cause.EXIT)
    only = Retry(3, causes=("timeout",))
    assert rules.after_attempt(FAILED, Cause.EXIT, 0, only) == End(FAILED, Cause.EXIT)
    assert rules.after_attempt(TIMEOUT, Cause.TIMEOUT, 0, only) == Again(5.0, 1)


def test_delays_grow_to_a_bound_with_a_little_jitter() -> None:
    assert [rules.backoff(TWICE, used) for used in (1, 2, 3, 10_000)] == [10, 20, 20, 20]
    assert rules.backoff(TWICE, 1, 1.0) == pytest.approx(11.0)
    assert rules.backoff(Retry(1, delay=0), 5, 1.0) == 0


def test_drains_are_free_up_to_the_limit() -> None:
    assert rules.after_drain(10, 10, 0, TWICE) is None
    assert rules.after_drain(11, 10, 0, TWICE) == Again(0.0, 1)
    assert rules.after_drain(11, 10, 2, TWICE) == End(FAILED, Cause.DRAIN)
    assert rules.after_drain(11, 10, 0, None) == End(FAILED, Cause.DRAIN)


def test_the_end_of_a_run() -> None:
    assert rules.run_end(None, None) == (RunState.COMPLETED, None)
    assert rules.run_end(None, "crash") == (RunState.FAILED, "crash")
    assert rules.run_end(Cause.RUN_TIMEOUT, "exit") == (RunState.TIMEOUT, "run-timeout")
    assert rules.run_end(Cause.REPLACED, "exit") == (RunState.CANCELLED, "replaced")
    assert [kind for kind in Kind if rules.fails_run(kind, FAILED)] == [Kind.TASK, Kind.FANOUT]
    assert not rules.fails_run(Kind.TASK, CANCELLED)


def test_what_a_retry_runs_again() -> None:
    again = [state for state in (COMPLETED, FAILED, TIMEOUT, CANCELLED, SKIPPED) if rules.runs_again(state)]
    assert again == [FAILED, TIMEOUT, CANCELLED, SKIPPED]
    assert rules.runs_again(COMPLETED, forced=True)
