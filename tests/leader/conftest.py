"""Fixtures of the leadership tests.

`KUBEMIN_TEST_KUBECONFIG`: the tests of the API itself run against that server, too. `KUBEMIN_TEST_LONG=1`: leases of
15 s and long random runs, several minutes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.apiserver import ApiServer

from leader.fleet import Fleet

REAL = os.environ.get("KUBEMIN_TEST_KUBECONFIG", "")


@pytest.fixture
def api() -> Iterator[ApiServer]:
    """The double, fresh, with the namespace in place."""
    with ApiServer() as server:
        yield server


@pytest.fixture
def start_fleet() -> Iterator[Callable[..., Fleet]]:
    """`start_fleet("abc", api=api)`: three nodes; checked and ended with the test."""
    with ExitStack() as stack:

        def start(names: str, **options: Any) -> Fleet:
            fleet = Fleet(names, **options)
            stack.callback(fleet.close)
            return fleet

        yield start


@pytest.fixture(scope="module", params=["double", "real"] if REAL else ["double"])
def kubeconfig(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Of the double and, where there is one, of a real API server."""
    if request.param == "real":
        yield Path(REAL)
        return
    with ApiServer(namespace=False) as server:
        yield server.kubeconfig()
