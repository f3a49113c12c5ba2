"""Schedules, publishing, pruning."""

from __future__ import annotations

import msgspec
import pytest
from driving import ALICE, accept, complete_all, drain, finish, of, outcome, single, start, take
from engines import Engine
from graphs import node, workflow

from kubemin.clock import SECOND, rfc3339
from kubemin.errors import NotFound
from kubemin.leader.schedule import SLOTS_A_CALL, Scheduler
from kubemin.model.graph import Concurrency, Schedule
from kubemin.model.ids import run_id
from kubemin.model.records import Accepted, Rejection, Submission
from kubemin.store.base import Retention, RunFilter

NIGHTLY = workflow("nightly", node("a"), schedule=Schedule("0 3 * * *", "Europe/Berlin"))
PLAIN = workflow("plain", node("a"))
GIVEN = workflow("given", node("a"), params={"day": {"default": "tue"}})
NOTHING_KEPT = Retention(days=0, runs=0, minimum=0)
HOUR, DAY = 3_600, 86_400


# --- publishing ---


def test_publishing_tells_what_changed(engine: Engine) -> None:
    assert engine.store.publish([NIGHTLY, PLAIN]) == {"added": ["nightly", "plain"], "changed": [], "removed": []}
    assert engine.store.publish([NIGHTLY, PLAIN]) == {"added": [], "changed": [], "removed": []}
    changed = workflow("plain", node("b"))
    assert engine.store.publish([changed]) == {"added": [], "changed": ["plain"], "removed": ["nightly"]}
    engine.reopen()
    assert [view.name for view in engine.store.workflows()] == ["plain"]
    assert engine.store.definition("plain") == changed
    assert engine.store.definition("nightly") is None
    assert engine.store.definition(NIGHTLY.hash) == NIGHTLY
    (answer,) = engine.store.submit([Submission(run_id(), workflow="nightly")])
    assert isinstance(answer, Rejection) and answer.exit_code == 4


def test_a_run_keeps_the_definition_it_started_with(engine: Engine) -> None:
    engine.store.publish([PLAIN])
    engine.store.submit([Submission(run_id(), workflow="plain")])
    engine.store.publish([workflow("plain", node("other"))])
    engine.reopen()
    assert complete_all(engine.store) == ["a"]


def test_a_workflow_view_names_its_next_slot(engine: Engine) -> None:
    engine.store.publish([NIGHTLY, PLAIN])
    nightly, plain = engine.store.workflows()
    assert (nightly.schedule, nightly.timezone, nightly.steps, nightly.last_at) == (
        "0 3 * * *",
        "Europe/Berlin",
        1,
        None,
    )
    assert nightly.next_at is not None
    assert (plain.schedule, plain.next_at) == (None, None)


# --- schedules ---


def test_a_slot_fires_once(engine: Engine) -> None:
    engine.store.publish([NIGHTLY, PLAIN])
    published = engine.clock.now
    assert engine.store.schedule_marks() == {"nightly": (NIGHTLY, published)}
    slot = published + DAY * SECOND
    submission = Submission(run_id(), workflow="nightly", scheduled_at=slot)
    assert engine.store.fire("nightly", slot, submission) is True
    again = Submission(run_id(), workflow="nightly", scheduled_at=slot)
    assert engine.store.fire("nightly", slot, again) is False
    engine.reopen()
    assert engine.store.fire("nightly", slot, again) is False
    assert engine.store.fire("nightly", slot - 1, again) is False
    assert engine.store.schedule_marks() == {"nightly": (NIGHTLY, slot)}
    assert [view.id for view in engine.store.runs(RunFilter())] == [submission.id]
    assert engine.store.fire("nightly", slot + 1, None) is True
    assert engine.store.fire("nightly", slot + 1, again) is False
    assert engine.store.fire("nowhere", slot, again) is False


