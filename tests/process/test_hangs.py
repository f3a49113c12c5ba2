"""A coordinator that hangs is replaced within seconds; one that waits for its disk is left alone."""

from __future__ import annotations

import signal
import sqlite3
import time
from pathlib import Path

import pytest
from support import Daemon
from support.functions import effects, install
from support.preload import slow_disk
from support.watching import coordinator_pid, printed

from kubemin.pulse import WORK
from kubemin.supervisor.silence import HUNG_SECONDS

REPLACED = WORK + HUNG_SECONDS + 3.0  # seconds: until it is noticed, and until its successor is at work
LOADED = 60.0  # the same of one that computes, by its own time, on a machine that others use
LONGER = WORK + HUNG_SECONDS + 2.0  # that a disk takes


def daemon(tmp_path: Path, **environ: str) -> Daemon:
    return Daemon(environ=environ, python=install(tmp_path, "hangfunctions"))


@pytest.mark.parametrize("how", ["hang", "spin"])
def test_one_that_hangs_is_replaced_and_what_runs_goes_on(tmp_path: Path, how: str) -> None:
    once, log = tmp_path / "once", tmp_path / "effects"
    fault = {"KUBEMIN_FAULT": f"coordinator.committed={how}@40", "KUBEMIN_FAULT_ONCE": str(once)}
    with daemon(tmp_path, **fault) as node:
        first = coordinator_pid(node)
        long = node.client.enqueue("hangfunctions:effect", str(log), 1, REPLACED)
        hangs = tmp_path / "once.coordinator.committed"
        short = []
        while not hangs.exists():
            began = time.monotonic()
            short.append(node.client.enqueue("hangfunctions:nap", 0))
        limit = REPLACED if how == "hang" else LOADED
        node.wait_log("the coordinator gives no sign of life; it is replaced", limit)
        coordinator_pid(node, but=first)
        printed(f"a coordinator with a {how}, replaced", began, limit)
        assert all(run.wait(10) == "completed" for run in short)
        assert long.wait(20) == "completed" and effects(log) == [1], "nothing that ran noticed"


def test_one_that_waits_for_its_disk_is_not_replaced(tmp_path: Path) -> None:
    """In fsync(2), asleep, for longer than any hang may last."""
    slow = tmp_path / "slow"
    with daemon(tmp_path, **slow_disk(tmp_path, slow)) as node:
        first = coordinator_pid(node)
        slow.write_text(f"{LONGER:.0f}")
        began = time.monotonic()
        run = node.client.enqueue("hangfunctions:nap", 0)
        slow.unlink()
        assert time.monotonic() - began >= LONGER, "the disk was slow"
        assert run.wait(20) == "completed"
        assert coordinator_pid(node) == first and "it is replaced" not in node.log


def test_one_whose_file_is_locked_is_not_replaced(tmp_path: Path) -> None:
    with daemon(tmp_path) as node:
        first = coordinator_pid(node)
        other = sqlite3.connect(node.state / "kubemin.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        node.workflow("w.yaml", "name: one\nsteps: [{name: a, run: ['true']}]\n")
        node.send(signal.SIGHUP)
        node.wait_log("another program holds the database locked", 15)
        time.sleep(LONGER - WORK)
        other.close()
        node.wait_log("the store can be written again", 15)
        assert coordinator_pid(node) == first and "it is replaced" not in node.log
