"""The Redis store under the interleavings that the engine's rules are for, on both servers, without the daemon."""

from __future__ import annotations

import os
import time
from datetime import datetime
from typing import Any

import msgspec
import pytest
from driving import ALICE, BOB, accept, ended, finish, outcome, shape, single, start, take
from graphs import define, node, workflow
from support.costs import counted
from support.redis_server import Server

from kubemin import clock
from kubemin.errors import Refused, StoreUnavailable
from kubemin.model.graph import Graph
from kubemin.model.records import Outcome, Owner
from kubemin.model.states import Cause, Kind, TaskState
from kubemin.store.base import Verdict
from kubemin.store.redis import keys
from kubemin.store.redis.node import NodeStore
from kubemin.store.redis.scripts import script
from kubemin.store.redis.session import RECORDS

ONE = workflow("one", node("a"))
WIDE = int(os.environ.get("KUBEMIN_TEST_WIDE", "10000"))


def another(server: Server, **options: Any) -> NodeStore:
    return NodeStore(server.address, instance="test", node="node-a", **options)


def locks(store: NodeStore) -> set[str]:
    return {key.decode().removeprefix(keys.LOCK) for key in store.client.execute("KEYS", keys.LOCK + "*")}


def entries(store: NodeStore, queue: str = "default") -> list[str]:
    return [entry.decode() for entry in store.client.execute("LRANGE", keys.queue(queue), 0, -1)]


# --- a request and its reply ---


def test_a_reply_that_is_lost_is_given_again_and_nothing_runs_nowhere(server: Server, store: NodeStore) -> None:
    accept(store, *(single() for _ in range(3)))
    (claim,) = take(store, 1)
    request = store._claims._request(store._claims._lives[ALICE], (outcome(claim, output=1),), ("default",), 1)
    other = another(server)
    other.client.run(store._claims._script, request.touched, *request.arguments)  # applied; its reply goes nowhere
    verdicts, claims = store.finish_and_claim(ALICE, [outcome(claim, output=1)], ["default"], 1)
    assert verdicts == [Verdict.ACCEPTED] and len(claims) == 1
    assert locks(store) == {claims[0].task} and len(entries(store)) == 1
    assert [task[1] for task in store.running()] == [claims[0].run]
    other.close()


def test_a_repeat_of_a_steps_claim_tells_the_same_step(server: Server, store: NodeStore) -> None:
    start(store, ONE)
    assert take(store, 1, BOB, ("none",)) == []
    request = store._claims._request(store._claims._lives[BOB], (), ("default",), 1)
    other = another(server)
    other._claims._call(request)
    (claim,) = take(store, 1, BOB)
    assert claim.step == "a" and locks(store) == {claim.task}
    other.close()


def test_a_request_in_the_socket_of_a_dead_worker_claims_and_finishes_nothing(server: Server, store: NodeStore) -> None:
    runs = accept(store, single(), single())
    (claim,) = take(store, 1)
    request = store._claims._request(store._claims._lives[ALICE], (outcome(claim),), ("default",), 1)
    assert store.lose(ALICE, None) == [(claim.run, 0)]
    late = another(server)
    assert late._claims._call(request) == ["RETIRED", "F"]
    assert locks(store) == set() and len(entries(store)) == 2
    assert sorted(claim.run for claim in take(store, 5, BOB)) == sorted(runs)
    late.close()


def test_an_older_request_that_arrives_late_is_refused(server: Server, store: NodeStore) -> None:
    accept(store, single(), single())
    take(store, 1, queues=("none",))
    request = store._claims._request(store._claims._lives[ALICE], (), ("default",), 1)
    store._claims._lives[ALICE].unanswered = None
    assert len(take(store, 1)) == 1
    late = another(server)
    assert late._claims._call(request)[0] == "STALE"
    assert len(entries(store)) == 1
    late.close()


def test_a_first_use_of_an_adopted_instance_is_refused(store: NodeStore) -> None:
    accept(store, single())
    assert store.adopt("dead", {}) == 0
    assert take(store, 1, Owner("dead", 7, 1)) == []
    assert len(entries(store)) == 1


# --- popped and not claimed ---


