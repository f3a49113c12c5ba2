"""Reads: the views, lists and filters, queues, and the facts of `why`."""

from __future__ import annotations

import msgspec
import pytest
from driving import ALICE, accept, complete_all, drain, finish, of, outcome, run_one, single, start, take
from engines import Engine
from graphs import node, workflow

from kubemin.clock import SECOND
from kubemin.errors import NotFound
from kubemin.model.graph import Concurrency, Retry
from kubemin.model.ids import run_id
from kubemin.model.obstacles import OpenNeed
from kubemin.model.states import Cause, RunState, TaskState
from kubemin.store.base import RunFilter

FAILED = (TaskState.FAILED, Cause.EXIT)


def test_a_reader_sees_what_is_committed(engine: Engine) -> None:
    reader = engine.reader()
    with engine.store.group():
        run = accept(engine.store, single())[0]
        assert engine.store.states([run]) == {run: RunState.WAITING}
        assert (reader.states([run]) == {}) is engine.transactional
    assert reader.states([run]) == {run: RunState.WAITING}
    reader.close()


def test_unknown_runs(engine: Engine) -> None:
    unknown = run_id()
    assert engine.store.states([unknown]) == {} and engine.store.outputs([unknown]) == {}
    for read in (engine.store.run, engine.store.obstacles, engine.reader().run):
        with pytest.raises(NotFound):
            read(unknown)
    assert engine.store.definition("nothing") is None


def test_many_ids_at_once(engine: Engine) -> None:
    ids = accept(engine.store, *(single() for _ in range(300)))
    graph = start(engine.store, workflow("w", node("a")))
    while claims := take(engine.store):
        finish(engine.store, *(outcome(claim, output=claim.token) for claim in claims))
    asked = [graph, *ids, run_id()] * 50
    assert set(engine.store.states(asked).values()) == {RunState.COMPLETED}
    outputs = engine.reader().outputs(asked)
    assert len(outputs) == 301 and all(len(value) == 1 for value in outputs.values())


def test_runs_newest_first_and_filtered(engine: Engine) -> None:
    definition = workflow("w", node("a"), params={"day": {"default": "mon"}, "n": {"default": 1}})
    engine.store.define([definition])
    runs = []
    for number in range(4):
        engine.clock.forward(60)
        days = {"day": "tue"} if number % 2 else {}
        runs += accept(engine.store, of(definition, params=days, key=f"k{number}"))
    alone = accept(engine.store, single(key="alone"))[0]
    run_one(engine.store, "a", *FAILED)

    def found(**where: object) -> set[str]:
        return {view.id for view in engine.store.runs(RunFilter(**where))}  # type: ignore[arg-type]

    listed = [view.id for view in engine.store.runs(RunFilter())]
    assert listed == sorted(listed, reverse=True) and set(listed) == {*runs, alone}
    assert found(status=RunState.FAILED) == {runs[0]}
    assert found(status=RunState.WAITING) == {*runs[1:], alone} - found(status=RunState.RUNNING)
    assert found(workflow="w") == set(runs)
    assert found(workflow="reports.load:run") == {alone}
    assert found(key="k2") == {runs[2]} and found(key="alone") == {alone} and found(key="no") == set()
    assert found(params={"day": "tue", "n": "1"}) == {runs[1], runs[3]}
    assert found(since=engine.clock.now) == {runs[3], alone}
    assert found(until=engine.clock.now - 60_000_000) == set(runs[:3])
    assert len(found(limit=2)) == 2
    view = engine.store.runs(RunFilter(key="k1"))[0]
    assert (view.params, view.tasks, view.round) == ({"day": "tue", "n": 1}, [], 1)


def test_queues_show_the_whole_backlog(engine: Engine) -> None:
    assert engine.store.queues() == []
    start(
        engine.store,
        workflow("w", *(node(f"s{n}") for n in range(200)), node("f", items=list(range(500)), queue="etl")),
    )
    accept(engine.store, single(queue="etl"))
    take(engine.store, 10, queues=["etl"])
    engine.store.pause("empty")
    views = {view.name: view for view in engine.reader().queues()}
    assert {name: (view.length, view.paused) for name, view in views.items()} == {
        "default": (200, False), "etl": (491, False), "empty": (0, True),
    }  # fmt: skip
    assert views["default"].oldest_seconds is not None and views["empty"].oldest_seconds is None


