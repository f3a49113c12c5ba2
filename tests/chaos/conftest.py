"""Options of the chaos tests: short in CI, long by `--chaos-seconds 3600`; a failure is repeated by its seed."""

from __future__ import annotations

import os

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos")
    group.addoption("--chaos-seconds", type=float, default=8.0, help="how long faults are injected, for each seed")
    group.addoption("--chaos-seeds", default="1", help="seeds, separated by commas; `random` draws one")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        text = metafunc.config.getoption("--chaos-seeds")
        drawn = [int.from_bytes(os.urandom(4), "big")] if text == "random" else [int(s) for s in text.split(",")]
        metafunc.parametrize("seed", drawn)


@pytest.fixture
def chaos_seconds(request: pytest.FixtureRequest) -> float:
    seconds: float = request.config.getoption("--chaos-seconds")
    return seconds
