"""why: one stable code for every state a run or a task can be in."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from kubemin.model.obstacles import Obstacles, OpenNeed, TaskFacts
from kubemin.model.states import RunState, TaskState
from kubemin.why import CODES, Pool, Reason, explain

NOW = 1_800_000_000_000_000
POOL = Pool(node="n1", state_dir="/s", queues=("default",), idle=1, workers=2)


def facts(state: RunState = RunState.RUNNING, *tasks: TaskFacts, **fields: Any) -> Obstacles:
    return Obstacles(run="r1", workflow="w", state=state, tasks=list(tasks), **fields)


def task(state: TaskState, step: str = "load", **fields: Any) -> TaskFacts:
    return TaskFacts(idx=3, step=step, state=state, **fields)


def queued(**fields: Any) -> TaskFacts:
    return task(TaskState.QUEUED, **({"listed": True, "position": 0} | fields))


def why(found: Obstacles, pool: Pool = POOL, step: str | None = None) -> list[Reason]:
    return explain(found, pool, now=NOW, step=step)


def only(found: Obstacles, pool: Pool = POOL, step: str | None = None) -> Reason:
    reasons = why(found, pool, step)
    assert len(reasons) == 1, reasons
    return reasons[0]


RUN_CASES = [
    (facts(RunState.WAITING, start_at=NOW + 60_000_000), "not_due", "2027-01-15T08:01:00.000000Z"),
    (facts(RunState.WAITING, concurrency_key="k", held_by="r0"), "concurrency_key", "r0"),
    (facts(RunState.WAITING, unpacked=1000, total=5000), "unpacking", "r1"),
    (facts(RunState.RUNNING, cancelling="cancelled"), "cancelling", "r1"),
    (facts(RunState.COMPLETED), "completed", "r1"),
    (facts(RunState.FAILED, failed=["load"]), "failed", "load"),
    (facts(RunState.FAILED), "failed", "r1"),
    (facts(RunState.TIMEOUT, cause="run-timeout"), "timeout", "r1"),
    (facts(RunState.CANCELLED, cause="replaced"), "cancelled", "r1"),
    (facts(RunState.RUNNING), "deciding", "r1"),
]


@pytest.mark.parametrize(("found", "code", "thing"), RUN_CASES, ids=[case[1] for case in RUN_CASES])
def test_runs(found: Obstacles, code: str, thing: str) -> None:
    reason = only(found)
    assert (reason.code, reason.object) == (code, thing)
    assert reason.message and "\n" not in reason.message


TASK_CASES = [
    (task(TaskState.WAITING, needs=[OpenNeed("extract", TaskState.RUNNING)]), "needs", "extract"),
    (task(TaskState.WAITING), "deciding", "load"),
    (
        task(TaskState.WAITING, due_at=NOW + 5_000_000, attempt=1, attempts=4),
        "retry_backoff",
        "2027-01-15T08:00:05.000000Z",
    ),
    (queued(queue="etl"), "queue_not_served", "etl"),
    (queued(listed=False, position=None), "run_window", "r1"),
    (queued(position=7), "behind_in_queue", "default"),
    (queued(), "starting", "default"),
    (task(TaskState.RUNNING, slot=4, attempt=2), "running", "4"),
    (task(TaskState.RUNNING, slot=4, host="vm-2", attempt=2), "running", "vm-2/4"),
    (
        task(TaskState.RUNNING, kind="fanout", children_live=8, children_total=100, max_parallel=8),
        "max_parallel",
        "load",
    ),
    (task(TaskState.RUNNING, kind="fanout", children_live=8, children_ended=2, children_total=10), "items", "load"),
    (
        task(TaskState.RUNNING, kind="fanout", children_live=2, children_ended=8, children_total=10, max_parallel=2),
        "items",
        "load",
    ),
    (task(TaskState.COMPLETED), "completed", "load"),
    (task(TaskState.FAILED, cause="exit", exit_code=3, message="boom"), "failed", "load"),
    (task(TaskState.TIMEOUT, cause="timeout"), "timeout", "load"),
    (task(TaskState.CANCELLED, cause="cancelled"), "cancelled", "load"),
    (task(TaskState.SKIPPED, cause="condition"), "skipped", "load"),
    (task(TaskState.SKIPPED, cause="upstream", blamed="extract"), "skipped", "extract"),
    (task(TaskState.SKIPPED, cause="upstream"), "skipped", "load"),
]


@pytest.mark.parametrize(
    ("one", "code", "thing"), TASK_CASES, ids=[f"{case[0].state}-{case[1]}" for case in TASK_CASES]
)
def test_tasks(one: TaskFacts, code: str, thing: str) -> None:
    reason = only(facts(RunState.RUNNING, one), step="load")
    assert (reason.code, reason.object, reason.step) == (code, thing, "load")
    assert reason.message and "\n" not in reason.message


def test_every_state_has_a_case() -> None:
    assert {case[0].state for case in TASK_CASES} == set(TaskState)
    assert {case[0].state for case in RUN_CASES} == set(RunState)


def test_every_code_is_told_somewhere() -> None:
    told = {case[1] for case in [*RUN_CASES, *TASK_CASES]}
    elsewhere = {"no_daemon", "draining", "stopping", "queue_paused", "workers_busy"}  # the tests below
    assert told | elsewhere == set(CODES)


def test_a_paused_queue_comes_before_whether_it_is_served() -> None:
    found = facts(RunState.RUNNING, queued(queue="etl"), paused=["etl"])
    assert (only(found).code, only(found).object) == ("queue_paused", "etl")


def test_busy_workers() -> None:
    assert only(facts(RunState.RUNNING, queued()), msgspec.structs.replace(POOL, idle=0)).code == "workers_busy"


@pytest.mark.parametrize(
    ("change", "code"),
    [({"alive": False}, "no_daemon"), ({"drained": True}, "draining"), ({"stopping": True}, "stopping")],
)
def test_the_daemon_comes_first(change: dict[str, bool], code: str) -> None:
    codes = [reason.code for reason in why(facts(RunState.WAITING, queued()), msgspec.structs.replace(POOL, **change))]
    assert codes == [code, "starting"]


def test_an_ended_run_does_not_mind_the_daemon() -> None:
    assert only(facts(RunState.COMPLETED), msgspec.structs.replace(POOL, alive=False)).code == "completed"
    ended = facts(RunState.RUNNING, task(TaskState.FAILED))
    assert only(ended, msgspec.structs.replace(POOL, alive=False), step="load").code == "failed"


def test_a_run_names_the_root_and_not_the_chain() -> None:
    chain = [
        task(TaskState.RUNNING, "extract", slot=0),
        task(TaskState.WAITING, "load", needs=[OpenNeed("extract", TaskState.RUNNING)]),
        task(TaskState.WAITING, "publish", needs=[OpenNeed("load", TaskState.WAITING)]),
    ]
    assert [reason.code for reason in why(facts(RunState.RUNNING, *chain))] == ["running"]
    assert only(facts(RunState.RUNNING, *chain), step="publish").object == "load"


def test_workers_of_two_nodes_are_told_apart() -> None:
    running = [task(TaskState.RUNNING, host, slot=1, host=host) for host in ("vm-1", "vm-2")]
    told = why(facts(RunState.RUNNING, *running))
    assert [reason.object for reason in told] == ["vm-1/1", "vm-2/1"] and "worker 1 of vm-2 " in told[1].message


def test_many_tasks_with_one_obstacle_are_told_once() -> None:
    found = facts(RunState.RUNNING, *[queued(queue="etl") for _ in range(50)], paused=["etl"])
    assert only(found).code == "queue_paused"


def test_a_held_run_does_not_repeat_itself_for_its_tasks() -> None:
    found = facts(RunState.WAITING, task(TaskState.WAITING), concurrency_key="k", held_by="r0")
    assert only(found, step="load").code == "concurrency_key"


def test_the_message_of_a_failure_tells_cause_and_code() -> None:
    failed = task(TaskState.FAILED, cause="exit", exit_code=3, message="no such table")
    reason = only(facts(RunState.FAILED, failed, failed=["load", "other"]))
    assert "exit code 3" in reason.message and "no such table" in reason.message and "other" in reason.message


def test_of_a_for_each_step_the_failed_item_is_told() -> None:
    summing = task(TaskState.FAILED, cause="group")
    reason = only(facts(RunState.FAILED, summing, failed=[summing.step, "load[1]"], cause="exit"))
    assert reason.object == "load[1]" and "failed (exit)" in reason.message


def test_facts_survive_the_wire() -> None:
    found = facts(RunState.RUNNING, task(TaskState.WAITING, needs=[OpenNeed("a", TaskState.QUEUED)]))
    assert msgspec.convert(msgspec.to_builtins(found), Obstacles) == found
