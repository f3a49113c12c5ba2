"""Keys that lead to work are deleted, one by one (store/redis/orphans.py): what they led to is found without them."""

from __future__ import annotations

from pathlib import Path

import pytest
from driving import ALICE, BOB, accept, ended, finish, outcome, single, start, take
from graphs import node, workflow
from leftovers import left_behind
from nodes import Fleet, running
from support import wait_until

from kubemin.errors import KubeminError
from kubemin.model.graph import Concurrency, Retry
from kubemin.model.states import TaskState
from kubemin.store.base import Verdict
from kubemin.store.redis import keys
from kubemin.store.redis.node import NodeStore

PAIR = workflow("pair", node("first"), node("second", 0))


def test_a_running_fleet_goes_on_without_what_was_deleted(fleet: Fleet, tmp_path: Path) -> None:
    daemon, log = fleet.node(maxWorkers=1), tmp_path / "effects"
    fleet.wait_leader()
    runs = daemon.client.enqueue_many("fleetfunctions:effect", [((str(log), n, 0.3), {}) for n in range(10)])
    running(daemon, runs[0].id)
    fleet.server.command("DEL", keys.pending("default"))
    assert set(daemon.client.wait(runs[:5], 30).values()) == {"completed"}
    fleet.server.command("DEL", keys.pending("default"), keys.queue("default"))
    assert set(daemon.client.wait(runs, 30).values()) == {"completed"}
    assert sorted(map(int, log.read_text().split())) == list(range(10))
    wait_until(lambda: left_behind(fleet.server) == [], 10)


def healed(store: NodeStore) -> None:
    """All that the leader does by itself, until it finds nothing more to do."""
    for _ in range(20):
        store.promote(), store.expire(), store.advance(), store.take_back_orphans()


def test_a_queues_index_is_deleted_and_its_tasks_are_queued_again(store: NodeStore) -> None:
    """Found as soon as one of its entries is popped, whatever kind of task it is."""
    run, graph = start(store, PAIR), start(store, workflow("pair-2", node("a", retry=Retry(2, 1.0)), node("b", 0)))
    others = accept(store, single(), single())
    took = take(store, 10, BOB)
    assert store.give_back(BOB, [(each.run, each.idx, each.token) for each in took[1:3]]) == 2
    assert store.lose(BOB, None)
    store.client.execute("DEL", keys.pending("default"))
    assert take(store, 10) == [] and store.client.execute("GET", keys.ORPHANS) is not None
    healed(store)
    assert store.client.execute("GET", keys.ORPHANS) is None
    assert {each.run for each in take(store, 10)} == {run, graph, *others}


def test_a_queue_and_its_index_are_deleted(store: NodeStore) -> None:
    """Nothing tells of it: the leader meets them on its way through all runs."""
    runs = {start(store, PAIR), *accept(store, single(), single(queue="etl"))}
    taken = take(store, 1)
    store.client.execute("DEL", keys.pending("default"), keys.queue("default"), keys.pending("etl"), keys.queue("etl"))
    healed(store)
    left = take(store, 10, BOB, ("default", "etl"))
    assert {each.run for each in left} == runs - {taken[0].run}
    assert store.finish(ALICE, [outcome(taken[0])]) == [Verdict.ACCEPTED]


def test_due_times_that_are_deleted_are_written_down_again(store: NodeStore) -> None:
    def known() -> list[bytes]:
        both = (store.client.execute("ZRANGE", key, 0, -1, "WITHSCORES") for key in (keys.due(), keys.deadlines()))
        return [each for found in both for each in found]

    later = store.now() + 60_000_000
    start(store, workflow("again", node("a", retry=Retry(1, 60.0)), timeout=3600.0))
    finish(store, outcome(take(store, 1)[0], TaskState.FAILED))
    start(store, PAIR, start_at=later), accept(store, single(start_at=later))
    before = known()
    store.client.execute("DEL", keys.due(), keys.deadlines())
    healed(store)
    assert len(before) == 8 and known() == before


def test_who_waits_for_a_concurrency_key_is_known_again(store: NodeStore) -> None:
    alone = workflow("alone", node("a"), concurrency=Concurrency("one"))
    first, second, third = (start(store, alone) for _ in range(3))
    store.client.execute("DEL", keys.waiters("one"))
    healed(store)
    finish(store, outcome(take(store, 1)[0]))
    healed(store)
    [claim] = take(store, 10)
    finish(store, outcome(claim))
    assert claim.run == second and [each.run for each in take(store, 10)] == [third]
    assert ended(store, first) == ("completed", None)


def test_a_walk_that_an_error_ends_begins_anew(store: NodeStore) -> None:
    run = start(store, PAIR)
    assert store.take_back_orphans() == (0, False)
    store.client.execute("DEL", keys.pending("default"), keys.queue("default"))
    store.client.execute("RENAME", keys.RUNS, "elsewhere"), store.client.execute("SET", keys.RUNS, "junk")
    for _ in range(3):
        with pytest.raises(KubeminError):
            for _ in range(5):
                store.take_back_orphans()
    store.client.execute("RENAME", "elsewhere", keys.RUNS)
    healed(store)
    assert [each.run for each in take(store, 10)] == [run]


def test_a_key_of_a_strange_type_does_not_stop_the_walk(store: NodeStore) -> None:
    runs = [start(store, PAIR) for _ in range(3)]
    strange = accept(store, single())[0]
    store.client.execute("DEL", keys.pending("default"), keys.queue("default"), keys.run(strange), keys.tasks(runs[1]))
    store.client.execute("SET", keys.run(strange), "junk"), store.client.execute("SET", keys.tasks(runs[1]), "junk")
    healed(store)
    assert {each.run for each in take(store, 10)} == {runs[0], runs[2]}
