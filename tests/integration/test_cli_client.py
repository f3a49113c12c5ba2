"""The Python API against a real daemon: functions, results, waiting, and a coordinator that dies meanwhile."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support import Daemon, descendants

import kubemin
import kubemin.task

CODE = """
import os, time
import kubemin

@kubemin.task(retry={"limit": 2, "delay": "10ms"}, timeout="30s", queue="etl")
def flaky(folder):
    task = kubemin.current_task()
    open(os.path.join(folder, f"attempt-{task.attempt}"), "w").close()
    if task.attempt < 3:
        raise ValueError(f"attempt {task.attempt}")
    return {"attempt": task.attempt, "step": task.step}

def double(n):
    if n < 0:
        raise ValueError("negative")
    return 2 * n

def total(numbers):
    return sum(numbers)

def nap(seconds):
    time.sleep(seconds)
    return "rested"
"""


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("code")
    (folder / "apicode.py").write_text(CODE)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture
def node(start_daemon: Callable[..., Daemon], code: Path) -> Daemon:
    return start_daemon(queues=["default", "etl"], python={"path": [str(code)], "allow": ["apicode:*"]})


@pytest.fixture
def apicode(code: Path) -> ModuleType:
    import importlib

    return importlib.import_module("apicode")


def test_functions(node: Daemon, apicode: ModuleType, tmp_path: Path) -> None:
    client = node.client
    run = client.enqueue("apicode:double", 4)
    assert run.wait(10) == "completed" and run.result == 8
    assert list(run.outputs.values()) == [8]
    assert client.enqueue(apicode.double, n=5).wait(10) == "completed"

    decorated = client.enqueue(apicode.flaky, str(tmp_path))
    assert decorated.wait(20) == "completed"
    assert decorated.result["attempt"] == 3 and sorted(os.listdir(tmp_path)) == ["attempt-1", "attempt-2", "attempt-3"]

    failed = client.options(retry=0).enqueue(apicode.double, -1)
    assert failed.wait(10) == "failed"
    with pytest.raises(kubemin.RunFailed, match="negative"):
        failed.result  # noqa: B018
    assert client.options(timeout="200ms").enqueue("apicode:nap", 60).wait(20) == "timeout"
    refused = client.enqueue("os:getcwd")
    assert refused.wait(10) == "failed"
    with pytest.raises(kubemin.RunFailed, match=r"python\.allow"):
        refused.result  # noqa: B018


def test_the_decorators_enqueue(node: Daemon, apicode: ModuleType, tmp_path: Path) -> None:
    try:
        kubemin.task.set_enqueuer(lambda function, args, kwargs: node.client.enqueue(function, *args, **kwargs))
        assert apicode.flaky.enqueue(folder=str(tmp_path)).wait(20) == "completed"
    finally:
        kubemin.task._set_enqueuer = None


def test_maps(node: Daemon) -> None:
    client = node.client
    both = client.map("apicode:double", range(200), then="apicode:total")
    assert both.wait(20) == "completed" and both.result == sum(2 * n for n in range(200))
    alone = client.map("apicode:double", [3, 2, 1])
    assert alone.wait(10) == "completed" and alone.result == [6, 4, 2] and alone.outputs["each"] == [6, 4, 2]
    empty = client.map("apicode:double", [], then="apicode:total")
    assert empty.wait(10) == "completed" and empty.result == 0
    failed = client.map("apicode:double", [1, -1], then="apicode:total")
    assert failed.wait(10) == "failed"
    with pytest.raises(kubemin.RunFailed, match=r"each\[1\].*negative"):
        failed.result  # noqa: B018


def test_many(node: Daemon) -> None:
    runs = node.client.enqueue_many("apicode:double", [((n,), {}) for n in range(3000)])
    states = node.client.wait(runs, 60)
    assert set(states.values()) == {"completed"} and list(states) == [run.id for run in runs]
    outputs = node.client.outputs(runs)
    assert [next(iter(outputs[run.id].values())) for run in runs] == [2 * n for n in range(3000)]


def test_waiting_outlives_the_coordinator(node: Daemon) -> None:
    run = node.client.enqueue("apicode:nap", 1.5)
    answers: list[Any] = []
    waiter = threading.Thread(target=lambda: answers.append(run.wait(30)))
    waiter.start()
    [coordinator] = [pid for pid in descendants(node.pid) if "coordinator" in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill(coordinator, signal.SIGKILL)
    more = node.client.enqueue("apicode:double", 1)  # waits for the next one
    waiter.join(30)
    assert answers == ["completed"] and run.result == "rested"
    assert more.wait(20) == "completed"


def test_waiting_outlives_the_daemon(node: Daemon) -> None:
    run = node.client.options(delay="1s").enqueue("apicode:double", 1)
    answers: list[Any] = []
    waiter = threading.Thread(target=lambda: answers.append(run.wait(60)))
    waiter.start()
    assert node.stop() == 0
    node.start()
    waiter.join(60)
    assert answers == ["completed"]


def test_a_timeout_leaves_the_client_usable(node: Daemon) -> None:
    run = node.client.enqueue("apicode:nap", 3)
    with pytest.raises(TimeoutError, match=run.id):
        run.wait(0.1)
    with pytest.raises(TimeoutError, match="some of 2 runs"):
        node.client.wait([run, node.client.options(delay="1h").enqueue("apicode:nap", 1)], 0.1)
    assert run.wait(20) == "completed"


def test_both_sides_of_a_fork(node: Daemon, tmp_path: Path) -> None:
    client = node.client
    assert client.enqueue("apicode:double", 1).wait(10) == "completed"
    pid = os.fork()
    if pid == 0:
        try:
            run = client.enqueue("apicode:double", 2)
            run.wait(10)
            (tmp_path / "child").write_text(str(run.result))
        finally:
            os._exit(0)
    parents = client.enqueue("apicode:double", 3)
    assert parents.wait(10) == "completed" and parents.result == 6
    os.waitpid(pid, 0)
    assert (tmp_path / "child").read_text() == "4"
