"""Fixtures of the fleet's tests: a server and a fleet for each test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from nodes import Fleet, a_fleet


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Its server keeps an AOF, so that it can be restarted. The nodes' logs are printed: pytest shows them when a test
    fails."""
    with a_fleet(tmp_path, appendonly="yes") as made:
        yield made
        for node in made.nodes:
            print(f"--- {node.config.parent.name}\n{node.log[-60000:]}")
