"""The client against servers that are away, broken or unwilling: each error has its class, nothing is done twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from driving import ALICE, accept, finish, outcome, single, take
from support.redis_server import Server, running

from kubemin.errors import Invalid, StoreUnavailable
from kubemin.store.base import Verdict
from kubemin.store.redis import address as addresses
from kubemin.store.redis import keys
from kubemin.store.redis.backoff import LONGEST_PAUSE
from kubemin.store.redis.client import Client
from kubemin.store.redis.node import NodeStore

SECRET = "open-sesame"


@pytest.fixture(params=["redis", "valkey"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(request.param, appendonly="yes", appendfsync="always") as started:
        yield started


def opened(server: Server, **options: object) -> NodeStore:
    client = Client(addresses.parse(server.address), timeout=1.0)
    return NodeStore(server.address, instance="test", node="node-a", client=client, **options)


def code_of(call: object) -> str:
    with pytest.raises(StoreUnavailable) as failed:
        call()  # type: ignore[operator]
    assert SECRET not in str(failed.value) and "\n" not in str(failed.value)
    return failed.value.code


def eventually(call: object, within: float = 5.0) -> object:
    """What the call answers as soon as the outage is over: within five seconds."""
    until = time.monotonic() + within
    while True:
        try:
            return call()  # type: ignore[operator]
        except StoreUnavailable as failure:
            assert not failure.fatal and time.monotonic() < until, failure
            time.sleep(0.02)


def test_who_stops_waits_no_longer_than_it_has_time(server: Server) -> None:
    with closing(Client(addresses.parse(server.address), timeout=20.0)) as client:
        assert client.execute("PING")
        client.hurry(0.2)
        server.pause()
        began = time.monotonic()
        for _ in range(2):  # on the connection that was there, and on a new one
            assert code_of(lambda: client.execute("PING")) == "timeout"
            time.sleep(client.retry_in())
        assert time.monotonic() - began < 10
        server.resume()


def test_a_killed_server_comes_back_with_its_log_and_the_result_is_delivered(server: Server) -> None:
    store = opened(server)
    runs = accept(store, single(), single())
    (claim,) = take(store, 1)
    server.kill()
    assert code_of(lambda: store.finish(ALICE, [outcome(claim)])) == "connection"
    server.start()
    verdicts, claims = eventually(lambda: store.finish_and_claim(ALICE, [outcome(claim)], ["default"], 1))  # type: ignore[misc]
    assert verdicts == [Verdict.ACCEPTED] and [each.run for each in claims] == [runs[1]]
    assert {str(state) for state in store.states(runs).values()} == {"completed", "running"}
    store.close()


def test_a_stopped_server_times_out_and_the_request_counts_once(server: Server) -> None:
    store = opened(server)
    accept(store, single(), single())
    (claim,) = take(store, 1)
    server.pause()
    began = time.monotonic()
    assert code_of(lambda: store.finish_and_claim(ALICE, [outcome(claim)], ["default"], 1)) == "timeout"
    assert time.monotonic() - began < 3
    server.resume()
    verdicts, claims = eventually(lambda: store.finish_and_claim(ALICE, [outcome(claim)], ["default"], 1))  # type: ignore[misc]
    assert verdicts == [Verdict.ACCEPTED] and len(claims) == 1
    assert len(store.running()) == 1
    store.close()


def test_every_connection_killed_three_times_and_scripts_flushed_change_nothing(server: Server) -> None:
    store = opened(server)
    runs = accept(store, *(single() for _ in range(6)))
    done = []
    for round_number in range(6):
        if round_number % 2:
            server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        else:
            server.command("SCRIPT", "FLUSH")
        (claim,) = take(store, 1)
        finish(store, outcome(claim))
        done.append(claim.run)
    assert sorted(done) == sorted(runs)
    store.close()


def test_a_server_that_is_away_is_not_stormed(server: Server) -> None:
    store = opened(server)
    store.client.execute("PING")
    server.stop()
    began, attempts = time.monotonic(), 0
    original = store.client._connect

    def counted() -> object:
        nonlocal attempts
        attempts += 1
        return original()

    store.client._connect = counted  # type: ignore[method-assign]
    while time.monotonic() - began < 1.5:
        assert code_of(lambda: store.client.execute("PING")) == "connection"
        assert 0 <= store.client.retry_in() <= LONGEST_PAUSE
        time.sleep(0.001)
    assert 3 <= attempts <= 15, attempts
    server.start()
    eventually(lambda: store.client.execute("PING"))
    store.close()


def test_a_replica_and_a_master_without_replicas_have_their_codes(server: Server) -> None:
    store = opened(server)
    accept(store, single())
    server.command("REPLICAOF", "127.0.0.1", "1")
    assert code_of(lambda: take(store, 1)) == "readonly"
    server.command("REPLICAOF", "NO", "ONE")
    server.command("CONFIG", "SET", "min-replicas-to-write", 1)
    assert code_of(lambda: store.client.execute("SET", keys.PROBE, "")) == "noreplicas"  # 6.2 lets scripts pass
    server.command("CONFIG", "SET", "min-replicas-to-write", 0)
    assert len(eventually(lambda: take(store, 1))) == 1  # type: ignore[arg-type]
    store.close()


def test_a_server_without_room_for_clients(server: Server) -> None:
    server.command("CONFIG", "SET", "maxclients", 2)
    others = [opened(server) for _ in range(2)]
    for each in others:
        each.client.execute("PING")
    another = opened(server)
    # It answers and closes at once: whether the answer can still be read is a race.
    assert code_of(lambda: another.client.execute("PING")) in ("maxclients", "connection")
    others[0].close()
    assert eventually(lambda: another.client.execute("PING")) == b"PONG"
    for each in (*others, another):
        each.close()


def test_passwords_and_rights(server: Server) -> None:
    server.command("ACL", "SETUSER", "kubemin", "on", f">{SECRET}", "~*", "+@all", "-evalsha", "-eval")
    server.command("CONFIG", "SET", "requirepass", SECRET)
    assert code_of(lambda: Client(addresses.parse(server.address)).execute("GET", "x")) == "noauth"
    wrong = addresses.parse(f"redis://kubemin:{SECRET}x@127.0.0.1:{server.port}")
    assert code_of(lambda: Client(wrong).execute("GET", "x")) == "noauth"
    limited = NodeStore(f"redis://kubemin:{SECRET}@127.0.0.1:{server.port}", instance="i", node="n")
    assert code_of(lambda: take(limited, 1)) == "noperm"
    assert SECRET not in repr(limited.client.where) and SECRET not in limited.client.address.shown
    limited.close()


def test_a_loading_server_is_waited_for(server: Server) -> None:
    store = opened(server)
    fill = "for n = 1, 5000 do redis.call('SET', ARGV[1] .. n, n) end"
    for part in range(60):
        store.client.execute("EVAL", fill, 0, f"filling:{part}:")
    server.kill()
    server.start(wait=False)
    codes = set()
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            store.client.execute("GET", keys.SEQ)
            break
        except StoreUnavailable as failure:
            codes.add(failure.code)
    assert codes <= {"connection", "loading", "timeout"}
    store.close()


@pytest.mark.parametrize(
    ("text", "kind", "shown"),
    [
        ("10.0.0.5", "single", "10.0.0.5:6379"),
        ("h:7000", "single", "h:7000"),
        (f"redis://u:{SECRET}@h:1/3", "single", "h:1"),
        (f"rediss://:{SECRET}@h", "single", "h:6379"),
        ("unix:///run/redis.sock?db=2", "unix", "/run/redis.sock"),
        ("redis+sentinel://a:1,b/main/2", "sentinel", "a:1,b:26379/main"),
        (f"redis+cluster://{SECRET}:{SECRET}@a:1,b:2", "cluster", "a:1,b:2"),
        ("[::1]:7000", "single", "[::1]:7000"),
    ],
)
def test_addresses(text: str, kind: str, shown: str) -> None:
    address = addresses.parse(text)
    assert (address.kind, address.shown) == (kind, shown)


@pytest.mark.parametrize("text", ["http://x", "redis+sentinel://a:1", "redis://", "h:x", "redis://h/abc"])
def test_addresses_that_are_wrong(text: str) -> None:
    with pytest.raises(Invalid):
        addresses.parse(text)
