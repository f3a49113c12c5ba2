"""Fixtures of the leadership tests.

`KUBEMIN_TEST_KUBECONFIG`: the tests of the API itself and those with whole daemons run against that server, too.
`KUBEMIN_TEST_LONG=1`: leases of 15 s and long random runs, several minutes. `--leader-seconds`, `--leader-trials`: how
long, and how often, whole daemons are struck.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.apiserver import ApiServer

from leader.daemons import Daemons
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


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("leader")
    group.addoption("--leader-seconds", type=float, default=5.0, help="how long leaders are struck")
    group.addoption("--leader-trials", type=int, default=0, help="fail-overs that are measured with leases of 15 s")


@pytest.fixture
def leader_seconds(request: pytest.FixtureRequest) -> float:
    seconds: float = request.config.getoption("--leader-seconds")
    return seconds


@pytest.fixture
def leader_trials(request: pytest.FixtureRequest) -> int:
    trials: int = request.config.getoption("--leader-trials")
    return trials


@pytest.fixture(params=["kubernetes", "redis", *(["real"] if REAL else [])])
def begin(request: pytest.FixtureRequest) -> Iterator[Callable[..., Daemons]]:
    """`begin(election=…, gracefulTimeout=…)`: three daemons, to be started, over each backend."""
    with ExitStack() as stack:

        def made(**options: Any) -> Daemons:
            api = stack.enter_context(ApiServer()) if request.param == "kubernetes" else None
            real = REAL if request.param == "real" else ""
            return stack.enter_context(Daemons(api=api, real=real, **options))

        yield made


@pytest.fixture(scope="module", params=["double", "real"] if REAL else ["double"])
def kubeconfig(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Of the double and, where there is one, of a real API server."""
    if request.param == "real":
        yield Path(REAL)
        return
    with ApiServer(namespace=False) as server:
        yield server.kubeconfig()
