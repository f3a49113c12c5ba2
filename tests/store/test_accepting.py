"""Submitting: once whatever is repeated, all or nothing, and as a batch in parts."""

from __future__ import annotations

import msgspec
import pytest
from driving import (
    ALICE,
    WORK,
    accept,
    complete_all,
    drain,
    ended,
    finish,
    of,
    outcome,
    shape,
    single,
    start,
    steps,
    take,
)
from engines import Engine
from graphs import node, workflow

from kubemin.errors import Invalid, NotFound
from kubemin.model.graph import Concurrency
from kubemin.model.ids import made_at, run_id, run_ids
from kubemin.model.records import Accepted, Owner, Rejection, Submission
from kubemin.model.states import RunState
from kubemin.store.base import RunFilter

PAIR = workflow("pair", node("first"), node("second", 0))


def test_a_single_task_is_a_run_of_its_own(engine: Engine) -> None:
    run = accept(engine.store, single())[0]
    assert engine.store.states([run]) == {run: RunState.WAITING}
    claim = take(engine.store)[0]
    assert (claim.run, claim.idx, claim.step, claim.attempt, claim.quiet) == (run, 0, "reports.load:run", 1, True)
    assert msgspec.json.decode(claim.work) == WORK
    assert engine.store.states([run]) == {run: RunState.RUNNING}
    finish(engine.store, outcome(claim, output={"rows": 3}, stdout="hello"))
    view = engine.store.run(run)
    assert (view.status, view.workflow, view.tasks[0].output) == (RunState.COMPLETED, "reports.load:run", {"rows": 3})
    assert (view.tasks[0].stdout_tail, view.tasks[0].attempt, view.tasks[0].worker) == ("hello", 1, ALICE.slot)
    assert engine.store.outputs([run]) == {run: {"reports.load:run": {"rows": 3}}}


def test_a_repeat_by_id_is_the_same_run(engine: Engine) -> None:
    alone, whole = single(), of(PAIR)
    engine.store.define([PAIR])
    assert engine.store.submit([alone, alone, whole, whole]) == [
        Accepted(alone.id, True), Accepted(alone.id, False), Accepted(whole.id, True), Accepted(whole.id, False),
    ]  # fmt: skip
    assert engine.store.submit([whole, alone]) == [Accepted(whole.id, False), Accepted(alone.id, False)]
    other = single()
    assert [engine.store.submit([each]) for each in (alone, other, other)] == [
        [Accepted(alone.id, False)], [Accepted(other.id, True)], [Accepted(other.id, False)],
    ]  # fmt: skip
    assert len(take(engine.store)) == 3


def test_a_repeat_of_a_finished_task_changes_nothing(engine: Engine) -> None:
    again = single()
    accept(engine.store, again)
    finish(engine.store, outcome(take(engine.store)[0], output=1))
    assert engine.store.submit([single(), again])[1] == Accepted(again.id, False)
    assert engine.store.submit([again]) == [Accepted(again.id, False)]
    assert engine.store.outputs([again.id]) == {again.id: {"reports.load:run": 1}}


@pytest.mark.parametrize("kind", ["single", "workflow"])
def test_the_same_key_a_thousand_times_is_one_run(engine: Engine, kind: str) -> None:
    engine.store.define([PAIR])
    many = [single(key="k") if kind == "single" else of(PAIR, key="k") for _ in range(1000)]
    answers = engine.store.submit(many)
    assert answers[0] == Accepted(many[0].id, True)
    assert set(answers[1:]) == {Accepted(many[0].id, False)}
    assert engine.reopen().submit([many[-1]]) == [Accepted(many[0].id, False)]
    assert engine.store.run(many[0].id).key == "k"


def test_a_key_with_something_else_is_refused(engine: Engine) -> None:
    params = workflow("params", node("a"), params={"day": {"default": "mon"}})
    engine.store.define([PAIR, params])
    first = accept(engine.store, of(params, key="k", params={"day": "tue"}))[0]
    conflicts = [of(params, key="k"), of(PAIR, key="k"), single(key="k")]
    for answer in engine.store.submit(conflicts):
        assert isinstance(answer, Rejection) and (answer.code, answer.exit_code) == ("key_conflict", 5)
        assert first in answer.message
    assert engine.store.submit([of(params, key="k", params={"day": "tue"})]) == [Accepted(first, False)]
    other = accept(engine.store, single(key="other"))[0]
    assert engine.store.submit([single(key="other")]) == [Accepted(other, False)]
    assert isinstance(engine.store.submit([single(key="other", work={"python": "a:b"})])[0], Rejection)


def test_one_bad_submission_leaves_its_neighbours(engine: Engine) -> None:
    good = single()
    bad = [
        single(id="../../etc/passwd"),
        single(work={"nothing": 1}),
        single(retry={"limit": "many"}),
        Submission(run_id(), workflow="nowhere"),
        Submission(run_id(), workflow="pair", definition="f" * 64),
    ]
    answers = engine.store.submit([*bad, good])
    assert answers[-1] == Accepted(good.id, True)
    assert [answer.exit_code for answer in answers[:-1] if isinstance(answer, Rejection)] == [2, 2, 2, 4, 4]
    assert len(engine.store.states([each.id for each in [*bad, good]])) == 1


