"""Records that somebody has deleted or spoilt in Redis: the run at hand ends, its bytes are kept, all others go on.

The attacker is a raw connection, as `redis-cli` is. Below the daemons' tests are the same against the store alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from driving import ALICE, BOB, accept, ended, finish, outcome, single, start, take
from graphs import node, workflow
from leftovers import left_behind, names
from nodes import Fleet, printed
from nodes import running as running_on
from support import wait_until

from kubemin.errors import KubeminError
from kubemin.model.graph import Concurrency, Retry
from kubemin.model.states import TaskState
from kubemin.store.base import RunFilter, Verdict
from kubemin.store.redis import keys
from kubemin.store.redis.lives import slot_name
from kubemin.store.redis.node import NodeRecord, NodeStore

PAIR = workflow("pair", node("first"), node("second", 0))
JUNK = (b"", b"\xc1", b"\x80", b"\x93\x01\x02", b"{}", b"q", b"qx y", b"\xff" * 70_000)
CHAIN = """
name: chain
steps:
  - {name: first, python: "fleetfunctions:nap", with: {seconds: 1}}
  - {name: second, run: [id]}
"""


# --- daemons ---


def test_operators_accidents_end_what_they_hit_and_nothing_else(fleet: Fleet) -> None:
    daemon = fleet.node()
    fleet.wait_leader()
    client, command = daemon.client, fleet.server.command
    before = daemon.ctl("status", "-o", "json").json["supervisorPid"]
    path = daemon.workflow("chain.yaml", CHAIN)
    fleet_store = fleet.store()

    def spoilt(run: str, *words: str | int) -> None:
        running_on(daemon, run)
        command(*words)
        wait_until(lambda: fleet_store.states([run]).get(run) == "failed", 15, what=f"the end of it after {words[:2]}")
        shown = daemon.ctl("show", run, "-o", "json").json
        assert "errors" not in shown, shown
        assert (shown["status"], shown["cause"]) == ("failed", "corrupt")

    run = client.submit(path).id
    spoilt(run, "HSET", keys.run(run), "r", "rubbish")
    assert command("HGET", keys.run(run), "corrupt") == b"$7\r\nrubbish\r\n", "its bytes are kept"
    run = client.submit(path).id
    spoilt(run, "HDEL", keys.tasks(run), 1)
    run = client.submit(path).id
    spoilt(run, "DEL", keys.run(run))
    run = client.submit(path).id
    spoilt(run, "SET", keys.tasks(run), "a string")
    run = client.submit(path).id
    digest = msgspec.msgpack.decode(fleet_store.client.execute("HGET", keys.run(run), "r"))["d"]
    spoilt(run, "DEL", keys.graph(digest))
    client.submit(path).wait(15)
    assert daemon.ctl("status", "-o", "json").json["supervisorPid"] == before
    assert "worker died" not in daemon.log and "Traceback" not in daemon.log and "is replaced" not in daemon.log
    assert daemon.log.count("run quarantined") == 5


def test_a_lock_or_the_queue_is_deleted_and_the_work_is_done_once(fleet: Fleet, tmp_path: Path) -> None:
    daemon = fleet.node(maxWorkers=1)
    log = tmp_path / "effects"
    runs = daemon.client.enqueue_many("fleetfunctions:effect", [((str(log), n, 0.2), {}) for n in range(10)])
    running_on(daemon, runs[0].id)
    fleet.server.command("DEL", f"{keys.LOCK}{runs[0].id}.0", "workflow:queue")
    assert set(daemon.client.wait(runs, 30).values()) == {"completed"}
    assert sorted(map(int, log.read_text().split())) == list(range(10))


def test_a_slots_record_is_deleted_and_what_it_held_runs_again(fleet: Fleet, tmp_path: Path) -> None:
    daemon = fleet.node(queues=["default"])
    fleet.wait_leader()
    path = daemon.workflow("chain.yaml", CHAIN)
    runs = [
        daemon.client.enqueue("fleetfunctions:effect", str(tmp_path / "effects"), 1, 1.0),
        daemon.client.submit(path),
    ]
    first = [running_on(daemon, run.id).token for run in runs]
    fleet.server.command("DEL", *names(fleet.server, keys.slot("*")))
    began = time.monotonic()
    assert [run.wait(30) for run in runs] == ["completed", "completed"]
    printed("slots' records deleted, all done", began, 3 + 5 + 3)  # the lock's life, and what the steps take
    tokens = [fleet.store().run(run.id).tasks[0].token for run in runs]
    assert all(token > before for token, before in zip(tokens, first, strict=True))
    daemon.wait_log("tasks whose claims somebody deleted were queued again", 5)
    wait_until(lambda: left_behind(fleet.server) == [], 10)


def test_a_spoilt_single_task_is_quarantined_and_the_worker_lives(fleet: Fleet) -> None:
    daemon = fleet.node(maxWorkers=1)
    assert daemon.ctl("queue", "pause", "default").code == 0
    runs = [daemon.client.enqueue("fleetfunctions:nap", 0) for _ in range(6)]
    oversized = daemon.client.enqueue("fleetfunctions:nap", 0)
    work = b'{"python":"fleetfunctions:nap","args":["%s"]}' % (b"x" * 20_000_000)
    fleet.store().client.execute("HSET", keys.run(oversized.id), "w", work)
    for run, field, value in zip(runs[:4], "swxs", ("rubbish", "{", "[1", ""), strict=True):
        fleet.server.command("HSET", keys.run(run.id), field, value)
    fleet.server.command("DEL", keys.run(runs[4].id))
    runs.insert(0, oversized)
    assert daemon.ctl("queue", "resume", "default").code == 0
    assert runs[-1].wait(20) == "completed"  # in order: the one that was deleted is known again by then
    states = daemon.client.wait(runs, 20)
    assert [states[run.id] for run in runs] == ["failed"] * 6 + ["completed"]
    for run in runs[:6]:
        assert daemon.ctl("show", run.id, "-o", "json").json["cause"] == "corrupt"
    assert daemon.ctl("runs").code == 0 and "worker died" not in daemon.log and "Traceback" not in daemon.log


# --- the store alone ---


def go_on(store: NodeStore) -> None:
    """All that a fleet does by itself, twice."""
    for _ in range(2):
        for claim in take(store, 20, BOB):
            store.finish(BOB, [outcome(claim)])
        store.renew([ALICE, BOB], [])
        store.promote(), store.expire(), store.advance(), store.rescue(["default"], 0.0), store.recover_lapsed()


def looked_at(store: NodeStore, run: str) -> None:
    """No reader fails otherwise than with a message."""
    for read in (store.run, store.obstacles, lambda each: store.states([each]), lambda each: store.outputs([each])):
        try:
            read(run)
        except KubeminError as error:
            assert "\n" not in str(error)
    store.runs(RunFilter()), store.queues(), store.workflows()


HITS: dict[str, Callable[[str], tuple[Any, ...]]] = {
    "run": lambda run: ("HSET", keys.run(run), "r"),
    "first task": lambda run: ("HSET", keys.tasks(run), 0),
    "second task": lambda run: ("HSET", keys.tasks(run), 1),
}


@pytest.mark.parametrize("what", HITS)
@pytest.mark.parametrize("when", ["queued", "running"])
def test_any_bytes_in_a_record_end_its_run_alone(store: NodeStore, what: str, when: str) -> None:
    for junk in JUNK:
        run = start(store, PAIR)
        claims = take(store, 1) if when == "running" else []
        store.client.execute(*HITS[what](run), junk)
        looked_at(store, run)
        other = start(store, PAIR)
        for claim in claims:
            store.finish(ALICE, [outcome(claim)])
        go_on(store)
        assert ended(store, run) == ("failed", "corrupt"), (what, when, junk[:9])
        assert ended(store, other) == ("completed", None)
        looked_at(store, run)
        assert store.client.execute("KEYS", f"{keys.LOCK}*") == []
        assert not any(claims for _, claims in store._claims.records(store._claims.slots()))


def test_what_runs_of_it_is_stopped_and_refused(store: NodeStore) -> None:
    run = start(store, workflow("two", node("a"), node("b")))
    first, second = take(store, 2)
    store.client.execute("HDEL", keys.tasks(run), first.idx)
    assert store.finish(ALICE, [outcome(first)]) == [Verdict.FENCED]
    (stop,) = store.renew([ALICE], [(ALICE, run, second.idx, second.token)]).stops
    assert (stop.idx, stop.cause.value) == (second.idx, "corrupt")
    assert store.finish(ALICE, [outcome(second, TaskState.CANCELLED)]) == [Verdict.FENCED]
    assert ended(store, run) == ("failed", "corrupt")


def test_a_worker_that_dies_over_it_gives_back_the_rest(store: NodeStore) -> None:
    run, other = start(store, PAIR), accept(store, single())[0]
    assert len(take(store, 9)) == 2
    store.client.execute("HSET", keys.run(run), "r", b"\xc1")
    assert store.lose(ALICE, None) == [(other, 0)]
    assert ended(store, run) == ("failed", "corrupt")
    go_on(store)
    assert ended(store, other) == ("completed", None)


def test_claims_that_were_deleted_are_found_among_many_runs(store: NodeStore) -> None:
    """Those of others stay, what is queued stays where it is, and what its owner tells later is refused."""
    run = start(store, PAIR)
    accept(store, *(single() for _ in range(250)))
    lost, kept = take(store, 3), take(store, 2, BOB)
    assert lost[0].run == run and store.take_back_orphans()[0] == 0
    store.client.execute("DEL", keys.slot(slot_name(ALICE)))
    queued = store.client.execute("ZCARD", keys.pending("default"))
    assert store.finish(ALICE, [outcome(lost[0])]) == [Verdict.FENCED]  # and so the mark is set
    pages = [store.take_back_orphans() for _ in range(5)]
    assert [more for _, more in pages[:2]] == [True, True] and pages[-1][1] is False, "it goes on at once to the end"
    assert sum(count for count, _ in pages) == 3
    assert store.client.execute("ZCARD", keys.pending("default")) == queued + 3
    assert store.finish(ALICE, [outcome(claim) for claim in lost]) == [Verdict.FENCED] * 3
    assert store.finish(BOB, [outcome(claim) for claim in kept]) == [Verdict.ACCEPTED] * 2
    store.client.execute("DEL", *(f"{keys.LOCK}{claim.task}" for claim in lost))  # as if they had lapsed
    again = {claim.task: claim.token for claim in take(store, 300, BOB)}
    assert all(again[claim.task] > claim.token for claim in lost)


def test_claims_that_were_deleted_before_their_worker_died(store: NodeStore) -> None:
    run = start(store, PAIR)
    take(store, 1)
    store.client.execute("DEL", keys.slot(slot_name(ALICE)))
    assert store.lose(ALICE, None) == [] and sum(store.take_back_orphans()[0] for _ in range(3)) == 1
    store.client.execute("DEL", f"{keys.LOCK}{run}.0")  # as if it had lapsed
    go_on(store)
    assert ended(store, run) == ("completed", None)


def test_due_times_and_deadlines_of_it_are_let_go(store: NodeStore) -> None:
    timed = workflow("timed", node("a", retry=Retry(1, delay=0.0)), timeout=0.01)
    delayed = start(store, timed, start_at=store.now() + 1000)
    late = start(store, timed)
    (claim,) = take(store, 1)
    finish(store, outcome(claim, TaskState.FAILED))
    for run in (delayed, late):
        store.client.execute("HSET", keys.run(run), "r", b"\xc1")
    wait_until(lambda: go_on(store) or ended(store, late) == ended(store, delayed) == ("failed", "corrupt"), 5)
    assert store.next_due() is None


def test_a_concurrency_key_is_not_lost_with_its_holder(store: NodeStore) -> None:
    alone = workflow("alone", node("a"), concurrency=Concurrency("key", "queue"))
    for spoil in (("HSET", "r", b"\xc1"), ("DEL",)):
        holder, waiting = start(store, alone), start(store, alone)
        store.client.execute(spoil[0], keys.run(holder), *spoil[1:])
        go_on(store)
        after = start(store, alone)
        go_on(store)
        assert ended(store, after) == ("completed", None)
        go_on(store)
        assert ended(store, waiting) == ("completed", None)


@pytest.mark.parametrize("policy", ["queue", "replace"])
def test_a_concurrency_key_has_one_holder_when_another_is_spoilt(store: NodeStore, policy: str) -> None:
    """Whoever comes next notices: then the one that waits has the key, or the newcomer, and never both."""
    alone = workflow("alone", node("a"), concurrency=Concurrency("key", policy))
    holder = start(store, alone)
    (claim,) = take(store, 1)
    waiting = start(store, alone)
    if policy == "queue":
        store.client.execute("DEL", keys.tasks(holder))
    else:
        store.client.execute("HSET", keys.run(waiting), "r", b"\xc1")
    after = start(store, alone)
    if policy == "queue":
        assert ended(store, holder) == ("failed", "corrupt")
        assert [each.run for each in take(store, 9, BOB)] == [waiting]
    else:
        assert ended(store, waiting) == ("failed", "corrupt")
        store.finish(ALICE, [outcome(claim, TaskState.CANCELLED)])
        assert [each.run for each in take(store, 9, BOB)] == [after]


def test_what_is_no_entry_at_the_head_of_a_list_stops_nobody(store: NodeStore) -> None:
    run = accept(store, single())[0]
    (claim,) = take(store, 1)
    store.client.execute("RPUSH", keys.queue("default"), "nonsense")
    assert store.rescue(["default"], 0.0) == ([], 0)
    assert store.give_back(ALICE, [(run, 0, claim.token)]) == 1
    go_on(store)
    assert ended(store, run) == ("completed", None)


def test_entries_and_keys_of_other_kinds_do_no_harm(store: NodeStore) -> None:
    run = accept(store, single())[0]
    wrong = accept(store, single())[0]
    store.client.execute("RENAME", keys.run(wrong), "elsewhere")
    store.client.execute("SET", keys.run(wrong), "a string")
    store.client.execute("RPUSH", keys.queue("default"), "nonsense", "x.0@1", f"{run}.7@2", "\0.0@9", "@")
    store.client.execute("ZADD", keys.ripples(), 1, "nonsense", 2, f"frob {run} 0 0 1", 3, "tell x 0 0 1")
    store.client.execute("ZADD", keys.due(), 1, "nonsense", 2, "t", 3, "rx", 4, "tx.0")
    store.client.execute("ZADD", keys.deadlines(), 1, "x")
    store.client.execute("SADD", keys.fans(), "nonsense", f"{run} 0 1")
    store.client.execute("RPUSH", keys.ended(), "nonsense", "x 1")
    for _ in range(8):
        go_on(store)
    assert ended(store, run) == ("completed", None)
    assert ended(store, wrong) == ("failed", "corrupt")
    assert store.client.execute("GET", f"{keys.PREFIX}corrupt:run:{wrong}") == b"a string"
    looked_at(store, wrong)


def test_a_heartbeat_that_cannot_be_read_is_passed_over(store: NodeStore) -> None:
    record = NodeRecord("node-a", "test", "1")
    store.beat(record, "here", 15.0)
    for junk in (*JUNK, b"1\nthere\n{", b"x\nthere\n{}"):
        store.client.execute("HSET", keys.NODES, "node-b", junk)
        assert [view.record for view in store.nodes()] == [record]
        store.beat(msgspec.structs.replace(record, node="node-b"), "there", 15.0)
        assert len(store.nodes()) == 2


def test_a_cancel_or_retry_of_it_says_how_it_ended(store: NodeStore) -> None:
    run = start(store, PAIR)
    store.client.execute("HSET", keys.run(run), "r", b"\xc1")
    with pytest.raises(KubeminError) as told:
        store.cancel(run)
    assert "has ended: failed" in str(told.value)
