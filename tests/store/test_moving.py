"""Runs that move from SQLite into Redis in the middle of their lives: what arrives, and that it arrives once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from both import Both
from driving import ALICE, accept, drain, ended, finish, of, outcome, run_one, single, start, steps, take
from graphs import node, workflow

from kubemin.clock import SECOND
from kubemin.errors import NotFound, Refused, Unreachable
from kubemin.model.graph import Concurrency, Retry
from kubemin.model.records import Accepted, Claim, Definition, Outcome, Owner
from kubemin.model.states import Cause, TaskState, When
from kubemin.store.base import Blame, Retention, Store
from kubemin.store.parcel import Parcel
from kubemin.store.redis import keys
from kubemin.store.sqlite.moving import Moving


@pytest.fixture
def both(folder: Path) -> Iterator[Both]:
    made = Both(folder)
    yield made
    made.close()


def work_off(store: Store, owner: Owner = ALICE) -> list[str]:
    """Complete all that is ready, and what follows; the steps in order."""
    done = []
    while claims := take(store, 1, owner):
        finish(store, *(outcome(claim) for claim in claims), owner=owner)
        done += [claim.step for claim in claims]
        drain(store)
    return done


# --- what arrives ----------------------------------------------------------------------------------------------------


def test_a_run_in_the_middle_of_its_graph_goes_on_where_it_was(both: Both) -> None:
    graph = workflow("chain", node("a"), node("b", 0), node("c", 1), node("d", 0), node("e", 2, 3))
    run = start(both.store, graph, key="once", params={})
    run_one(both.store, "a", output={"rows": 7})
    claim = run_one(both.store, "b", output=[1])
    before = both.store.run(run)
    both.move()
    view = both.store.run(run)
    shown = [(t.step, t.attempt, t.token, t.output, t.started_at, t.finished_at, t.node) for t in view.tasks]
    assert shown == [(t.step, t.attempt, t.token, t.output, t.started_at, t.finished_at, t.node) for t in before.tasks]
    assert (view.started_at, view.submitted_at, view.key) == (before.started_at, before.submitted_at, "once")
    assert both.fleet.store.submit([of(graph, key="once")]) == [Accepted(run, False)]
    claims = take(both.store)
    assert steps(claims) == ["c", "d"] and min(each.token for each in claims) > claim.token
    finish(both.store, *(outcome(each) for each in claims))
    assert work_off(both.store) == ["e"] and ended(both.store, run) == ("completed", None)


def test_outputs_and_tails_are_there(both: Both) -> None:
    run = start(both.store, workflow("w", node("a"), node("b", 0)))
    claim = take(both.store)[0]
    finish(both.store, outcome(claim, output="x" * 1000, stdout="said", stderr="warned"))
    both.move()
    task = both.store.run(run).tasks[0]
    assert (task.output, task.stdout_tail, task.stderr_tail) == ("x" * 1000, "said", "warned")
    assert both.store.outputs([run]) == {run: {"a": "x" * 1000}}


def test_attempts_and_the_retrys_due_time(both: Both) -> None:
    retry = Retry(2, delay=100.0)
    run = start(both.store, workflow("w", node("a", retry=retry), node("b", 0)))
    run_one(both.store, "a", TaskState.FAILED, Cause.EXIT)
    both.move()
    assert take(both.store) == []
    both.clock.forward(90)
    assert both.store.promote() == 0
    both.clock.forward(30)
    assert both.store.promote() == 1
    assert [claim.attempt for claim in take(both.store)] == [2]
    assert both.store.run(run).tasks[0].attempt == 2


def test_instants_to_come_are_of_the_fleets_clock(both: Both) -> None:
    start(both.store, workflow("w", node("a", retry=Retry(1, delay=100.0)), timeout=500.0))
    run_one(both.store, "a", TaskState.FAILED, Cause.EXIT)
    both.fleet.clock.now = both.local.clock.now + 3600 * SECOND
    both.move(keep_clocks=True)
    due = both.store.next_due()
    assert due is not None and 99 * SECOND < due - both.fleet.clock.now < 111 * SECOND


def test_crashes_go_on_being_counted(both: Both) -> None:
    run = start(both.store, workflow("w", node("a"), node("b", 0)))
    for incarnation in (1, 2):
        owner = Owner("test", 0, incarnation)
        claim = take(both.store, 1, owner)[0]
        both.store.lose(owner, Blame(claim.run, claim.idx, claim.token))
    both.move()
    owner = Owner("test", 0, 3)
    claim = take(both.store, 1, owner)[0]
    both.store.lose(owner, Blame(claim.run, claim.idx, claim.token))
    assert ended(both.store, run) == ("failed", "crash")


def test_a_deadline_counts_from_the_first_start(both: Both) -> None:
    run = start(both.store, workflow("w", node("a"), node("b", 0), timeout=60.0))
    run_one(both.store, "a")
    both.clock.forward(40)
    both.move()
    claim = take(both.store)[0]
    both.clock.forward(15)
    assert both.store.expire() == 0
    both.clock.forward(10)
    assert both.store.expire() == 1 and [stop.token for stop in both.store.stops()] == [claim.token]
    finish(both.store, outcome(claim, TaskState.CANCELLED))
    assert ended(both.store, run) == ("timeout", "run-timeout")


def test_a_fan_out_goes_on_with_the_children_made_so_far(both: Both) -> None:
    items = list(range(150))
    graph = workflow("w", node("load", items=items, max_parallel=70), node("sum", 0))
    run = start(both.store, graph)
    for _ in range(20):
        finish(both.store, outcome(take(both.store, 1)[0], output=1))
    before = {task.step for task in both.store.run(run).tasks}
    both.move()
    assert {task.step for task in both.store.run(run).tasks} == before
    assert both.store.queues()[0].length == 130
    done = work_off(both.store)
    assert sorted(done[:-1]) == sorted(f"load[{n}]" for n in range(150) if f"load[{n}]" in done) and done[-1] == "sum"
    assert len(done) == 131 and ended(both.store, run) == ("completed", None)
    assert both.store.queues() == []


def test_tokens_rise_where_a_fan_out_is_made_anew(both: Both) -> None:
    """Its items are other rows then, of the same steps."""
    graph = workflow("w", node("list"), node("each", 0, items="${{ steps.list.output }}", refs=(0,)))
    run = start(both.store, graph)
    run_one(both.store, "list", output=[1, 2])
    before = {claim.step: claim.token for claim in take(both.store)}
    for owner, name, idx, token in both.store.running():
        both.store.finish(owner, [Outcome(name, idx, token, TaskState.FAILED, Cause.EXIT)])
    assert both.store.retry(run, "list") == 2
    both.move()
    run_one(both.store, "list", output=[1, 2, 3])
    drain(both.store)
    after = {claim.step: claim.token for claim in take(both.store)}
    assert len(after) == 3 and all(after[step] > token for step, token in before.items())


def test_a_failure_before_the_move_is_still_one_after_it(both: Both) -> None:
    graph = workflow(
        "w", node("a"), node("b", 0), node("c"), node("d", 2), node("alert", 1, 3, when=When.FAILURE), node("no", 1)
    )
    run = start(both.store, graph)
    run_one(both.store, "a", TaskState.FAILED, Cause.EXIT)
    both.move()
    assert work_off(both.store) == ["c", "d", "alert"]
    assert ended(both.store, run) == ("failed", "exit")


def test_a_run_that_is_being_stopped_does_its_always_steps(both: Both) -> None:
    graph = workflow("w", node("a"), node("b", 0), node("tidy", 1, when=When.ALWAYS), node("last", 2, when=When.ALWAYS))
    run = start(both.store, graph)
    run_one(both.store, "a")
    both.store.cancel(run)
    both.move()
    assert work_off(both.store) == ["tidy", "last"]
    assert ended(both.store, run) == ("cancelled", "cancelled")


def test_a_later_round_keeps_what_completed(both: Both) -> None:
    graph = workflow("w", node("a"), node("b", 0), node("c", 0), node("d", 1, 2))
    run = start(both.store, graph)
    run_one(both.store, "a")
    run_one(both.store, "b", TaskState.FAILED, Cause.EXIT)
    run_one(both.store, "c")
    assert both.store.retry(run) == 2
    both.move()
    assert both.store.run(run).round == 2
    assert work_off(both.store) == ["b", "d"] and ended(both.store, run) == ("completed", None)


def test_single_tasks_with_all_they_have(both: Both) -> None:
    store = both.store
    plain, keyed, labelled, tried, late = accept(
        store, single(), single(key="k"), single(workflow="named", timeout=3.0, queue="other"),
        single(retry={"limit": 2, "delay": 50.0}, queue="tried"), single(start_at=both.clock.now + 60 * SECOND),
    )  # fmt: skip
    finish(store, outcome(take(store, 1, queues=("tried",))[0], TaskState.FAILED, Cause.EXCEPTION, stderr="oh"))
    first = take(store, 1, queues=("other",))[0]
    store.give_back(ALICE, [(first.run, first.idx, first.token)])
    both.move()
    store = both.store
    assert store.states([plain, tried, late]) == {plain: "waiting", tried: "running", late: "waiting"}
    assert store.run(tried).tasks[0].stderr_tail == "oh" and store.run(keyed).key == "k"
    claims = {claim.run: claim for claim in take(store, 10, queues=("default", "other", "tried"))}
    assert set(claims) == {plain, keyed, labelled}
    assert (claims[labelled].step, claims[labelled].timeout) == ("named", 3.0)
    assert claims[labelled].token > first.token
    both.clock.forward(61)
    assert store.promote() == 2
    assert {(claim.run, claim.attempt) for claim in take(store, 10, queues=("default", "tried"))} == {
        (tried, 2), (late, 1),
    }  # fmt: skip


def test_a_delayed_run_waits_for_its_time(both: Both) -> None:
    run = start(both.store, workflow("w", node("a")), start_at=both.clock.now + 60 * SECOND)
    both.move()
    assert take(both.store) == [] and both.store.states([run]) == {run: "waiting"}
    both.clock.forward(61)
    assert both.store.promote() == 1 and steps(take(both.store)) == ["a"]


# --- concurrency keys ------------------------------------------------------------------------------------------------


def one_at_a_time(policy: str = "queue") -> Definition:
    return workflow("w", node("a"), node("b", 0), concurrency=Concurrency("one", policy))


def test_a_concurrency_key_that_is_held_stays_held(both: Both) -> None:
    first = start(both.store, one_at_a_time())
    second = start(both.store, one_at_a_time())
    run_one(both.store, "a")
    both.move()
    third = start(both.store, one_at_a_time())
    assert work_off(both.store) == ["b", "a", "b", "a", "b"]
    finished = [both.store.run(run).finished_at or "" for run in (first, second, third)]
    assert finished == sorted(finished)


def test_who_waits_for_a_key_does_not_pass_its_holder(both: Both) -> None:
    first = start(both.store, one_at_a_time())
    second = start(both.store, one_at_a_time())
    claim = take(both.store)[0]
    assert not both.carriage().step()  # a task of the holder runs: both stay
    assert set(both.local.store.states([first, second])) == {first, second}
    finish(both.store, outcome(claim))
    both.move()
    assert [claim.run for claim in take(both.store)] == [first]


def test_a_run_waits_where_the_fleet_has_another_holder_of_its_key(both: Both) -> None:
    theirs = start(both.fleet.store, one_at_a_time())
    ours = start(both.store, one_at_a_time())
    run_one(both.store, "a")
    both.move()
    claims = take(both.store)
    assert [claim.run for claim in claims] == [theirs]
    finish(both.store, *map(outcome, claims))
    assert [claim.run for claim in take(both.store, 1)] == [theirs]
    finish(both.store, outcome(both_claim(both, theirs)))
    assert work_off(both.store) == ["b"] and ended(both.store, ours) == ("completed", None)


def both_claim(both: Both, run: str) -> Claim:
    _, name, idx, token = next(held for held in both.store.running() if held[1] == run)
    return Claim(name, idx, "", "", token, 1, 1.0, msgspec.Raw(b"null"))


def test_of_two_that_replace_the_younger_stays(both: Both) -> None:
    ours = start(both.store, one_at_a_time("replace"))
    run_one(both.store, "a")
    theirs = start(both.fleet.store, one_at_a_time("replace"))
    both.move()
    assert ended(both.store, ours) == ("cancelled", "replaced")
    assert work_off(both.store) == ["a", "b"] and ended(both.store, theirs) == ("completed", None)


# --- once ------------------------------------------------------------------------------------------------------------


def test_what_is_sent_twice_arrives_once(both: Both) -> None:
    run = start(both.store, workflow("w", node("a"), node("b", 0)))
    alone = accept(both.store, single())[0]
    run_one(both.store, "a")
    moving = Moving(both.local.store)
    while moving.pack(10):
        pass
    sent = moving.parcels(10)
    both.move()
    assert sorted(work_off(both.store)) == ["b", "reports.load:run"]
    for parcel in sent:
        if parcel.single:
            assert both.fleet.store.arrivals.arrive_singles([parcel], 0) == {}
        else:
            assert both.fleet.store.arrivals.arrive(parcel, 0) is None
    assert work_off(both.store) == [] and both.store.states([run, alone]) == {run: "completed", alone: "completed"}


def _die(parcels: object) -> None:
    raise SystemExit


def test_what_is_not_as_safe_as_durability_asks_stays_here(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """No replica has it, and then the server fails: it is sent again."""
    monkeypatch.setattr("kubemin.store.redis.durability.CONFIRM_SECONDS", 0.05)
    monkeypatch.setattr("kubemin.coordinator.fleet.carriage.DOUBT_SECONDS", 0.0)
    run = start(both.store, workflow("w", node("a")))
    alone = accept(both.store, single())[0]
    carriage = both.carriage("replica")
    assert not carriage.step() and carriage.moved == 0
    assert not carriage.step() and carriage.moved == 0, "asked again, and again not kept"
    assert Moving(both.local.store).left() == 2
    both.fleet.store.client.execute("FLUSHALL")
    both.move()
    assert sorted(claim.run for claim in take(both.store)) == sorted([run, alone])


@pytest.mark.parametrize("alone", [False, True])
def test_a_run_that_was_pruned_meanwhile_does_not_come_back(both: Both, alone: bool) -> None:
    """The node dies after the arrival, and comes back after a week."""
    run = accept(both.store, single())[0] if alone else start(both.store, workflow("w", node("a"), node("b", 0)))
    crashed = both.carriage()
    crashed._moving.carried = _die  # type: ignore[method-assign]
    with pytest.raises(SystemExit):
        crashed.step()
    both.now = both.fleet
    work_off(both.store)
    both.fleet.clock.forward(8 * 86_400)
    while both.store.prune(Retention()):
        pass
    assert both.store.states([run]) == {}
    both.move(keep_clocks=True)
    assert both.store.states([run]) == {} and take(both.store) == []
    assert both.fleet.store.client.execute("HLEN", keys.ARRIVED) == 0


def test_a_part_that_comes_late_changes_nothing(both: Both) -> None:
    """Left in the socket of a process that died."""
    run = start(both.store, workflow("w", node("a"), node("b", 0)))
    run_one(both.store, "a")
    moving = Moving(both.local.store)
    moving.pack(10)
    parcel = moving.parcels(10)[0]
    part = moving.part(parcel, 0)
    both.move()
    work_off(both.store)
    before = both.store.run(run)
    both.fleet.store.arrivals.unload(parcel, part, 0)
    assert both.store.run(run) == before


def test_parts_that_the_server_lost_are_sent_again(both: Both) -> None:
    """Between the last part and the arrival another server takes over, which has lost them."""
    run = start(both.store, workflow("w", node("a"), node("b", 0)))
    run_one(both.store, "a")
    carriage = both.carriage()
    arrivals, sent = both.fleet.store.arrivals, []

    def arrive(parcel: Parcel, shift: int) -> str | None:
        if not sent:
            sent.append(both.fleet.store.client.execute("DEL", keys.tasks(parcel.id)))
        return type(arrivals).arrive(arrivals, parcel, shift)

    arrivals.arrive = arrive  # type: ignore[method-assign]
    assert carriage.step() is False
    both.move()
    assert sent == [1] and work_off(both.store) == ["b"] and ended(both.store, run) == ("completed", None)


def test_nothing_happens_to_a_run_that_is_carried(both: Both) -> None:
    graph = workflow("w", node("a", retry=Retry(1, delay=1.0)), node("b", 0), timeout=10.0)
    run = start(both.store, graph, key="k")
    run_one(both.store, "a", TaskState.FAILED, Cause.EXIT)
    alone = single(key="alone")
    accept(both.store, alone)
    moving = Moving(both.local.store)
    while moving.pack(10):
        pass
    both.clock.forward(1000)
    both.local.reopen()
    store = both.store
    assert store.promote() + store.expire() + store.prune(Retention()) == 0 and take(store) == []
    assert store.states([run, alone.id]) == {run: "running", alone.id: "waiting"}
    assert store.run(run).status == "running" and store.run(alone.id).key == "alone"
    assert store.submit([of(graph, key="k"), alone]) == [Accepted(run, False), Accepted(alone.id, False)]
    with pytest.raises(Refused, match="on its way"):
        store.cancel(run)
    both.move(keep_clocks=True)
    with pytest.raises(Unreachable, match="moved into the fleet"):
        both.local.store.run(run)


def test_a_file_whose_runs_are_a_fleets_takes_no_new_ones(both: Both) -> None:
    local = both.local.store
    local.enter("carrying")
    both.local.reopen()
    with pytest.raises(Refused, match="accepted in its Redis"):
        both.local.store.submit([single()])
    both.local.store.enter("local")
    assert len(accept(both.local.store, single())) == 1


def test_a_key_that_is_anothers_in_the_fleet_is_given_up(both: Both) -> None:
    graph = workflow("w", node("a"))
    theirs = start(both.fleet.store, graph, key="k")
    taken = accept(both.fleet.store, single(key="s"))[0]
    ours = start(both.store, graph, key="k")
    alone = accept(both.store, single(key="s", timeout=5.0))[0]
    both.move()
    assert both.store.run(ours).key is None and both.store.run(theirs).key == "k"
    assert both.store.run(alone).key is None and both.store.run(taken).key == "s"
    assert len(work_off(both.store)) == 4


def test_a_wish_to_cancel_is_heard_on_arrival(both: Both) -> None:
    run = start(both.store, workflow("w", node("a"), node("b", 0)))
    run_one(both.store, "a")
    alone = accept(both.store, single())[0]
    with pytest.raises(NotFound):
        both.fleet.store.cancel(run)
    both.fleet.store.arrivals.expect([run])
    assert both.fleet.store.cancel(run) is True and both.fleet.store.cancel(run) is False
    assert both.fleet.store.arrivals.cancelled([run, alone]) == [run]
    both.fleet.store.arrivals.cancel_when_here(alone, "node-a")
    both.move()
    assert both.store.states([run, alone]) == {run: "cancelled", alone: "cancelled"}
    assert both.fleet.store.client.execute("EXISTS", keys.COMING) == 0


def test_a_run_whose_definition_is_broken_fails_where_it_is(both: Both) -> None:
    run = start(both.store, workflow("w", node("a"), node("b", 0)))
    run_one(both.store, "a")
    both.local.store._session.db.execute("UPDATE definitions SET graph = x'7b'")
    both.local.reopen()
    other = accept(both.store, single())[0]
    both.move()
    assert both.local.store.states([run]) == {run: "failed"} and both.store.states([other]) == {other: "waiting"}


# --- how much at once ------------------------------------------------------------------------------------------------


def test_a_large_run_moves_in_parts_that_hold_up_nobody(both: Both) -> None:
    graph = workflow("wide", node("a"), *(node(f"s{n}", 0) for n in range(5000)))
    run = start(both.store, graph)
    drain(both.store)
    run_one(both.store, "a")
    drain(both.store)
    for _ in range(40):
        claims = take(both.store, 64)
        finish(both.store, *(outcome(claim, output=claim.idx) for claim in claims))
    both.fleet.store.client.execute("CONFIG", "SET", "slowlog-log-slower-than", 1000)
    both.fleet.store.client.execute("SLOWLOG", "RESET")
    both.move()
    longest = both.fleet.slowest()
    print(f"the longest script took {longest} ms")
    assert longest < 250  # a few, but for what else the machine does
    view = both.store.run(run)
    assert sum(task.status is TaskState.COMPLETED for task in view.tasks) == 1 + 40 * 64
    assert both.store.queues()[0].length == 5000 - 40 * 64