def test_queues_show_what_is_accepted_and_not_unpacked_yet(engine: Engine) -> None:
    accept(engine.store, single(queue="etl"))
    later = engine.clock.now + 10**9 * SECOND
    batch = [single(queue="etl"), single(queue="etl"), single(queue="new"), single(queue="new", start_at=later)]
    engine.store.stage("b", msgspec.json.encode(batch))
    assert {view.name: view.length for view in engine.reader().queues()} == {"etl": 1}, "not sealed yet"
    engine.store.seal("b")
    wanted = {"etl": 3, "new": 1}
    assert {view.name: view.length for view in engine.reader().queues()} == wanted
    drain(engine.store)
    assert {view.name: view.length for view in engine.reader().queues()} == wanted


# --- why ---


def test_why_an_open_need(engine: Engine) -> None:
    run = start(engine.store, workflow("w", node("a", retry=Retry(2)), node("b", 0)))
    facts = engine.store.obstacles(run)
    queued, waiting = facts.tasks
    assert (facts.state, facts.total, facts.unpacked) == (RunState.WAITING, 2, 2)
    assert (queued.step, queued.listed, queued.position, queued.attempts) == ("a", True, 0, 3)
    assert waiting.needs == [OpenNeed("a", TaskState.QUEUED)]
    take(engine.store)
    assert engine.store.obstacles(run, "a").tasks[0].slot == ALICE.slot
    with pytest.raises(NotFound):
        engine.store.obstacles(run, "nowhere")


def test_why_a_position_and_a_paused_queue(engine: Engine) -> None:
    first, second = accept(engine.store, single(), single())
    engine.store.pause("default")
    facts = engine.store.obstacles(second)
    assert (facts.tasks[0].position, facts.paused, facts.workflow) == (1, ["default"], "reports.load:run")
    assert engine.store.obstacles(first).tasks[0].position == 0


def test_why_a_window(engine: Engine) -> None:
    run = start(engine.store, workflow("w", *(node(f"s{n}") for n in range(150))))
    facts = engine.reader().obstacles(run)
    assert len(facts.tasks) == 100 and facts.more == 50
    assert [task.listed for task in facts.tasks] == [True] * 64 + [False] * 36


def test_why_a_concurrency_key(engine: Engine) -> None:
    definition = workflow("w", node("a"), concurrency=Concurrency("k"))
    runs = [start(engine.store, definition) for _ in range(3)]
    facts = engine.store.obstacles(runs[2])
    assert (facts.held_by, facts.ahead, facts.concurrency_key) == (runs[0], 1, "k")
    engine.store.cancel(runs[1])
    assert engine.store.obstacles(runs[2]).ahead == 0


def test_why_a_time(engine: Engine) -> None:
    at = engine.clock.now + 60_000_000
    alone = accept(engine.store, single(start_at=at))[0]
    assert engine.store.obstacles(alone).start_at == at
    run = start(engine.store, workflow("w", node("a", retry=Retry(1, delay=30)), timeout=600.0))
    run_one(engine.store, "a", *FAILED)
    facts = engine.store.obstacles(run)
    assert facts.tasks[0].due_at is not None and facts.deadline is not None
    assert (facts.tasks[0].state, facts.tasks[0].attempt) == (TaskState.WAITING, 1)


def test_why_a_fan_out_and_a_stop(engine: Engine) -> None:
    run = start(engine.store, workflow("w", node("f", items=list(range(9)), max_parallel=2)))
    claims = take(engine.store)
    finish(engine.store, outcome(claims[0]))
    fan = engine.store.obstacles(run).tasks[0]
    assert (fan.kind, fan.max_parallel, fan.children_total, fan.children_live, fan.children_ended) == (
        "fanout",
        2,
        9,
        2,
        1,
    )
    engine.store.cancel(run)
    assert engine.store.obstacles(run).cancelling == "cancelled"


def test_why_it_failed_or_was_skipped(engine: Engine) -> None:
    run = start(engine.store, workflow("w", node("a"), node("b", 0), node("c", 1)))
    run_one(engine.store, "a", *FAILED)
    facts = engine.store.obstacles(run)
    assert (facts.state, facts.cause, facts.tasks, facts.failed) == (RunState.FAILED, "exit", [], ["a"])
    assert engine.store.obstacles(run, "c").tasks[0].blamed == "a"
    assert engine.store.obstacles(run, "a").tasks[0].cause == "exit"


def test_why_it_is_not_unpacked(engine: Engine) -> None:
    run = start(engine.store, workflow("wide", *(node(f"s{n}") for n in range(1500))))
    facts = engine.store.obstacles(run)
    assert facts.unpacked < facts.total == 1500
    complete_all(engine.store)
    assert engine.store.obstacles(run).state is RunState.COMPLETED