def test_what_was_popped_and_not_claimed_is_pushed_again_and_no_other(store: NodeStore) -> None:
    runs = accept(store, *(single() for _ in range(4)))
    assert store.client.execute("LPOP", keys.queue("default")).decode().startswith(runs[0])
    assert store.rescue(["default"], 0.2) == ([], 1)
    assert store.rescue(["default"], 0.2) == ([], 1)
    time.sleep(0.25)
    assert store.rescue(["default"], 0.2) == ([f"{runs[0]}.0"], 0)
    assert [entry.partition(".")[0] for entry in entries(store)] == [*runs[1:], runs[0]]
    assert sorted(claim.run for claim in take(store, 9)) == sorted(runs)
    assert store.rescue(["default"], 0.2) == ([], 0)
    assert store.client.execute("EXISTS", keys.suspects("default")) == 0


def test_a_list_that_somebody_deleted_is_made_again(store: NodeStore) -> None:
    runs = accept(store, *(single() for _ in range(4)))
    store.client.execute("DEL", keys.queue("default"))
    store.rescue(["default"], 0.01)
    time.sleep(0.02)
    assert len(store.rescue(["default"], 0.01)[0]) == 4
    assert sorted(claim.run for claim in take(store, 9)) == sorted(runs)


def test_an_entry_that_was_pushed_twice_is_claimed_once(store: NodeStore) -> None:
    accept(store, single())
    (entry,) = entries(store)
    store.client.execute("RPUSH", keys.queue("default"), entry, "nonsense", "x.0@1")
    assert len(take(store, 9)) == 1
    assert len(locks(store)) == 1


# --- locks ---


@pytest.mark.parametrize("ends", [TaskState.COMPLETED, TaskState.FAILED])
@pytest.mark.parametrize("hours", [-1, 1])
def test_a_nodes_wrong_clock_changes_no_instant_and_no_duration(store: NodeStore, hours: int, ends: TaskState) -> None:
    """Workers tell instants of their own wall clock; what is kept and counted is Redis' time."""
    run, step = accept(store, single())[0], start(store, ONE)
    wrong = clock.wall() + hours * 3600 * clock.SECOND
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "wall", lambda: wrong)
        told = {"started": wrong - 500_000, "finished": wrong}
        cause = None if ends is TaskState.COMPLETED else Cause.EXIT
        finish(store, *(outcome(claim, ends, cause, **told) for claim in take(store)))
    seconds = {one.run: one.seconds for one in store.changes() if one.event == "finished" and (one.step or one.quiet)}
    for each in (run, step):
        [task] = store.run(each).tasks
        assert task.started_at is not None and task.finished_at is not None
        assert task.started_at < task.finished_at and abs(_age(store, task.started_at) - 0.5) < 0.4
        assert 0.4 < seconds[each] < 0.9


def _age(store: NodeStore, instant: str) -> float:
    return store.now() / clock.SECOND - datetime.fromisoformat(instant).timestamp()


def test_a_lapsed_lock_is_not_a_lost_task(store: NodeStore) -> None:
    accept(store, single())
    (claim,) = take(store, 1)
    store.client.execute("DEL", keys.LOCK + claim.task)
    renewal = store.renew([ALICE], [(ALICE, claim.run, 0, claim.token)])
    assert (renewal.fenced, renewal.stops, renewal.again) == ([], [], 1)
    assert locks(store) == {claim.task}
    store.client.execute("DEL", keys.LOCK + claim.task)
    finish(store, outcome(claim))
    assert ended(store, claim.run) == ("completed", None)


def test_a_lock_says_who_and_lives_for_its_time(store: NodeStore) -> None:
    accept(store, single())
    (claim,) = take(store, 1)
    value, life = store.client.pipeline([("GET", keys.LOCK + claim.task), ("PTTL", keys.LOCK + claim.task)])
    assert {"node=node-a", "instance=test", "worker=0", f"token={claim.token}"} <= set(value.decode().split())
    assert 14_000 < life <= 15_000


def test_a_strangers_lock_is_waited_for_and_told(store: NodeStore) -> None:
    run = accept(store, single())[0]
    store.client.execute("SET", f"{keys.LOCK}{run}.0", "someone", "PX", 60_000)
    assert take(store, 1) == []
    assert [(change.event, change.message) for change in store.changes()] == [("locked", "someone")]
    store.client.execute("DEL", f"{keys.LOCK}{run}.0")
    assert take(store, 1) == []
    time.sleep(1.1)
    assert store.promote() == 1
    assert [claim.run for claim in take(store, 1)] == [run]


