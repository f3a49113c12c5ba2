"""Fixtures of the tests that hold one worker process by its channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from worker_harness import WorkerProcess


@pytest.fixture
def start(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., WorkerProcess]]:
    """`start(recycle=…)`: a worker with these settings, whose Python steps are the test module's `FUNCTIONS`."""
    workers: list[WorkerProcess] = []

    def begin(**changes: Any) -> WorkerProcess:
        workers.append(WorkerProcess(tmp_path, request.module.FUNCTIONS, **changes))
        return workers[-1]

    yield begin
    for worker in workers:
        worker.close()


@pytest.fixture
def worker(start: Callable[..., WorkerProcess]) -> WorkerProcess:
    return start()
