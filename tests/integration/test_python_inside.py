"""What a Python step finds around it in a real daemon: a clean environment, its own engine, nothing left of it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import Daemon
from support.processes import alive

CODE = """
import os, subprocess, time
import kubemin

client = None

def environment():
    return dict(os.environ)

def more(n):
    global client
    client = client or kubemin.Client.from_config()
    return [os.getpid(), client.enqueue("inside:double", n).id]

def double(n):
    return 2 * n

def close(first, last):
    os.closerange(first, last)

def start_a_child(path):
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    with open(path + ".new", "w") as file:
        file.write(str(child.pid))
    os.rename(path + ".new", path)
    time.sleep(60)
"""


@pytest.fixture
def node(start_daemon: Callable[..., Daemon], tmp_path: Path) -> Daemon:
    (tmp_path / "inside.py").write_text(CODE)
    places = {"CREDENTIALS_DIRECTORY": str(tmp_path), "KUBEMIN_GRACEFUL_TIMEOUT": "7s", "KUBECONFIG": "/somewhere"}
    return start_daemon(environ=places, maxWorkers=1, python={"path": [str(tmp_path)], "allow": ["inside:*"]})


def test_none_of_the_daemons_settings(node: Daemon) -> None:
    run = node.client.enqueue("inside:environment")
    assert run.wait(20) == "completed"
    assert not run.result.keys() & {"KUBEMIN_CONFIG", "KUBEMIN_GRACEFUL_TIMEOUT", "CREDENTIALS_DIRECTORY"}
    assert run.result["KUBECONFIG"] == "/somewhere" and run.result["PATH"] == node.environ["PATH"]


def test_a_step_enqueues_more_and_its_worker_stays(node: Daemon) -> None:
    pids = set()
    last = node.client.enqueue("inside:more", 0)
    for n in range(1, 4):
        assert last.wait(20) == "completed"
        pid, started = last.result
        pids.add(pid)
        assert node.client.run(started).wait(20) == "completed" and node.client.run(started).result == 2 * (n - 1)
        last = node.client.enqueue("inside:more", n)
    assert len(pids) == 1 and "left something behind" not in node.log


def test_its_children_are_found_when_everything_else_was_killed(
    node: Daemon, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    file = tmp_path / "child"
    run = node.client.enqueue("inside:start_a_child", str(file))
    wait_until(file.exists, 20)
    child = int(file.read_text())
    node.send(signal.SIGKILL)
    node.wait()
    assert alive(child)
    file.unlink()
    node.start()
    assert not alive(child)
    run.cancel()


@pytest.mark.parametrize("last", [20, 100, 5000])
def test_a_step_that_closes_its_workers_descriptors_fails_and_the_next_one_runs(node: Daemon, last: int) -> None:
    run = node.client.enqueue("inside:close", 3, last)
    assert run.wait(20) == "failed"
    task = node.client.reader().run(run.id).tasks[0]
    assert task.cause == "exception" and "descriptors" in str(task.message)
    assert node.client.enqueue("inside:double", 4).wait(20) == "completed"
    assert "unexpected error" not in node.log and "internal error" not in node.log


def test_each_descriptor_of_a_worker_may_be_closed(node: Daemon) -> None:
    """Whatever it is for: its run ends, and so does the next one."""
    for number in range(3, 20):
        assert node.client.enqueue("inside:close", number, number + 1).wait(20) in ("completed", "failed")
        assert node.client.enqueue("inside:double", 4).wait(20) == "completed"
    assert "unexpected error" not in node.log and "internal error" not in node.log