def test_parameters_have_defaults_and_are_checked(engine: Engine) -> None:
    asked = workflow("asked", node("a"), params={"day": {"default": "mon", "pattern": "[a-z]+"}, "needed": {}})
    engine.store.define([asked])
    answers = engine.store.submit(
        [of(asked), of(asked, params={"needed": 1, "day": "MON"}), of(asked, params={"needed": 1, "more": 2})]
    )
    assert [answer.exit_code for answer in answers if isinstance(answer, Rejection)] == [2, 2, 2]
    run = accept(engine.store, of(asked, params={"needed": 1}))[0]
    assert engine.store.run(run).params == {"day": "mon", "needed": 1}


def test_a_large_work_is_kept_and_handed_out_whole(engine: Engine) -> None:
    work = {"python": "a:b", "args": ["x" * 500_000]}
    run = accept(engine.store, single(work=work, key="large"))[0]
    assert accept(engine.store, single(work=work, key="large")) == [run]
    engine.reopen()
    claim = take(engine.store)[0]
    assert msgspec.json.decode(claim.work) == work
    finish(engine.store, outcome(claim, output=1))
    assert engine.store.outputs([run]) == {run: {"a:b": 1}}
    assert engine.store.run(run).workflow == "a:b"


def test_a_command_can_be_a_single_task(engine: Engine) -> None:
    run = accept(engine.store, single(workflow="on-failure", work={"run": ["/bin/page", "me"]}))[0]
    claim = take(engine.store)[0]
    assert (claim.workflow, engine.store.run(run).workflow) == ("on-failure", "on-failure")


# --- delays ---


def test_delayed_runs_start_when_they_are_due(engine: Engine) -> None:
    engine.store.define([PAIR])
    at = engine.clock.now + 60_000_000
    alone, whole = accept(engine.store, single(start_at=at), of(PAIR, start_at=at))
    assert take(engine.store) == [] and engine.store.promote() == 0
    assert engine.store.next_due() == at
    assert set(engine.store.states([alone, whole]).values()) == {RunState.WAITING}
    engine.reopen()
    engine.clock.forward(60)
    assert engine.store.promote() == 2
    assert engine.store.next_due() is None
    assert steps(take(engine.store)) == ["first", "reports.load:run"]


def test_a_start_in_the_past_is_now(engine: Engine) -> None:
    accept(engine.store, single(start_at=engine.clock.now - 1))
    assert len(take(engine.store)) == 1


# --- large graphs and batches ---


def test_a_large_graph_is_unpacked_in_slices_and_nothing_of_it_starts_before(engine: Engine) -> None:
    wide = workflow("wide", *(node(f"s{n}") for n in range(2500)))
    run = start(engine.store, wide)
    assert engine.store.states([run]) == {run: RunState.WAITING}
    assert take(engine.store) == []
    engine.store.advance()
    engine.reopen()
    assert take(engine.store) == []
    assert len(complete_all(engine.store)) == 2500
    assert ended(engine.store, run) == ("completed", None)
    engine.check()


def test_a_large_graph_can_be_cancelled_while_it_is_unpacked(engine: Engine) -> None:
    run = start(engine.store, workflow("wide", *(node(f"s{n}") for n in range(2500))))
    engine.store.advance()
    assert engine.store.cancel(run)
    assert complete_all(engine.store) == []
    assert ended(engine.store, run) == ("cancelled", "cancelled")
    assert {state for state, _ in shape(engine.store, run).values()} == {"cancelled"}


def parts(count: int, size: int) -> tuple[list[str], list[bytes]]:
    ids = list(run_ids(count))
    encoded = [msgspec.json.encode([single(id=run) for run in ids[at : at + size]]) for at in range(0, count, size)]
    return ids, encoded


def test_a_batch_in_parts_is_one_commit(engine: Engine) -> None:
    ids, bodies = parts(25, 10)
    for body in bodies:
        engine.store.stage("b", body)
    drain(engine.store)
    assert engine.store.states(ids) == {} and take(engine.store) == []
    assert engine.store.seal("b") == 25
    assert engine.store.states(ids) == dict.fromkeys(ids, RunState.WAITING)
    assert engine.reader().states(ids) == dict.fromkeys(ids, RunState.WAITING)
    assert engine.store.run(ids[7]).workflow == "reports.load:run"
    engine.reopen()
    assert engine.store.seal("b") == 25
    drain(engine.store)
    assert engine.store.seal("b") == 25
    drain(engine.store)
    assert [claim.run for claim in take(engine.store)] == ids


def test_a_sealed_batch_is_unpacked_once_whenever_the_process_dies(engine: Engine) -> None:
    ids, bodies = parts(25, 10)
    for body in bodies:
        engine.store.stage("b", body)
    engine.store.seal("b")
    if engine.transactional:
        with pytest.raises(ZeroDivisionError), engine.store.group():
            engine.store.advance(10)
            raise ZeroDivisionError
    engine.store.advance(10)
    engine.reopen()
    more = [engine.store.advance(10) for _ in range(10)]
    assert more[-1] is False, "it is unpacked again and again"
    assert sorted(claim.run for claim in take(engine.store)) == ids


