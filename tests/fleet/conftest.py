"""Fixtures of the fleet's tests: a fleet for each test, and a server a module for tests of the store alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from nodes import Fleet, a_fleet
from support.places import PLACES, USUAL
from support.redis_server import Server, running

from kubemin.store.redis.node import NodeStore


@pytest.fixture
def place(request: pytest.FixtureRequest) -> str:
    """A single Redis; with `--topologies` what says so by `everywhere` is run in every place."""
    return str(getattr(request, "param", USUAL))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.config.getoption("--topologies") and metafunc.definition.get_closest_marker("everywhere"):
        metafunc.parametrize("place", PLACES, indirect=True)


@pytest.fixture
def fleet(place: str, tmp_path: Path) -> Iterator[Fleet]:
    """A single server keeps an AOF, so that it can be restarted. The nodes' logs are printed: pytest shows them when a
    test fails."""
    with a_fleet(tmp_path, place, appendonly="yes") as made:
        yield made
        for node in made.nodes:
            print(f"--- {node.config.parent.name}\n{node.log[-60000:]}")


@pytest.fixture(scope="module", params=["redis", "valkey"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(request.param) as started:
        yield started


@pytest.fixture
def store(server: Server) -> Iterator[NodeStore]:
    """Of one node of a fleet, on a server that holds nothing."""
    made = NodeStore(server.address, instance="test", node="node-a")
    made.client.execute("FLUSHALL")
    yield made
    made.close()
