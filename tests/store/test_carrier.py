"""A node in its fleet whose own disk fails: the runs in its own file wait, and the node goes on in the fleet."""

from __future__ import annotations

import select
from collections.abc import Iterator
from pathlib import Path

import pytest
from both import Both
from driving import accept, single
from support import wait_until

from kubemin.config import Settings
from kubemin.coordinator.fleet.carrying import Carrier
from kubemin.coordinator.fleet.workers import FleetPool
from kubemin.coordinator.pending import Pending
from kubemin.errors import StoreUnavailable
from kubemin.scoreboard import Scoreboard


class Node:
    """What a fleet's coordinator has of its own store, without workers."""

    def __init__(self, folder: Path, both: Both) -> None:
        settings = Settings(state_dir=str(folder), node_id="node-a")
        board = Scoreboard.create(str(folder / "scoreboard"), slots=1)
        self.poller = select.epoll()
        self.pool, self.pending = FleetPool("test", self.poller), Pending()
        self.carrier = Carrier(settings, "test", both.fleet.store, board, [])

    def turn(self) -> None:
        self.carrier.turn(self.pool, self.pending)

    def pragma(self, text: str) -> None:
        assert self.carrier._store is not None
        self.carrier._store._session.db.execute(f"PRAGMA {text}")

    def close(self) -> None:
        self.carrier.close()
        self.poller.close()


@pytest.fixture
def both(folder: Path) -> Iterator[Both]:
    made = Both(folder)
    yield made
    made.close()


@pytest.fixture
def runs(both: Both) -> list[str]:
    submitted = accept(both.store, *(single(work={"python": "a:b", "args": ["x" * 2000]}) for _ in range(50)))
    both.local.store.close()
    return submitted


@pytest.fixture
def node(folder: Path, both: Both, runs: list[str]) -> Iterator[Node]:
    made = Node(folder, both)
    made.carrier.open(made.pool, made.pending)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("fails", "works"),
    [("max_page_count = 1", "max_page_count = 1000000"), ("query_only = 1", "query_only = 0")],
    ids=["full", "read-only"],
)
def test_a_disk_that_fails_concerns_this_file_alone(
    node: Node, both: Both, runs: list[str], fails: str, works: str
) -> None:
    node.pragma(fails)
    wait_until(lambda: node.turn() or node.carrier._failure, 5, what="the failure")
    assert node.carrier.active and both.fleet.store.states(runs) == {}
    node.pragma(works)
    wait_until(lambda: node.turn() or not node.carrier.active, 10, what="the end of the move")
    assert len(both.fleet.store.states(runs)) == len(runs)


def test_an_outage_of_the_fleets_store_is_one(node: Node, both: Both) -> None:
    both.fleet.store.client.address = type(both.fleet.store.client.address)("unix", path="/nowhere")
    both.fleet.store.client.disconnect()
    with pytest.raises(StoreUnavailable) as told:
        wait_until(node.turn, 5)
    assert told.value.code == "connection"