def test_nothing_is_recovered_in_the_grace_after_an_outage(store: NodeStore) -> None:
    accept(store, single())
    (claim,) = take(store, 1)
    store.client.execute("DEL", keys.LOCK + claim.task)  # as if Redis had been away for longer than the lock's life
    count, grace = store.recover_lapsed()
    assert count == 0 and 14 <= grace <= 15
    store.renew([ALICE], [])
    assert locks(store) == {claim.task}
    for stamp in ("0", str(2**52)):  # long ago; or in the future: the clock was set back
        store.client.execute("HSET", keys.STAMP, "newest", stamp, "grace", "0")
        assert store.recover_lapsed()[1] > 0


def test_what_a_lost_node_held_is_queued_again_and_charged(store: NodeStore) -> None:
    accept(store, single())
    (claim,) = take(store, 1, Owner("gone", 0, 1))
    store.renew([], [])
    store.client.execute("HSET", keys.STAMP, "grace", 0)  # of the first renewal ever
    store.client.execute("DEL", keys.LOCK + claim.task)
    assert store.recover_lapsed() == (1, 0.0)
    (again,) = take(store, 1, BOB)
    assert again.run == claim.run and again.token > claim.token and again.attempt == 1
    assert store.finish(Owner("gone", 0, 1), [outcome(claim)]) == [Verdict.FENCED]
    finish(store, outcome(again), owner=BOB)


def test_of_a_batch_that_was_lost_nobody_is_charged_and_each_goes_alone(store: NodeStore) -> None:
    runs = accept(store, single(), single(), single())
    lost = take(store, 3, Owner("gone", 0, 1))
    store.renew([], [])
    store.client.execute("HSET", keys.STAMP, "grace", 0)
    store.client.execute("DEL", *(keys.LOCK + claim.task for claim in lost))
    assert store.recover_lapsed() == (3, 0.0)
    fresh = accept(store, single())
    for run in runs:
        (claim,) = take(store, 3, BOB)
        assert claim.run == run and claim.attempt == 1
    assert [claim.run for claim in take(store, 3, BOB)] == fresh
    store.adopt("gone", None)
    assert {claim.token for claim in lost}.isdisjoint(token for _, _, token in started(store))


def test_an_adopted_batch_of_which_nothing_is_known_goes_alone(store: NodeStore) -> None:
    accept(store, single(), single())
    take(store, 2, Owner("gone", 0, 1))
    assert store.adopt("gone", None) == 2
    assert len(take(store, 2, BOB)) == 1


def started(store: NodeStore) -> list[tuple[str, int, int]]:
    return [(run, idx, token) for _, run, idx, token in store.running()]


# --- batches ---


def test_a_living_workers_results_told_by_another(server: Server, store: NodeStore) -> None:
    """Its own requests go on with their numbers, and what it tells again is a duplicate."""
    accept(store, single(), single(), single())
    one, two, three = take(store, 3)
    other = another(server)
    assert other.deliver(ALICE, [outcome(one)]) == [Verdict.ACCEPTED]
    assert [task for _, task, _, _ in other.held(ALICE)] == [two.run, three.run]
    verdicts, _ = store.finish_and_claim(ALICE, [outcome(one), outcome(two)], ("default",), 1)
    assert verdicts == [Verdict.DUPLICATE, Verdict.ACCEPTED]
    assert other.deliver(ALICE, [outcome(two)]) == [Verdict.DUPLICATE]
    finish(store, outcome(three))
    assert other.deliver(Owner("test", 9, 9), [outcome(three)]) == [Verdict.DUPLICATE]
    assert locks(store) == set()
    other.close()


def test_a_task_given_back_gets_a_number_that_no_other_has(store: NodeStore) -> None:
    accept(store, single(), single(), single())
    claims = take(store, 2)
    store.give_back(ALICE, [(claim.run, claim.idx, claim.token) for claim in claims])
    again = take(store, 3, BOB)
    assert [claim.run for claim in again[:2]] == [claim.run for claim in claims]
    assert len({claim.token for claim in (*claims, *again)}) == 5
    assert all(new.token > old.token for new, old in zip(again, claims, strict=False))


# --- terms ---


