"""A thousand clients of one server that goes and comes: they do not storm it, and do not come back at one instant."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from support.redis_server import Server, running

from kubemin.errors import StoreUnavailable
from kubemin.store.redis import address as addresses
from kubemin.store.redis.backoff import LONGEST_PAUSE
from kubemin.store.redis.client import Client

CLIENTS = 1000
AWAY = 4.0  # seconds
TRIES = 6  # of each client at least, by when their pauses have grown to their full length
CROWD = 250  # clients that want to connect within 0.1 s, of 1,000: a storm is all of them


@pytest.fixture
def clients() -> Iterator[tuple[Server, list[Client]]]:
    with running(maxclients=2000) as server:
        made = [Client(addresses.parse(server.address)) for _ in range(CLIENTS)]
        yield server, made
        for each in made:
            each.close()


def tried(clients: list[Client]) -> tuple[int, list[Client]]:
    """Those whose turn it is ask once: how many did, and who is not through yet."""
    count, waiting = 0, []
    for each in clients:
        if each.retry_in():
            waiting.append(each)
            continue
        count += 1
        try:
            each.execute("PING")
        except StoreUnavailable:
            waiting.append(each)
    return count, waiting


def test_a_thousand_clients_reconnect(clients: tuple[Server, list[Client]]) -> None:
    server, everyone = clients
    assert tried(everyone) == (CLIENTS, [])
    server.kill()
    until, attempts, early = time.monotonic() + AWAY, 0, 0
    while time.monotonic() < until or attempts < TRIES * CLIENTS:
        attempts += tried(everyone)[0]
        time.sleep(0.005)
        if time.monotonic() < until:
            early = attempts
    print(f"{early / CLIENTS:.1f} attempts of each client in {AWAY:g} s")
    assert early / CLIENTS < 12
    wishes = sorted(each.retry_in() for each in everyone)
    crowd = max(sum(at <= wish < at + 0.1 for wish in wishes) for at in wishes)
    print(f"of {CLIENTS} clients, {crowd} at most want to connect within 0.1 s, the last in {wishes[-1]:.2f} s")
    assert crowd < CROWD and wishes[-1] <= LONGEST_PAUSE
    server.start()
    began, waiting = time.monotonic(), everyone
    while waiting and time.monotonic() < began + 10:
        waiting = tried(waiting)[1]
        time.sleep(0.001)
    seconds = time.monotonic() - began
    print(f"all are back after {seconds:.2f} s")
    assert not waiting and seconds < LONGEST_PAUSE + 2
