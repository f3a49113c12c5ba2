"""The stores under test. A new engine is one more entry in `ENGINES`, and every test of the suite runs on it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import ELSEWHERE, ENGINES, Engine


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where there is such a place: these tests commit much and check no disk."""
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="kubemin-store-", dir=parent))
    yield path
    shutil.rmtree(path)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" in metafunc.fixturenames:
        elsewhere = sorted(ELSEWHERE) if metafunc.config.getoption("--topologies") else []
        metafunc.parametrize("engine", [*sorted(ENGINES), *elsewhere], indirect=True)


@pytest.fixture
def engine(request: pytest.FixtureRequest, folder: Path) -> Iterator[Engine]:
    engine = (ENGINES | ELSEWHERE)[request.param](folder)
    yield engine
    engine.close()