@pytest.mark.parametrize("missed", [1, SLOTS_A_CALL - 1, SLOTS_A_CALL, SLOTS_A_CALL + 1, 2 * SLOTS_A_CALL])
def test_of_a_gap_of_any_length_the_latest_slot_runs_once(engine: Engine, missed: int) -> None:
    engine.store.publish([workflow("hourly", node("a"), schedule=Schedule("0 * * * *", missed="once"))])
    scheduler = Scheduler(engine.store)
    first = scheduler.next_due()
    assert first is not None
    latest = first + (missed - 1) * HOUR * SECOND
    engine.clock.forward((latest - engine.clock.now) / SECOND + HOUR / 2)
    while (due := scheduler.next_due()) is not None and due <= engine.clock.now:
        scheduler.fire_due(engine.clock.now)
    assert [view.scheduled_at for view in engine.store.runs(RunFilter())] == [rfc3339(latest)]


def test_a_schedule_that_changed_starts_from_now(engine: Engine) -> None:
    engine.store.publish([NIGHTLY])
    began = engine.clock.now
    engine.clock.forward(100)
    engine.store.publish([workflow("nightly", node("b"), schedule=NIGHTLY.graph.schedule)])
    assert engine.store.schedule_marks()["nightly"][1] == began
    engine.store.publish([workflow("nightly", node("b"), schedule=Schedule("0 4 * * *"))])
    assert engine.store.schedule_marks()["nightly"][1] == engine.clock.now


def test_a_slot_whose_run_is_rejected_is_told_and_not_tried_again(engine: Engine) -> None:
    rule = Concurrency("k", "reject")
    busy = workflow("busy", node("a"), schedule=Schedule("* * * * *"), concurrency=rule)
    engine.store.publish([busy])
    first, second = (Submission(run_id(), workflow="busy") for _ in range(2))
    assert engine.store.fire("busy", engine.clock.now + 60 * SECOND, first)
    engine.store.changes()
    assert engine.store.fire("busy", engine.clock.now + 120 * SECOND, second)
    (told,) = engine.store.changes()
    assert (told.event, told.workflow, told.cause) == ("skipped", "busy", "concurrency")
    assert list(engine.store.states([first.id, second.id])) == [first.id]


# --- pruning ---


def done(engine: Engine, count: int, **more: object) -> list[str]:
    runs = accept(engine.store, *(single(**more) for _ in range(count)))
    while claims := take(engine.store):
        finish(engine.store, *(outcome(claim, stdout="x") for claim in claims))
    return runs


def test_old_runs_go_and_young_and_live_ones_stay(engine: Engine) -> None:
    old = [start(engine.store, PLAIN), *done(engine, 3)]
    complete_all(engine.store)
    engine.clock.forward(8 * DAY)
    alive = accept(engine.store, single())
    young = start(engine.store, PLAIN)
    assert engine.store.prune(Retention(days=7, runs=100, minimum=3600)) == 4
    assert engine.store.prune(Retention(days=7, runs=100, minimum=3600)) == 0
    drain(engine.store)
    assert set(engine.store.states([*old, *alive, young])) == {*alive, young}
    assert engine.leftovers(old) == 0
    assert len(take(engine.store)) == 2


def test_the_oldest_go_when_there_are_too_many_but_none_within_the_minimum(engine: Engine) -> None:
    runs = []
    for _ in range(6):
        runs += done(engine, 1)
        engine.clock.forward(10)
    keep = Retention(days=7, runs=2, minimum=25)
    assert engine.store.prune(keep, 3) == 3
    assert engine.store.prune(keep, 3) == 1
    assert engine.store.prune(keep, 3) == 0
    assert set(engine.store.states(runs)) == set(runs[4:])
    assert engine.store.prune(Retention(days=0, runs=0, minimum=25), 3) == 0
    engine.clock.forward(100)
    engine.store.prune(Retention(days=7, runs=3, minimum=3600))
    assert set(engine.store.states(runs)) == set(runs[4:])


