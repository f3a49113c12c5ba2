"""Signed records, claim by claim, without daemons: what a store with a key believes, and what it signs."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import msgspec
import pytest
from driving import ALICE, accept, of, outcome, single, start
from graphs import node, workflow
from support.redis_server import Server, running

from kubemin import clock
from kubemin.errors import Refused
from kubemin.model.graph import Schedule
from kubemin.model.records import Claim
from kubemin.model.states import Cause, TaskState
from kubemin.signing import Signer
from kubemin.store.base import Verdict
from kubemin.store.redis import keys
from kubemin.store.redis.node import NodeRecord, NodeStore

WEEK = 7 * 86_400.0
SIGNER = Signer([b"1" * 64])
pack, unpack = msgspec.msgpack.encode, msgspec.msgpack.decode
CHAIN = workflow("chain", node("a"), node("b", 0, work={"run": ["echo", "${{ steps.a.output }}"]}, refs=(0,)))
OTHER = workflow("chain", node("a"), node("b", 0, work={"run": ["evil"]}))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as started:
        yield started


@pytest.fixture
def store(server: Server) -> Iterator[NodeStore]:
    made = opened(server)
    made.client.execute("FLUSHALL")
    yield made
    made.close()


def opened(server: Server, signer: Signer | None = SIGNER) -> NodeStore:
    made = NodeStore(server.address, instance="test", node="node-a")
    made.trust(signer, WEEK)
    return made


def take(store: NodeStore) -> list[Claim]:
    return store.claim(ALICE, ("default",), 10)


def complete(store: NodeStore, claim: Claim, output: Any = None) -> None:
    done = outcome(claim, output=output)
    done.signature = store.sign_output(claim, done)
    assert store.finish(ALICE, [done]) == [Verdict.ACCEPTED]


def change(store: NodeStore, key: str, field: str | int, **changes: Any) -> None:
    record = unpack(store.client.execute("HGET", key, field))
    store.client.execute("HSET", key, field, pack(record | changes))


def cause(store: NodeStore, run: str) -> str | None:
    return store.run(run).cause


def test_what_is_signed_is_claimed(store: NodeStore) -> None:
    run = start(store, CHAIN, key="k")
    [first] = take(store)
    complete(store, first, "out")
    [second] = take(store)
    assert second.inputs is not None and b'"a":"out"' in bytes(second.inputs)
    complete(store, second)
    assert store.run(run).status == "completed"
    [alone] = accept(store, single(retry={"limit": 1}, timeout=5.0, key="other"))
    [claim] = take(store)
    assert claim.run == alone and claim.timeout == 5.0


def change_seen(store: NodeStore, run: str, d: str = "", R: int = 0, sc: int = 0, W: str = "") -> None:
    """What claims of plain steps are told of their run (lua/steps.lua)."""
    version, *words = store.client.execute("HGET", keys.tasks(run), "i").decode().split(" ")
    changed = [new or old for new, old in zip((d, R, sc, W), words, strict=True)]
    store.client.execute("HSET", keys.tasks(run), "i", " ".join(map(str, (version, *changed))))


@pytest.mark.parametrize("changes", [{"d": OTHER.hash}, {"W": "other"}, {"sc": 1}, {"R": 7}])
def test_a_run_that_is_changed_after_its_signature_was_seen(store: NodeStore, changes: dict[str, Any]) -> None:
    store.define([OTHER])
    run = start(store, CHAIN)
    [first] = take(store)
    complete(store, first, "out")
    change(store, keys.run(run), "r", **changes)
    change_seen(store, run, **changes)
    assert take(store) == [] and cause(store, run) == "unsigned"


def test_what_nobody_signed_is_not_run_and_not_signed_by_a_retry(server: Server, store: NodeStore) -> None:
    attacker = opened(server, None)
    runs = [start(attacker, CHAIN), *accept(attacker, single(), single(key="k"))]
    attacker.close()
    assert take(store) == [] and {cause(store, run) for run in runs} == {"unsigned"}
    for run in runs:
        with pytest.raises(Refused) as caught:
            store.retry(run)
        assert caught.value.code == "unsigned"
    assert take(store) == []


def test_a_retry_signs_the_next_round(store: NodeStore) -> None:
    run, alone = start(store, CHAIN), accept(store, single())[0]
    claims = {claim.run: claim for claim in take(store)}
    assert store.finish(ALICE, [outcome(claim, TaskState.FAILED, Cause.EXIT) for claim in claims.values()])
    assert store.retry(run) == store.retry(alone) == 2
    assert {claim.run for claim in take(store)} == {run, alone}


def test_staged_submissions_carry_their_signatures(server: Server, store: NodeStore) -> None:
    store.define([CHAIN])
    store.stage("batch", msgspec.json.encode([single(), single(timeout=3.0), of(CHAIN)]))
    assert store.seal("batch") == 3
    unpacker = opened(server, Signer([b"2" * 64]))  # whoever unpacks signs nothing
    while unpacker.advance():
        pass
    unpacker.close()
    assert len(take(store)) == 3


def test_a_leader_fires_no_slot_again_that_it_fired_and_none_of_long_ago(server: Server, store: NodeStore) -> None:
    ticking = workflow("ticking", node("a"), schedule=Schedule("* * * * * *"))
    store.publish([ticking])
    now = (store.now() // clock.SECOND + 1) * clock.SECOND
    assert store.fire("ticking", now, of(ticking, scheduled_at=now))
    change(store, keys.WORKFLOWS, "ticking", m=now - 9 * clock.SECOND)
    store.fire("ticking", now, of(ticking, scheduled_at=now))
    change(store, keys.WORKFLOWS, "ticking", m=1)
    long_ago = now - 8 * 86_400 * clock.SECOND
    successor = opened(server)
    successor.fire("ticking", long_ago, of(ticking, scheduled_at=long_ago))
    successor.close()
    assert len(take(store)) == 1


def test_without_keys_nothing_is_signed(server: Server, store: NodeStore) -> None:
    plain = opened(server, None)
    run, alone = start(plain, CHAIN), accept(plain, single())[0]
    assert plain.client.execute("HMGET", keys.run(run), "sig", "x") == [None, None]
    assert plain.client.execute("HGET", keys.run(alone), "x") is None
    assert len(take(plain)) == 2
    plain.close()


def test_of_nodes_with_different_keys_that_join_at_once_one_is_in(store: NodeStore, server: Server) -> None:
    together = Barrier(6)

    def join(number: int) -> NodeRecord | None:
        node = opened(server)
        node.client.execute("PING")
        together.wait(10)
        told = node.beat(NodeRecord(f"node-{number}", "test", "0", keys=(f"key-{number}",)), "here", 15.0, joins=True)
        node.close()
        return told

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(join, range(6)))
    [winner] = store.nodes()
    assert answers.count(None) == 1 and answers.index(None) == int(winner.record.node[-1])
    assert {each.node for each in answers if each is not None} == {winner.record.node}


def test_who_shares_a_key_or_meets_one_that_does_not_sign_joins(store: NodeStore) -> None:
    def joins(name: str, *ids: str) -> bool:
        return store.beat(NodeRecord(name, "test", "0", keys=ids), "here", 15.0, joins=True) is None

    assert joins("a", "one", "two") and joins("b", "two") and joins("c", "three", "one")
    assert not joins("d", "four") and not joins("e")
    store.leave("a")
    assert not joins("a", "four"), "its own record of before does not count"
    assert store.beat(NodeRecord("d", "test", "0", keys=("four",)), "here", 15.0) is None, "a heartbeat is not asked"
    for name in "bcd":
        store.leave(name)
    assert joins("f") and joins("g", "five"), "the fleet is about to begin to sign"