def test_duties_of_an_old_term_are_refused(server: Server, store: NodeStore) -> None:
    accept(store, single(start_at=1))
    newer = another(server)
    assert store.lead(3, "a") and store.lead(3, "a")
    assert not newer.lead(3, "b") and not newer.lead(2, "b")
    assert newer.lead(4, "b") and newer.newest_epoch() == 4
    for duty in (store.promote, store.expire, store.recover_lapsed):
        with pytest.raises(Refused) as refused:
            duty()
        assert refused.value.code == "fenced"
    newer.promote()
    server.command("SET", keys.EPOCH, "4 c")  # the lease was deleted, and somebody else acquired it under our number
    with pytest.raises(Refused):
        newer.promote()
    newer.close()


def test_a_leader_that_stood_still_takes_nothing_back(server: Server, store: NodeStore) -> None:
    """Between finding what is held under locks that lapsed and taking it, another leads."""
    accept(store, single())
    (claim,) = take(store, 1)
    store.renew([], [])
    store.client.execute("HSET", keys.STAMP, "grace", 0)
    store.client.execute("DEL", keys.LOCK + claim.task)
    newer = another(server)
    assert store.lead(3, "a")
    store.client.execute("SCRIPT", "LOAD", script("lapsed").text)  # so that it is one exchange
    store.client.observe = lambda _: newer.lead(4, "b")
    with pytest.raises(Refused) as refused:
        store.recover_lapsed()
    assert refused.value.code == "fenced"
    assert newer.recover_lapsed() == (1, 0.0)
    newer.close()


# --- versions, queues, memory ---


def test_records_of_a_newer_version_are_left_to_those_who_know_them(server: Server, store: NodeStore) -> None:
    new = another(server, version=2)
    old_run = accept(store, single())[0]
    new_run = accept(new, single())[0]
    due = new.now() + 200_000
    later = accept(new, single(start_at=due))[0]
    assert [claim.run for claim in take(store, 9)] == [old_run]
    while new.now() <= due:
        time.sleep(0.01)
    assert store.promote() == 0
    assert new.promote() == 1
    assert {claim.run for claim in take(new, 9, BOB)} == {new_run, later}
    assert store.client.execute("KEYS", "workflow:*") == []
    new.close()


def test_a_paused_queue_has_no_list_to_pop_from(store: NodeStore) -> None:
    runs = accept(store, single(), single())
    store.pause("default")
    runs += accept(store, single())
    assert entries(store) == [] and take(store, 9) == []
    assert store.rescue(["default"], 0.0) == ([], 0)
    store.resume("default")
    assert [claim.run for claim in take(store, 9)] == runs


def test_a_run_with_many_ready_tasks_leaves_room(store: NodeStore) -> None:
    start(store, workflow("wide", *(node(f"s{n}") for n in range(500))))
    small = start(store, ONE)
    assert len(entries(store)) == 65
    (view,) = store.queues()
    assert view.length == 501
    assert small in {claim.run for claim in take(store, 70)}


