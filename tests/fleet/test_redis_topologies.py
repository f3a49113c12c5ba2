"""The same work over every way to reach a server: unix socket, TCP, ACL user, TLS, Sentinel, Cluster; fail-overs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from driving import ALICE, accept, complete_all, ended, finish, outcome, single, start, take
from graphs import join, node, workflow
from support.redis_server import Server, running
from support.tls import TlsProxy
from support.topologies import Cluster, Sentinels

from kubemin.errors import StoreUnavailable
from kubemin.store.base import Verdict
from kubemin.store.redis import keys
from kubemin.store.redis.node import NodeStore

GRAPH = workflow(
    "g", node("a"), node("p/", 0), node("p/x", 1), node("p/y", 1), join("p", 1, 2, 3), node("e", 4, items=[1, 2, 3])
)
KINDS = ["redis", "valkey"]
USER = "kubemin"


def works(store: NodeStore) -> None:
    """A workflow, single tasks and reads go through."""
    run = start(store, GRAPH)
    alone = accept(store, single(), single(queue="etl"))
    assert len(complete_all(store, ("default", "etl"))) == 8
    assert {ended(store, each) for each in (run, *alone)} == {("completed", None)}
    assert store.client.execute("KEYS", "workflow:*") == store.client.execute("KEYS", "lock:*") == []


def open_store(address: str, **options: object) -> NodeStore:
    return NodeStore(address, instance="test", node="node-a", **options)


def within(seconds: float, call: Callable[[], object]) -> object:
    until = time.monotonic() + seconds
    while True:
        try:
            return call()
        except StoreUnavailable as failure:
            assert not failure.fatal and time.monotonic() < until, failure
            time.sleep(0.02)


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(request.param) as started:
        yield started


def test_unix_socket_tcp_and_databases(server: Server) -> None:
    for address in (server.address, server.tcp_address, f"redis://127.0.0.1:{server.port}/3"):
        store = open_store(address)
        works(store)
        store.close()


def test_an_acl_user_with_our_keys_alone(server: Server) -> None:
    patterns = ("~workflow:*", "~lock:*", "~kubemin:*", "&*", "+@all", "-@dangerous", "+keys", "+info", "+client")
    server.command("ACL", "SETUSER", USER, "on", ">secret", *patterns)
    store = open_store(f"redis://{USER}:secret@127.0.0.1:{server.port}")
    works(store)
    store.close()


def test_tls(server: Server) -> None:
    with TlsProxy(server) as proxy:
        store = open_store(f"rediss://localhost:{proxy.port}?ca={proxy.ca}")
        works(store)
        store.close()
        stranger = open_store(f"rediss://localhost:{proxy.port}")
        with pytest.raises(StoreUnavailable) as failed:
            stranger.client.execute("PING")
        assert "not trusted" in str(failed.value)


@pytest.mark.parametrize("kind", KINDS)
def test_sentinel_with_a_failover_in_the_middle_of_work(kind: str) -> None:
    with Sentinels(kind) as sentinels, ExitStack() as stack:
        store = open_store(sentinels.address)
        stack.callback(store.close)
        works(store)
        run = start(store, GRAPH)
        (claim,) = take(store, 1)
        assert int(store.client.execute("WAIT", 1, 2000)) == 1
        began = time.monotonic()
        sentinels.fail_over()
        taken_over = time.monotonic()
        assert within(10, lambda: store.finish(ALICE, [outcome(claim)])) == [Verdict.ACCEPTED]
        later = time.monotonic() - taken_over
        print(f"{kind}: fail-over after {taken_over - began:.1f} s, work went on {later:.1f} s later")
        complete_all(store)
        assert ended(store, run) == ("completed", None)


@pytest.mark.parametrize("kind", KINDS)
def test_cluster_with_a_failover_in_the_middle_of_work(kind: str) -> None:
    with Cluster(kind) as cluster, ExitStack() as stack:
        store = open_store(cluster.address)
        stack.callback(store.close)
        works(store)
        run = start(store, GRAPH)
        (claim,) = take(store, 1)
        assert int(store.client.execute("WAIT", 1, 2000)) == 1
        cluster.fail_over(keys.SEQ)
        taken_over = time.monotonic()
        assert within(15, lambda: store.finish(ALICE, [outcome(claim)])) == [Verdict.ACCEPTED]
        print(f"{kind}: work went on {time.monotonic() - taken_over:.1f} s after the fail-over")
        complete_all(store)
        assert ended(store, run) == ("completed", None)


@pytest.mark.parametrize("kind", KINDS)
def test_scripts_change_nothing_while_the_slot_leaves_key_by_key(kind: str) -> None:
    """Declared keys are all there, and one that follows from data has left: nothing is popped, nothing half done."""
    with Cluster(kind) as cluster, ExitStack() as stack:
        store = open_store(cluster.address)
        stack.callback(store.close)
        runs = accept(store, single(), single(), single())
        (claim,) = take(store, 1)
        move = cluster.begin_move(keys.SEQ)
        move.carry(keys.run(runs[1]))
        for _ in range(3):
            with pytest.raises(StoreUnavailable) as failed:
                store.finish_and_claim(ALICE, [outcome(claim)], ("default",), 1)
            assert failed.value.code == "clusterdown" and not failed.value.fatal
        assert move.source.command("LLEN", keys.queue("default")) == b":2\r\n"
        assert move.source.command("EXISTS", f"{keys.LOCK}{claim.task}") == b":1\r\n"
        move.carry_all()
        with pytest.raises(StoreUnavailable):
            store.finish_and_claim(ALICE, [outcome(claim)], ("default",), 1)
        move.end()
        verdicts, claims = within(5, lambda: store.finish_and_claim(ALICE, [outcome(claim)], ("default",), 1))  # type: ignore[misc]
        assert verdicts == [Verdict.ACCEPTED] and [each.run for each in claims] == [runs[1]]
        finish(store, outcome(claims[0]))
        complete_all(store)
        assert {ended(store, run) for run in runs} == {("completed", None)}
