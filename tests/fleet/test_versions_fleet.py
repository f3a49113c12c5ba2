"""Two versions of the record in one fleet: an upgrade as it is documented, followers first, the leader last.

A node of the next version is this code with the version raised before anything else is imported: nothing else differs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from driving import BOB, accept, ended, finish, outcome, single, start, take
from graphs import node, workflow
from nodes import Fleet
from support import Completed, Daemon, wait_until
from support.programs import PROJECT
from support.redis_server import Server

from kubemin.errors import Refused
from kubemin.model.graph import Concurrency, Retry
from kubemin.model.records import Owner
from kubemin.model.states import RunState, TaskState
from kubemin.store.base import Retention, RunFilter
from kubemin.store.redis import keys
from kubemin.store.redis.node import NodeStore

NEXT = 2
LAUNCHER = f"""
import sys
sys.path.insert(0, {str(PROJECT)!r})
import kubemin.store.redis.records as records
records.VERSION = {NEXT}
from kubemin.cli.{{module}} import main
sys.exit(main(sys.argv[1:]))
"""


class Upgraded(Daemon):
    """A daemon of the next version."""

    def command(self, name: str) -> list[str]:
        path = self.home / f"next-{name}.py"
        path.write_text(LAUNCHER.format(module=name))
        return [sys.executable, str(path)]

    def ctl(self, *args: str, **options: Any) -> Completed:
        return self.fresh_ctl(*args, **options)


def upgrade(daemon: Daemon) -> None:
    """Stop it, if it runs, and start the next version on its directories."""
    if daemon.running:
        assert daemon.stop() == 0, daemon.log
    daemon.__class__ = Upgraded
    daemon.start()


def test_an_upgrade_followers_first_the_leader_last(fleet: Fleet) -> None:
    leader = fleet.node()
    fleet.wait_leader()
    follower = fleet.node()
    assert fleet.wait_leader() is leader
    upgrade(follower)
    done = follower.ctl("submit", "-f", str(follower.workflow("one.yaml", ONE)), "--wait")
    assert done.code == 0, done
    run = done.stdout.split()[0]
    assert follower.ctl("show", run, "-o", "json").json["tasks"][0]["node"] == "node-1"
    leader.wait_log("the fleet has records of a newer version", 15)

    # Both take what the old one accepts; the new one's is left alone by the old one, for as long as it takes.
    old = leader.client.enqueue_many("fleetfunctions:nap", [((0.05,), {}) for _ in range(40)])
    assert set(leader.client.wait(old, 20).values()) == {"completed"}
    reader = leader.client.reader()
    assert {reader.run(each.id).tasks[0].node for each in old} == {"node-0", "node-1"}
    follower.stop()
    left = follower.ctl("submit", "-f", str(follower.workflows / "one.yaml")).stdout.split()[0]
    delayed = follower.ctl("submit", "-f", str(follower.workflows / "one.yaml"), "--in", "4s").stdout.split()[0]
    time.sleep(1.5)  # nothing may happen: there is nothing to wait for
    shown = leader.ctl("show", left)
    assert shown.code == 5 and "records of version 2, newer than this kubemin knows (1)" in shown.stderr
    assert [leader.ctl(what, left).code for what in ("cancel", "retry", "why")] == [5, 5, 5]
    assert [item["id"] for item in leader.ctl("runs", "-o", "json").json["items"]][:2] == [delayed, left]
    assert leader.ctl("queue", "-o", "json").json["items"][0]["length"] == 1
    assert leader.log.count("the fleet has records of a newer version") == 1 and "Traceback" not in leader.log
    assert int(fleet.server.command("LLEN", "workflow:queue")[1:]) == 0, "the contract's list is version 1's alone"
    assert int(fleet.server.command("LLEN", keys.queue("default", NEXT))[1:]) == 1

    upgrade(leader)
    fleet.wait_leader(20)
    for each in (left, delayed):
        wait_until(lambda each=each: status(leader, each) == "completed", 20, what="the end of what was left")


ONE = "name: one\nsteps: [{name: a, run: [echo, hi]}]\n"


def status(daemon: Daemon, run: str) -> str:
    found: str = daemon.ctl("show", run, "-o", "json").json["status"]
    return found


# --- what each of the two does with the other's records, without daemons ---


@pytest.fixture
def old(store: NodeStore) -> NodeStore:
    return store


@pytest.fixture
def new(server: Server, old: NodeStore) -> Iterator[NodeStore]:
    made = NodeStore(server.address, instance="new", node="new", version=NEXT)
    yield made
    made.close()


NEW = Owner("new", 0, 1)
PAIR = workflow("pair", node("a", retry=Retry(1, delay=0.01)), node("b", 0))
SOON = 1_500_000  # microseconds


def test_old_work_that_the_new_touches_stays_old(old: NodeStore, new: NodeStore) -> None:
    """A retry's due time, a deadline and what follows belong to the run's version, not to that of who wrote them."""
    run = start(old, workflow("timed", node("a", retry=Retry(1, delay=0.01)), node("b", 0), timeout=60.0))
    (claim,) = take(new, 1, NEW)
    finish(new, outcome(claim, TaskState.FAILED), owner=NEW)
    assert old.client.execute("ZCARD", keys.due()) == old.client.execute("ZCARD", keys.deadlines()) == 1
    time.sleep(0.02)
    assert old.promote() == 1
    for owner, store in ((BOB, old), (NEW, new)):
        (claim,) = take(store, 1, owner)
        finish(store, outcome(claim), owner=owner)
    assert ended(old, run) == ("completed", None)
    assert old.client.execute("KEYS", "*@v2") == []


def test_the_new_leader_looks_after_both(old: NodeStore, new: NodeStore) -> None:
    runs = [start(store, PAIR, start_at=store.now() + SOON) for store in (old, new)]
    runs += accept(old, single(start_at=old.now() + SOON)) + accept(new, single(start_at=new.now() + SOON))
    assert new.next_due() is not None
    assert old.promote() == new.promote() == 0, "not yet"
    for store in (old, new):
        promoted: list[int] = []
        wait_until(lambda store=store, done=promoted: done.append(store.promote()) or sum(done) == 2, 10)
    assert {claim.run for claim in take(old, 9, BOB)} == {runs[0], runs[2]}
    assert {claim.run for claim in take(new, 9, NEW)} == {runs[1], runs[3]}


def test_a_large_new_graph_is_not_unpacked_by_the_old(old: NodeStore, new: NodeStore) -> None:
    run = start(new, workflow("wide", *(node(f"s{n}") for n in range(2000))))
    batch = msgspec.json.encode([single() for _ in range(3)])
    new.stage("x", batch)
    new.seal("x")
    while old.advance():
        pass
    before = new.client.execute("HLEN", keys.tasks(run))
    assert before < 2000 and old.client.execute("HLEN", keys.tasks(run)) == before
    while new.advance():
        pass
    assert new.client.execute("HLEN", keys.tasks(run)) == 2000
    assert new.client.execute("ZCARD", keys.RUNS) == 4


def test_a_concurrency_key_passes_between_them(old: NodeStore, new: NodeStore) -> None:
    one_at_a_time = workflow("alone", node("a"), concurrency=Concurrency("key", "queue"))
    first, second, third = start(old, one_at_a_time), start(new, one_at_a_time), start(old, one_at_a_time)
    (claim,) = take(old, 9, BOB)
    finish(old, outcome(claim), owner=BOB)
    assert old.advance() is False and take(old, 9, BOB) == []
    assert new.client.execute("ZCARD", keys.ripples(NEXT)) == 1, "the old one has left its turn to those who know it"
    new.advance()
    (claim,) = take(new, 9, NEW)
    assert claim.run == second
    finish(new, outcome(claim), owner=NEW)
    (claim,) = take(old, 9, BOB)
    assert claim.run == third
    finish(old, outcome(claim), owner=BOB)
    assert ended(old, first) == ended(old, third) == ("completed", None)


def test_the_old_leader_recovers_what_it_knows_of_a_lost_new_node(old: NodeStore, new: NodeStore) -> None:
    known, unknown = accept(old, single())[0], start(new, PAIR)
    assert len(take(new, 9, NEW)) == 2
    old.renew([], [])
    old.client.execute("HSET", keys.STAMP, "grace", 0)
    for key in old.client.execute("KEYS", f"{keys.LOCK}*"):
        old.client.execute("DEL", key)
    assert old.recover_lapsed() == (1, 0.0)
    assert [claim.run for claim in take(old, 9, BOB)] == [known]
    assert old.adopt("new", {}) == 0, "a downgrade on the same state directory"
    assert new.recover_lapsed()[0] == 1
    assert [claim.run for claim in take(new, 9, Owner("new2", 0, 1))] == [unknown]


def test_the_old_prunes_and_lists_around_the_new(old: NodeStore, new: NodeStore) -> None:
    runs = accept(new, single()) + accept(old, single())
    for store, owner in ((new, NEW), (old, BOB)):
        for claim in take(store, 9, owner):
            finish(store, outcome(claim), owner=owner)
    all_gone = Retention(days=0, runs=0, minimum=0)
    old.lose(BOB, None), new.lose(NEW, None)
    old.prune(all_gone)
    assert old.states(runs) == {runs[0]: RunState.COMPLETED}
    old.prune(all_gone)
    assert new.run(runs[0]).status is RunState.COMPLETED
    assert [(view.id, view.cause) for view in old.runs(RunFilter())] == [(runs[0], "newer_record")]
    new.prune(all_gone)
    assert new.states(runs) == {}


def test_the_old_refuses_what_users_ask_of_the_new(old: NodeStore, new: NodeStore) -> None:
    run, solo = start(new, PAIR), accept(new, single())[0]
    for each in (run, solo):
        for call in (old.run, old.cancel, old.retry, old.obstacles):
            with pytest.raises(Refused) as refused:
                call(each)
            assert refused.value.code == "newer_record" and "version 2" in str(refused.value)
    new.publish([workflow("published", node("a"))])
    with pytest.raises(Refused):
        old.definition("published")
    assert old.schedule_marks() == {} and old.workflows() == []
    assert [change.event for change in old.changes()] == ["left"]
    assert len(take(new, 9, NEW)) == 2, "nothing of it was changed"


def test_a_pause_by_the_old_holds_the_new_as_well(old: NodeStore, new: NodeStore) -> None:
    accept(new, single())
    old.pause("default")
    assert take(new, 9, NEW) == []
    old.resume("default")
    assert len(take(new, 9, NEW)) == 1


def test_a_newer_record_in_an_older_list_goes_to_its_own(old: NodeStore, new: NodeStore) -> None:
    """However it came there, a restore or a hand: it is neither run nor thrown away, and the worker goes on."""
    solo, step, other = accept(old, single())[0], start(old, PAIR), accept(old, single())[0]
    old.client.execute("HSET", keys.run(solo), "s", b"q1 2 default")
    record = msgspec.msgpack.decode(old.client.execute("HGET", keys.run(step), "r"))
    old.client.execute("HSET", keys.run(step), "r", msgspec.msgpack.encode(record | {"v": 2}))
    old.client.execute("HSET", keys.tasks(step), "i", "2 in another form")
    assert [claim.run for claim in take(old, 9, BOB)] == [other]
    assert [change.event for change in old.changes() if change.event == "newer"] == ["newer"] * 2
    assert take(old, 9, BOB) == [] and old.rescue(["default"], 0.0) == ([], 0)
    assert {claim.run for claim in take(new, 9, NEW)} == {solo, step}
