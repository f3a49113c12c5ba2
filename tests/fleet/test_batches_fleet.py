"""Batches of short tasks in a real fleet: one turns out long, holds the GIL, or its worker or coordinator dies."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from nodes import Fleet, running
from support import Daemon, wait_until
from support.watching import coordinator_pid

from kubemin.scoreboard import Scoreboard, SlotState

TASKS, LONG = 40, 7
SECONDS = 3.0  # of the long one

FUNCTIONS = """
import ctypes, os, time

def noted(path, n, seconds=0.0, hold=False):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, b"%d\\n" % n)
    os.close(fd)
    if hold:
        ctypes.PyDLL(None).usleep(int(seconds * 1e6))  # a call that keeps the GIL
    else:
        time.sleep(seconds)
    return n
"""


@pytest.fixture
def effects(fleet: Fleet, tmp_path: Path) -> Path:
    (fleet.folder / "fleetfunctions.py").write_text(FUNCTIONS)
    return tmp_path / "effects"


def enqueue(daemon: Daemon, path: Path, count: int = TASKS, long: int = -1, **more: Any) -> list[Any]:
    items = [((str(path), n), {"seconds": SECONDS, **more} if n == long else {}) for n in range(count)]
    return daemon.client.enqueue_many("fleetfunctions:noted", items)


def warm(daemon: Daemon, path: Path) -> None:
    """The workers know that this function is short."""
    runs = enqueue(daemon, path.with_suffix(".warm"), 400)
    assert set(daemon.client.wait(runs, 30).values()) == {"completed"}


def worker_pid(daemon: Daemon) -> int:
    with contextlib.closing(Scoreboard.open(str(daemon.run / "scoreboard"))) as board:
        record = board.read_slot(0)
        assert record is not None
        return record.pid


def wait_for_the_others(daemon: Daemon, runs: list[Any], within: float) -> None:
    others = [run for n, run in enumerate(runs) if n != LONG]
    assert set(daemon.client.wait(others, within).values()) == {"completed"}


@pytest.mark.parametrize("hold", [False, True], ids=["sleeps", "holds the GIL"])
def test_nothing_waits_behind_a_task_that_turns_out_long(fleet: Fleet, effects: Path, hold: bool) -> None:
    daemon = fleet.node(maxWorkers=2)
    warm(daemon, effects)
    runs = enqueue(daemon, effects, long=LONG, hold=hold)
    running(daemon, runs[LONG].id)
    began = time.monotonic()
    wait_for_the_others(daemon, runs, SECONDS * 0.8)
    print(f"all others were done {time.monotonic() - began:.3f} s after the start of the long one")
    assert runs[LONG].status == "running"
    assert runs[LONG].wait(20) == "completed"
    assert sorted(map(int, effects.read_text().split())) == list(range(TASKS))


def test_a_coordinator_that_dies_with_tickets_in_its_hands(fleet: Fleet, effects: Path, tmp_path: Path) -> None:
    once = {"KUBEMIN_FAULT": "coordinator.received=kill", "KUBEMIN_FAULT_ONCE": str(tmp_path / "once")}
    daemon = fleet.node(maxWorkers=2, environ=once)
    warm(daemon, effects)
    deadline, struck = time.monotonic() + 30, False
    while not struck:
        assert time.monotonic() < deadline, "no tickets were ever taken back"
        effects.unlink(missing_ok=True)
        runs = enqueue(daemon, effects, long=LONG)
        running(daemon, runs[LONG].id)
        wait_for_the_others(daemon, runs, 20)
        assert runs[LONG].wait(20) == "completed"
        assert sorted(map(int, effects.read_text().split())) == list(range(TASKS))
        struck = (tmp_path / "once.coordinator.received").exists()


@pytest.mark.parametrize("point", ["worker.batched", "worker.taken", "worker.noted"])
def test_a_worker_killed_in_a_batch_repeats_one_task_at_most(
    fleet: Fleet, effects: Path, tmp_path: Path, point: str
) -> None:
    once = {"KUBEMIN_FAULT": f"{point}=kill@3", "KUBEMIN_FAULT_ONCE": str(tmp_path / "once")}
    if point != "worker.batched":  # in the middle of a batch, once batches are made
        once["KUBEMIN_FAULT"] = f"{point}=kill@150"
    daemon = fleet.node(maxWorkers=1, environ=once)
    runs = enqueue(daemon, effects, 300)
    assert set(daemon.client.wait(runs, 30).values()) == {"completed"}
    assert (tmp_path / f"once.{point}").exists()
    done = sorted(map(int, effects.read_text().split()))
    assert set(done) == set(range(300)) and len(done) <= 301
    store = fleet.store()
    assert all(store.run(run.id).tasks[0].attempt == 1 for run in runs)
    store.close()
    wait_until(lambda: len(list((daemon.run / "outbox").iterdir())) == 1, 5, what="the dead worker's outbox to go")


def test_everything_killed_in_a_batch(fleet: Fleet, effects: Path) -> None:
    daemon = fleet.node(maxWorkers=2)
    warm(daemon, effects)
    runs = enqueue(daemon, effects, 2000)
    wait_until(lambda: effects.exists() and len(effects.read_text().split()) > 300, 20)
    daemon.kill9(everything=True)
    daemon.start()
    assert set(daemon.client.wait(runs, 30).values()) == {"completed"}
    done = list(map(int, effects.read_text().split()))
    print(f"repeated after everything was killed: {len(done) - 2000} tasks")
    assert set(done) == set(range(2000))


def test_a_stopped_worker_gives_its_batch_back(fleet: Fleet, effects: Path) -> None:
    """SIGTERM in the middle: what it had not begun goes to the other at once, nothing is lost or done twice."""
    daemon = fleet.node(maxWorkers=2)
    warm(daemon, effects)
    runs = enqueue(daemon, effects, 500)
    for _ in range(4):
        board = Scoreboard.open(str(daemon.run / "scoreboard"))
        for record in filter(None, map(board.read_slot, range(2))):
            if record.state in (SlotState.IDLE, SlotState.RUNNING):
                os.kill(record.pid, signal.SIGTERM)
        time.sleep(0.05)
    assert set(daemon.client.wait(runs, 30).values()) == {"completed"}
    assert sorted(map(int, effects.read_text().split())) == list(range(500))


def test_what_goes_back_in_an_outage_goes_later_and_costs_no_worker(
    fleet: Fleet, effects: Path, tmp_path: Path
) -> None:
    """The worker stands still in the fifth task of a batch until Redis is away; the coordinator, which would have taken
    the rest, stands still as well."""
    faults = {"KUBEMIN_FAULT": "worker.noted=stop@405", "KUBEMIN_FAULT_ONCE": str(tmp_path / "once")}
    daemon = fleet.node(maxWorkers=1, environ=faults)
    warm(daemon, effects)
    worker, coordinator = worker_pid(daemon), coordinator_pid(daemon)
    os.kill(coordinator, signal.SIGSTOP)
    runs = enqueue(daemon, effects)
    wait_until(lambda: psutil.Process(worker).status() == psutil.STATUS_STOPPED, 10)
    fleet.server.stop()
    os.kill(worker, signal.SIGCONT)
    daemon.wait_log("Redis cannot be told what goes back", 10)
    fleet.server.start()
    os.kill(coordinator, signal.SIGCONT)
    assert set(daemon.client.wait(runs, 30).values()) == {"completed"}
    assert worker_pid(daemon) == worker