def test_a_full_server_loses_nothing(store: NodeStore) -> None:
    run = start(store, workflow("two", node("a"), node("b", 0)))
    accept(store, single())
    step, solo = take(store, 2)
    used = store.client.execute("INFO", "memory").decode()
    bytes_used = next(int(line[12:]) for line in used.splitlines() if line.startswith("used_memory:"))
    store.client.execute("CONFIG", "SET", "maxmemory", bytes_used // 2)
    try:
        for call in (
            lambda: store.finish(ALICE, [outcome(step)]), lambda: take(store, 1, BOB), lambda: accept(store, single()),
            lambda: store.cancel(run),
        ):  # fmt: skip
            with pytest.raises(StoreUnavailable) as failed:
                call()
            assert failed.value.code == "oom" and not failed.value.fatal
    finally:
        store.client.execute("CONFIG", "SET", "maxmemory", 0)
    assert store.finish(ALICE, [outcome(step)]) == [Verdict.ACCEPTED]
    finish(store, outcome(solo))
    (last,) = take(store, 9, BOB)
    finish(store, outcome(last), owner=BOB)
    assert ended(store, run) == ("completed", None) and locks(store) == set()


def test_a_finished_single_run_takes_less_than_a_kib_and_eight_commands(store: NodeStore) -> None:
    accept(store, *(single() for _ in range(1100)))
    claims = take(store, 1)
    for _ in range(100):
        _, claims = store.finish_and_claim(ALICE, [outcome(claims[0], output=1)], ["default"], 1)

    def work() -> None:
        nonlocal claims
        for _ in range(100):
            _, claims = store.finish_and_claim(ALICE, [outcome(claims[0], output=1)], ["default"], 1)

    calls = counted(store.client, work)
    inside = sum(n for name, n in calls.items() if name != "evalsha")
    print(f"commands inside the script of a busy single task: {inside / 100:.2f}")
    assert inside <= 815  # and what is written once in thirty tasks
    while claims:
        _, claims = store.finish_and_claim(ALICE, [outcome(c, output=1) for c in claims], ["default"], 50)
    used = store.client.execute("INFO", "memory").decode()
    sizes = [store.client.execute("MEMORY", "USAGE", keys.run(claim)) for claim in _some_runs(store)]
    assert used and max(sizes) < 900


def _some_runs(store: NodeStore) -> list[str]:
    return [run.decode() for run in store.client.execute("ZRANGE", keys.RUNS, 0, 20)]


def test_tails_stay_within_their_budget(store: NodeStore) -> None:
    store.output_bytes = 20_000
    runs = accept(store, *(single() for _ in range(10)))
    for claim in take(store, 10):
        finish(store, outcome(claim, stdout="x" * 9000 + "end"))
    tails = {run: store.run(run).tasks[0].stdout_tail for run in runs}
    assert tails[runs[0]] == "" and tails[runs[-1]].endswith("end") and len(tails[runs[-1]]) == 4096
    assert int(store.client.execute("GET", keys.TAIL_BYTES)) <= 20_000


# --- large graphs ---


def _longest(store: NodeStore) -> float:
    """Milliseconds of the longest script, as SLOWLOG has it."""
    slow = [entry for entry in store.client.execute("SLOWLOG", "GET", 100) if entry[3][0] in (b"EVALSHA", b"EVAL")]
    return max((entry[2] / 1000 for entry in slow), default=0.0)


def _settle(store: NodeStore) -> None:
    until = time.monotonic() + 120
    while store.advance():
        assert time.monotonic() < until, "advance never ends"


def test_a_cascade_of_skips_goes_in_slices(store: NodeStore) -> None:
    nodes = [node("root"), *(node(f"s{n}", 0) for n in range(WIDE)), node("last", *range(1, WIDE + 1), when="always")]
    run = start(store, workflow("wide", *nodes))
    _settle(store)
    (claim,) = take(store, 1)
    store.client.execute("SLOWLOG", "RESET")
    finish(store, outcome(claim, TaskState.FAILED, Cause.EXIT))
    scripts = counted(store.client, lambda: _settle(store))["evalsha"]
    print(f"cascade of {WIDE} skips: {scripts} scripts, the longest {_longest(store):.1f} ms (5 ms on an idle machine)")
    assert scripts > 0.8 * WIDE / RECORDS
    (last,) = take(store, 9)
    assert last.step == "last"
    finish(store, outcome(last))
    assert ended(store, run) == ("failed", "exit")


def test_a_wide_fan_out_of_outputs_is_made_as_places_come_free(store: NodeStore) -> None:
    items = Graph(
        "fan", (node("list"), node("each", 0, items="${{ steps.list.output }}", refs=(0,)), node("sum", 1, refs=(1,)))
    )
    wide = WIDE // 5
    run = start(store, define(items))
    (claim,) = take(store, 1)
    store.client.execute("SLOWLOG", "RESET")
    finish(
        store,
        Outcome(
            claim.run, 0, claim.token, TaskState.COMPLETED, output=msgspec.Raw(msgspec.json.encode(list(range(wide))))
        ),
    )
    claims = take(store, 20)
    assert {claim.step for claim in claims} == {f"each[{n}]" for n in range(20)}
    assert store.queues()[0].length == wide - 20
    seen = 0
    while claims and claims[0].step != "sum":
        seen += len(claims)
        _, claims = store.finish_and_claim(ALICE, [outcome(c, output=c.idx) for c in claims], ["default"], 20)
    assert seen == wide
    print(f"longest script of a fan-out of {wide}: {_longest(store):.1f} ms (5 ms on an idle machine)")
    assert [claim.step for claim in claims] == ["sum"]
    finish(store, outcome(claims[0]))
    assert ended(store, run) == ("completed", None)
    assert len(store.outputs([run])[run]["each"]) == wide
    assert Kind.FANOUT and shape(store, run)["each"] == ("completed", None)
