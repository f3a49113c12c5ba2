"""A worker that waits: BLPOP with the claim behind it, as the server and the next request see them, on both servers."""

from __future__ import annotations

import select

import pytest
from driving import ALICE, BOB, accept, finish, outcome, single, start, take
from graphs import node, workflow
from support.redis_server import Server

from kubemin.model.records import Claim
from kubemin.store.redis import keys
from kubemin.store.redis.lives import slot_name
from kubemin.store.redis.node import NodeStore
from kubemin.store.redis.replies import unpack_reply


def another(server: Server) -> NodeStore:
    return NodeStore(server.address, instance="test", node="node-a")


def locks(store: NodeStore) -> set[str]:
    return {key.decode().removeprefix(keys.LOCK) for key in store.client.execute("KEYS", keys.LOCK + "*")}


def waited(store: NodeStore, queues: tuple[str, ...] = ("default",)) -> list[Claim]:
    """What a wait gives that ends at once."""
    store.begin_wait(ALICE, queues, 1)
    return store.claim_popped(ALICE, queues, store.end_wait())


def test_what_was_popped_is_claimed_with_the_pop(store: NodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else has to be asked was asked before the wait, when nobody waited."""
    monkeypatch.setattr("kubemin.store.redis.session.TIME_LIFE", 0.0)
    accept(store, single(), single())
    for _ in range(2):  # the first call of a life loads the script, and asks for its number
        store.begin_wait(ALICE, ["default"], 1)
        calls: list[float] = []
        store.client.observe = calls.append
        (claim,) = store.claim_popped(ALICE, ["default"], store.end_wait())
        store.client.observe = None
        finish(store, outcome(claim))
    assert calls == []


def test_a_wait_looks_into_all_its_queues(store: NodeStore) -> None:
    run = accept(store, single(queue="etl"))[0]
    assert [claim.run for claim in waited(store, queues=("default", "etl"))] == [run]


def test_a_waiting_worker_gets_what_a_finish_made_ready(server: Server, store: NodeStore) -> None:
    start(store, workflow("two", node("a"), node("b", 0)))
    (first,) = take(store, 1)
    waiting = another(server)
    waiting.begin_wait(BOB, ["default"], 1)
    finish(store, outcome(first))
    claims = waiting.claim_popped(BOB, ["default"], waiting.end_wait())
    assert [claim.step for claim in claims] == ["b"]
    waiting.close()


def test_each_of_two_that_wait_gets_one(server: Server, store: NodeStore) -> None:
    """Both entries are popped before the first claim runs."""
    take(store, 1, queues=("none",))
    others = [another(server), another(server)]
    owners = [ALICE, BOB]
    for other, owner in zip(others, owners, strict=True):
        other.begin_wait(owner, ["default"], 5)
    runs = accept(store, single(), single())
    told = [
        other.claim_popped(owner, ["default"], other.end_wait()) for other, owner in zip(others, owners, strict=True)
    ]
    assert sorted(claim.run for claims in told for claim in claims) == sorted(runs)
    assert all(len(claims) == 1 for claims in told) and len(locks(store)) == 2
    for other in others:
        other.close()


def test_a_wait_takes_over_what_a_dead_one_popped(store: NodeStore) -> None:
    take(store, 1, queues=("none",))
    runs = accept(store, single(), single())
    store.client.execute("LPOP", keys.queue("default"))
    assert [claim.run for claim in waited(store)] == runs[:1]
    assert [claim.run for claim in waited(store)] == runs[1:]  # which the first wait had popped
    assert locks(store) == {f"{run}.0" for run in runs}


def test_a_wait_takes_nothing_of_a_paused_queue(store: NodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubemin.store.redis.node.BLOCK", 0.05)
    accept(store, single())
    store.pause("default")
    later = accept(store, single(), single(queue="etl"))
    assert [claim.run for claim in waited(store, queues=("default", "etl"))] == later[1:]
    assert waited(store, queues=("default", "etl")) == []


def test_what_is_no_task_does_not_keep_a_wait_from_what_it_popped(store: NodeStore) -> None:
    take(store, 1, queues=("none",))  # the server knows the script
    run = accept(store, single())[0]
    store.client.execute("ZADD", keys.pending("default"), 0, "nonsense")
    assert [claim.run for claim in waited(store)] == [run]


def test_a_wait_that_ends_with_nothing_writes_nothing(store: NodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubemin.store.redis.node.BLOCK", 0.05)
    assert waited(store) == []  # the first request of a life is noted
    before = store.client.execute("GET", keys.slot(slot_name(ALICE)))
    assert waited(store) == [] and not store.owes(ALICE)
    assert store.client.execute("GET", keys.slot(slot_name(ALICE))) == before


def test_a_wait_whose_reply_is_lost_is_told_again_and_runs_nowhere_later(server: Server, store: NodeStore) -> None:
    """Cut off in the wait, with the request still in the old socket: it claims nothing after its repeat."""
    take(store, 1, queues=("none",))
    store.begin_wait(ALICE, ["default"], 1)
    request = store._claims._lives[ALICE].unanswered
    assert request is not None and store.owes(ALICE)
    store.client.disconnect()
    assert take(store, 0) == [] and not store.owes(ALICE)  # the repeat, that found nothing
    runs = accept(store, single())
    late = list(request.arguments)
    late[8:10] = "?", keys.held("default")
    other = another(server)
    assert unpack_reply(other.client.run(store._claims._script, request.touched, *late))[3:] == []
    assert locks(store) == set() and [claim.run for claim in take(store, 1)] == runs
    other.close()


def test_a_wait_that_claimed_and_was_cut_off_is_told_its_claim(store: NodeStore) -> None:
    take(store, 1, queues=("none",))
    run = accept(store, single())[0]
    store.begin_wait(ALICE, ["default"], 1)
    assert select.select([store.client.fileno()], [], [], 5)[0]
    store.client.disconnect()
    assert [claim.run for claim in take(store, 0)] == [run] and not store.owes(ALICE)


def test_a_wait_at_a_server_that_forgot_the_script(store: NodeStore) -> None:
    run = accept(store, single())[0]
    store.client.execute("SCRIPT", "FLUSH")
    assert [claim.run for claim in waited(store)] == [run]