def test_a_key_is_forgotten_with_its_run_only(engine: Engine) -> None:
    first = done(engine, 1, key="k")[0]
    assert engine.store.submit([single(key="k")]) == [Accepted(first, False)]
    assert engine.store.prune(NOTHING_KEPT) == 1
    fresh = single(key="k")
    assert engine.store.submit([fresh]) == [Accepted(fresh.id, True)]
    engine.store.define([PLAIN])
    graph = accept(engine.store, of(PLAIN, key="g"))[0]
    complete_all(engine.store)
    assert accept(engine.store, of(PLAIN, key="g")) == [graph]
    engine.store.prune(NOTHING_KEPT)
    assert accept(engine.store, of(PLAIN, key="g")) != [graph]


def test_nothing_is_left_of_a_run_that_was_dropped(engine: Engine) -> None:
    """Neither of one with parameters, output and tails, nor of a single task whose work has a place of its own."""
    engine.store.define([GIVEN])
    large = single(work={"python": "m:f", "args": ["x" * 10_000]}, key="large")
    runs = accept(engine.store, of(GIVEN, params={"day": "mon"}, key="graph"), large)
    for claim in take(engine.store):
        finish(engine.store, outcome(claim, output=[1], stdout="out", stderr="err"))
    assert all(engine.leftovers([run]) > 2 for run in runs)
    assert engine.store.prune(NOTHING_KEPT) == 2
    drain(engine.store)
    assert engine.leftovers(runs) == 0


def test_a_large_run_is_dropped_in_pieces(engine: Engine) -> None:
    run = start(engine.store, workflow("w", *(node(f"s{n}") for n in range(2500))))
    complete_all(engine.store)
    assert engine.store.prune(NOTHING_KEPT) == 1
    assert engine.store.states([run]) == {}
    assert (engine.leftovers([run]) > 0) is engine.drops_in_pieces
    engine.reopen()
    drain(engine.store)
    assert engine.leftovers([run]) == 0


def test_definitions_that_nothing_refers_to_are_dropped(engine: Engine) -> None:
    other = workflow("other", node("a"))
    engine.store.publish([NIGHTLY])
    run = start(engine.store, other)
    engine.store.define([PLAIN])
    engine.store.prune(Retention(minimum=3600))
    assert engine.store.definition(PLAIN.hash) is not None
    engine.clock.forward(3601)
    engine.store.prune(Retention(minimum=3600))
    assert engine.store.definition(PLAIN.hash) is None
    assert isinstance(engine.store.submit([of(PLAIN)])[0], Rejection)
    assert engine.store.definition(other.hash) is not None and engine.store.definition("nightly") is not None
    complete_all(engine.store)
    engine.clock.forward(8 * DAY)
    engine.store.prune(Retention())
    engine.store.prune(Retention())
    assert engine.store.definition(other.hash) is None and engine.store.states([run]) == {}
    assert isinstance(engine.store.submit([of(other)])[0], Rejection), "it is remembered, and kept nowhere"


def test_owners_and_batches_are_forgotten_in_time(engine: Engine) -> None:
    done(engine, 1)
    engine.store.lose(ALICE, None)
    body = msgspec.json.encode([single()])
    engine.store.stage("never-sealed", body)
    engine.store.stage("sealed", body)
    engine.store.seal("sealed")
    drain(engine.store)
    engine.clock.forward(3601)
    engine.store.prune(Retention())
    assert engine.store.seal("sealed") == 1, "a late repeat is still known as one"
    engine.clock.forward(30 * DAY)
    engine.store.prune(Retention())
    for batch in (
        ("sealed", "never-sealed") if engine.transactional else ("sealed",)
    ):  # parts expire by Redis' own clock
        with pytest.raises(NotFound):
            engine.store.seal(batch)
    engine.check()
    assert engine.store.advance() is False
