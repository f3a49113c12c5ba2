"""Fixtures of the fleet's tests: a server and a fleet for each test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from nodes import Fleet, a_fleet
from support.places import PLACES, USUAL


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
