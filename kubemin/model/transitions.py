"""What follows from what: the rules of `docs/design.md` section 7, pure, over plain values.

A store calls these functions where it makes a transition, and the tests' model is built on them, so the text of
each rule exists once. Nothing here does I/O or knows how a store keeps its rows.

What a node has heard from its needs is an `int` of the bits below: it is kept in a row and added to with `|`.
"""

from __future__ import annotations

from typing import NamedTuple

from kubemin.model.graph import Retry
from kubemin.model.states import STARTS_IN_STOPPED_RUN, TASK_FAILURES, Cause, Kind, RunState, TaskState, When

TAINTED = 1  # something upstream, directly or not, failed or timed out
HALTED = 2  # a need was cancelled, or skipped with cause `upstream`
UNMET = 4  # a hard need was skipped because its condition did not hold
FAILED = 8  # a need itself ended failed or timeout       \
CANCELLED = 16  # a need itself was cancelled              } a join asks for these
UPSTREAM = 32  # a need itself was skipped with `upstream` /
GATE_UPSTREAM = 64  # a join's own gate was skipped with `upstream`
GATE_CONDITION = 128  # a join's own gate was skipped with `condition`
OUTSIDE = 1 << 14  # a group's member: something before the group failed or timed out. Its own `when` has judged that
PASSED = 255 | OUTSIDE  # all of the above

# Ends that another attempt would only repeat: quarantine, and what is wrong with the step or its place.
NOT_TRIED_AGAIN = frozenset({Cause.CRASH, Cause.START, Cause.REFERENCE, Cause.CORRUPT, Cause.UNSIGNED, Cause.REPLAYED})
JITTER = 0.1  # of a retry's delay, at most


class End(NamedTuple):
    """How a node ends without a worker."""

    state: TaskState
    cause: Cause | None = None


class Again(NamedTuple):
    """An attempt that is made again after `delay` seconds; `used` attempts are used up now."""

    delay: float
    used: int


COMPLETED = End(TaskState.COMPLETED)
_SKIP_UPSTREAM = End(TaskState.SKIPPED, Cause.UPSTREAM)
_SKIP_CONDITION = End(TaskState.SKIPPED, Cause.CONDITION)
_GROUP_FAILED = End(TaskState.FAILED, Cause.GROUP)


def passes(
    state: TaskState, cause: str | None, heard: int, *, soft: bool = False, gate: bool = False, member: bool = False
) -> int:
    """The bits that an ended node passes on along one edge.

    `state` and `cause` are how it ended, `heard` the bits that it had from its own needs. `soft`: the edge only orders.
    `gate`: the edge is from a group's gate to its own join. `member`: it is from a group's gate into the group.
    """
    told = heard & (TAINTED | OUTSIDE)
    if state is TaskState.COMPLETED:
        if member:
            return OUTSIDE if told else 0
        return told
    if state in TASK_FAILURES:
        return told | TAINTED | FAILED
    if state is TaskState.CANCELLED:
        return told | HALTED | CANCELLED
    if cause == Cause.UPSTREAM:
        return told | HALTED | (GATE_UPSTREAM if gate else UPSTREAM)
    return told | (GATE_CONDITION if gate else 0) | (0 if soft else UNMET)


def decide(when: When, heard: int, stopped: Cause | None = None) -> End | None:
    """What becomes of a gate, task or fan-out whose needs have all ended. None: it starts; an End: so it ends at once.

    `stopped`: the run is being cancelled, replaced or has timed out.
    """
    if when is When.ALWAYS:
        return None
    if stopped is not None and when not in STARTS_IN_STOPPED_RUN:
        return End(TaskState.CANCELLED, stopped)
    if when is When.FAILURE:
        if heard & (TAINTED | OUTSIDE):
            return None
        return _SKIP_UPSTREAM if heard & HALTED else _SKIP_CONDITION
    if heard & (TAINTED | HALTED):
        return _SKIP_UPSTREAM
    return _SKIP_CONDITION if heard & UNMET else None


def join_state(when: When, heard: int, stopped: Cause | None = None) -> End:
    """How a group's join ends when gate and members have ended; a fan-out's end when its children have."""
    if stopped is not None and when not in STARTS_IN_STOPPED_RUN:
        return End(TaskState.CANCELLED, stopped)
    if heard & GATE_UPSTREAM:
        return _SKIP_UPSTREAM
    if heard & GATE_CONDITION:
        return _SKIP_CONDITION
    if heard & FAILED:
        return _GROUP_FAILED
    if heard & CANCELLED:
        return End(TaskState.CANCELLED, stopped or Cause.CANCELLED)
    if heard & UPSTREAM and heard & TAINTED:
        return _GROUP_FAILED
    return COMPLETED


def fails_run(kind: Kind, state: TaskState) -> bool:
    """Whether a node that ended so makes its run end `failed`: steps do, what only sums them up does not."""
    return state in TASK_FAILURES and kind in (Kind.TASK, Kind.FANOUT)


def run_end(stopped: Cause | None, failure: str | None) -> tuple[RunState, str | None]:
    """The end of a run of which nothing is live. `failure`: the cause of the first step that failed, if one did."""
    if stopped is Cause.RUN_TIMEOUT:
        return RunState.TIMEOUT, stopped.value
    if stopped is not None:
        return RunState.CANCELLED, stopped.value
    if failure is not None:
        return RunState.FAILED, failure
    return RunState.COMPLETED, None


def backoff(retry: Retry, used: int, spread: float = 0.0) -> float:
    """Seconds before the attempt after `used` ones: delay * factor^(used-1), `max_delay` at most, plus some jitter.

    `spread`, 0 to 1: how much of the jitter.
    """
    try:
        delay = min(retry.delay * retry.factor ** (used - 1), retry.max_delay)
    except OverflowError:
        delay = retry.max_delay
    return delay * (1 + JITTER * spread)


def after_attempt(
    state: TaskState, cause: Cause | None, used: int, retry: Retry | None, *, stopped: bool = False, spread: float = 0.0
) -> End | Again:
    """What follows an attempt: the end of its task, or another attempt. `used`: attempts used up before this one."""
    used += 1
    if (
        retry is None
        or stopped
        or cause in NOT_TRIED_AGAIN
        or state not in TASK_FAILURES
        or state.value not in retry.causes
        or used > retry.limit
    ):
        return End(state, cause)
    return Again(backoff(retry, used, spread), used)


def after_drain(drains: int, limit: int, used: int, retry: Retry | None) -> End | Again | None:
    """An attempt that a drain ended, the `drains`-th of its task: None, it is queued again at no cost.

    After `limit` drains attempts count again: a step of two hours under hourly restarts would never end.
    """
    if drains <= limit:
        return None
    if retry is not None and used + 1 <= retry.limit:
        return Again(0.0, used + 1)
    return End(TaskState.FAILED, Cause.DRAIN)


def runs_again(state: TaskState, *, forced: bool = False) -> bool:
    """`retry` of a run: whether this node goes back to `waiting`. `forced`: at or after the step asked for."""
    return forced or state is not TaskState.COMPLETED


def run_state(state: TaskState, *, claimed: bool) -> RunState:
    """The state of a run that is one task alone. `claimed`: a worker had it at least once."""
    if state in (TaskState.WAITING, TaskState.QUEUED):
        return RunState.RUNNING if claimed else RunState.WAITING
    if state is TaskState.SKIPPED:
        return RunState.CANCELLED
    return RunState(state.value)