def test_a_batch_may_hold_runs_of_workflows(engine: Engine) -> None:
    held = workflow("held", node("a"), concurrency=Concurrency("k", "reject"))
    engine.store.define([PAIR, held])
    batch = [of(PAIR), single(), of(held), of(held)]
    engine.store.stage("b", msgspec.json.encode(batch))
    engine.store.seal("b")
    assert sorted(complete_all(engine.store)) == ["a", "a", "first", "reports.load:run", "second"]
    assert set(engine.store.states([each.id for each in batch]).values()) == {RunState.COMPLETED}


def test_staged_runs_are_listed_among_the_others(engine: Engine) -> None:
    """The latest first, each once, whether its part is unpacked or not."""
    before = single()
    engine.store.submit([before])
    ids, bodies = parts(5, 3)
    for body in bodies:
        engine.store.stage("b", body)
    reader = engine.reader()
    assert [view.id for view in reader.runs(RunFilter())] == [before.id], "not sealed: not accepted"
    engine.store.seal("b")
    newest = sorted([before.id, *ids], reverse=True)  # ids of one millisecond have no order
    assert [view.id for view in reader.runs(RunFilter())] == newest
    assert [view.id for view in reader.runs(RunFilter(limit=3))] == newest[:3]
    assert [view.id for view in reader.runs(RunFilter(status=RunState.WAITING, workflow="reports.load:run"))] == newest
    assert not reader.runs(RunFilter(status=RunState.COMPLETED)) and not reader.runs(RunFilter(key="k"))
    moment = made_at(ids[0])
    assert not {view.id for view in reader.runs(RunFilter(until=moment - 1_000_000))}.intersection(ids)
    assert {view.id for view in reader.runs(RunFilter(since=moment - 1_000_000))}.issuperset(ids)
    engine.store.advance(1)  # one part at least
    assert [view.id for view in reader.runs(RunFilter())] == newest
    drain(engine.store)
    assert [view.id for view in reader.runs(RunFilter())] == newest


def test_a_staged_run_can_be_cancelled(engine: Engine) -> None:
    ids, bodies = parts(5, 5)
    engine.store.stage("b", bodies[0])
    with pytest.raises(NotFound):
        engine.store.cancel(ids[0])
    engine.store.seal("b")
    assert engine.store.cancel(ids[2])
    drain(engine.store)
    assert [claim.run for claim in take(engine.store)] == [run for run in ids if run != ids[2]]


@pytest.mark.parametrize(
    "body",
    [
        b"[{]",
        b'[{"id": 5}]',
        msgspec.json.encode([single(id="x")]),
        msgspec.json.encode([single(key="k")]),
        msgspec.json.encode([single(work={"odd": 1})]),
    ],
    ids=["syntax", "types", "id", "key", "work"],
)
def test_a_part_that_could_not_be_accepted_later_is_refused_now(engine: Engine, body: bytes) -> None:
    with pytest.raises(Invalid):
        engine.store.stage("b", body)
    with pytest.raises(NotFound):
        engine.store.seal("b")


def test_a_part_that_names_an_unknown_workflow_is_refused_now(engine: Engine) -> None:
    with pytest.raises(NotFound):
        engine.store.stage("b", msgspec.json.encode([of(PAIR)]))


# --- groups of calls ---


def test_a_refusal_inside_a_group_leaves_the_others(engine: Engine) -> None:
    with engine.store.group():
        run = accept(engine.store, single())[0]
        with pytest.raises(NotFound):
            engine.store.cancel(run_id())
        other = accept(engine.store, single())[0]
    assert set(engine.reopen().states([run, other])) == {run, other}


def test_a_group_that_fails_is_undone_as_a_whole(engine: Engine) -> None:
    if not engine.transactional:
        pytest.skip("each call is a commit of its own")
    engine.store.define([PAIR])
    kept = accept(engine.store, of(PAIR))[0]
    engine.store.changes()
    with pytest.raises(ZeroDivisionError), engine.store.group():
        lost = accept(engine.store, single(), of(PAIR))
        claims = take(engine.store)
        assert len(claims) == 3
        raise ZeroDivisionError
    assert engine.store.changes() == []
    assert engine.store.states([kept, *lost]) == {kept: RunState.WAITING}
    assert engine.store.running() == []
    again = take(engine.store)
    assert steps(again) == ["first"]
    assert again[0].token > max(claim.token for claim in claims)
    engine.check()


def test_tokens_are_never_handed_out_twice(engine: Engine) -> None:
    engine.store.define([PAIR])
    accept(engine.store, of(PAIR))
    seen = [0]
    for life in range(20):
        claim = take(engine.store, owner=Owner("test", 0, life))[0]
        assert claim.token > seen[-1]
        seen.append(claim.token)
        engine.reopen()
        assert engine.store.recover([], {}) == 1, life
