"""Commit, then send: nothing that a client or a worker has seen can be missing after a crash, and nothing that was
reported is lost between two coordinators (docs/design.md section 4).

The coordinator dies inside its transaction, at a named point; what it had told by then is held against the store.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import Daemon, wait_until
from support.functions import effects, install

Start = Callable[..., Daemon]


@pytest.fixture
def start(start_daemon: Callable[..., Daemon], tmp_path: Path) -> Start:
    python = install(tmp_path, "committed")

    def begin(fault: str = "", **settings: Any) -> Daemon:
        environ = {"KUBEMIN_FAULT": fault, "KUBEMIN_FAULT_ONCE": str(tmp_path / "once")} if fault else {}
        return start_daemon(environ=environ, python=python, **settings)

    return begin


def test_what_a_client_was_told_is_there_after_a_kill_before_the_commit(start: Start, tmp_path: Path) -> None:
    """Nobody serves the queue, so every transaction is a submission."""
    daemon = start("coordinator.applied=kill@20")
    client = daemon.client.options(queue="nobody")
    told = [client.enqueue("committed:effect", str(tmp_path / "effects"), n).id for n in range(40)]
    assert (tmp_path / "once.coordinator.applied").exists(), "the point was never reached"
    assert set(daemon.client.states(told)) == set(told)


@pytest.mark.parametrize("passed", [12, 13, 14, 15, 16])
def test_a_kill_before_the_commit_runs_nothing_twice_and_loses_no_report(
    start: Start, tmp_path: Path, passed: int
) -> None:
    """One task after the other, so transactions take turns: a submission and its hand-out, the client's wait, the
    report of the end. What was applied and not committed was seen by nobody: each task is run once, each report
    arrives."""
    daemon = start(f"coordinator.applied=kill@{passed}", maxWorkers=1)
    path = tmp_path / "effects"
    for n in range(15):
        assert daemon.client.enqueue("committed:effect", str(path), n).wait(timeout=15) == "completed"
    assert (tmp_path / "once.coordinator.applied").exists(), "the point was never reached"
    assert effects(path) == list(range(15))


def test_a_report_outlives_a_store_that_fails(start: Start, tmp_path: Path) -> None:
    daemon = start()
    path = tmp_path / "effects"
    run = daemon.client.enqueue("committed:effect", str(path), 1, seconds=0.5)
    wait_until(lambda: run.status == "running", what="the task to start")
    other = sqlite3.connect(daemon.state / "kubemin.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    daemon.wait_log("the store cannot be written", timeout=20)
    assert effects(path) == [1]
    other.execute("ROLLBACK")
    other.close()
    assert run.wait(timeout=15) == "completed"
    daemon.wait_log("the store can be written again")
    (task,) = run.view().tasks
    assert (task.attempt, effects(path)) == (1, [1])


def test_what_stands_behind_a_long_task_runs_elsewhere(start: Start, tmp_path: Path) -> None:
    """Short ones were handed out several at a time; one of them turns out long."""
    daemon = start()
    path, names = str(tmp_path / "effects"), range(100, 140)
    warm = daemon.client.enqueue_many("committed:effect", [((path, n), {}) for n in range(100)])
    assert set(daemon.client.wait(warm, timeout=30).values()) == {"completed"}
    calls = [((path, 999), {"seconds": 8.0}), *(((path, n), {}) for n in names)]
    long, *short = daemon.client.enqueue_many("committed:effect", calls)
    assert set(daemon.client.wait(short, timeout=7).values()) == {"completed"}
    assert long.status == "running"
    assert effects(tmp_path / "effects") == [*range(100), *names, 999]
