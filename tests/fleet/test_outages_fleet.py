"""Redis goes away under a working fleet: no process ends, what was finished is delivered, work goes on within 5 s."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from nodes import Fleet, anywhere, coordinator_pid, printed, running
from support import Daemon, wait_until
from support.functions import effects
from support.processes import descendants


def pids(daemon: Daemon) -> set[int]:
    return set(descendants(daemon.pid))


def test_a_result_is_kept_through_an_outage(fleet: Fleet, tmp_path: Path) -> None:
    daemon = fleet.node()
    log = tmp_path / "effects"
    run = daemon.client.enqueue("fleetfunctions:effect", str(log), 1, 0.5)
    running(daemon, run.id)
    before = pids(daemon)
    fleet.server.kill()
    daemon.wait_log("a result is kept", 10)
    daemon.wait_log("Redis cannot be used", 10)
    fleet.server.start()
    began = time.monotonic()
    assert run.wait(10) == "completed"
    printed("server back, the kept result delivered", began, 5.0)
    assert effects(log) == [1] and pids(daemon) == before
    daemon.wait_log("Redis can be used again", 10)
    assert daemon.client.enqueue("fleetfunctions:nap", 0).wait(5) == "completed"


def test_who_waits_for_a_run_waits_through_an_outage(fleet: Fleet) -> None:
    daemon = fleet.node()
    run = daemon.client.enqueue("fleetfunctions:nap", 0.5)
    running(daemon, run.id)
    fleet.server.kill()
    with pytest.raises(TimeoutError):
        run.wait(1.5)
    fleet.server.start()
    assert run.wait(15) == "completed"


def test_a_result_that_cannot_be_told_before_the_stop_is_on_disk(fleet: Fleet, tmp_path: Path) -> None:
    daemon = fleet.node(lock={"ttl": "60s", "renew": "5s"})
    log = tmp_path / "effects"
    run = daemon.client.enqueue("fleetfunctions:effect", str(log), 1, 0.5)
    running(daemon, run.id)
    fleet.server.kill()
    daemon.wait_log("a result is kept", 10)
    assert daemon.stop() == 0
    assert list((daemon.state / "undelivered").iterdir())
    fleet.server.start()
    daemon.start()
    assert run.wait(5) == "completed" and effects(log) == [1]
    assert not list((daemon.state / "undelivered").iterdir())


def test_killed_under_a_kept_result_it_is_run_again_and_nothing_hangs(fleet: Fleet, tmp_path: Path) -> None:
    daemon = fleet.node()
    log = tmp_path / "effects"
    run = daemon.client.enqueue("fleetfunctions:effect", str(log), 1, 0.5)
    record = running(daemon, run.id)
    fleet.server.kill()
    daemon.wait_log("a result is kept", 10)
    os.kill(record.pid, signal.SIGKILL)
    fleet.server.start()
    assert run.wait(15) == "completed" and effects(log) == [1, 1]


def test_work_goes_on_after_every_kind_of_outage(fleet: Fleet, tmp_path: Path) -> None:
    daemon, server = fleet.node(), fleet.server
    log = tmp_path / "effects"
    before = pids(daemon)
    client = daemon.client
    count = 0

    def load(n: int) -> list[str]:
        nonlocal count
        calls = [((str(log), count + i), {}) for i in range(n)]
        count += n
        return [run.id for run in client.enqueue_many("fleetfunctions:effect", calls)]

    runs = load(200)
    server.stop()
    server.start()
    runs += load(200)
    for _ in range(3):
        server.command("CLIENT", "KILL", "TYPE", "normal")
        time.sleep(0.3)
    runs += load(200)
    server.command("SCRIPT", "FLUSH")
    runs += load(200)
    server.pause()
    time.sleep(3.0)
    server.resume()
    began = time.monotonic()
    runs += load(200)
    ended = client.wait(runs, 30)
    printed("server resumed, all done", began, 10.0)
    assert set(ended.values()) == {"completed"}
    assert set(effects(log)) == set(range(1000))
    print(f"effects {len(effects(log))} of 1000 tasks")
    assert pids(daemon) == before, daemon.log
    assert server.command("KEYS", "lock:*") == b"*0\r\n" and server.command("KEYS", "workflow:*") == b"*0\r\n"


def test_a_long_pause_of_the_server_loses_no_running_task(fleet: Fleet) -> None:
    """Longer than the locks live: they lapse with the server's clock, and nobody takes the tasks (engine rule 8)."""
    daemon, _ = fleet.node(), fleet.node()
    fleet.wait_leader()
    run = daemon.client.enqueue("fleetfunctions:nap", 9.0)
    _, first = anywhere(fleet, run.id)
    fleet.server.pause()
    time.sleep(5.0)
    fleet.server.resume()
    assert run.wait(20) == "completed"
    assert fleet.store().run(run.id).tasks[0].token == first.token


def test_a_coordinator_that_dies_in_an_outage_stays_in_the_fleet(fleet: Fleet) -> None:
    daemon = fleet.node()
    run = daemon.client.enqueue("fleetfunctions:nap", 3.0)
    running(daemon, run.id)
    fleet.server.kill()
    daemon.wait_log("Redis cannot be used", 10)
    os.kill(coordinator_pid(daemon), signal.SIGKILL)
    daemon.wait_log("coordinator died", 5)
    time.sleep(1.0)
    fleet.server.start()
    assert run.wait(15) == "completed"
    assert "falling back" not in daemon.log


def test_drain_stop_and_restart_under_load_cut_nothing_short(fleet: Fleet, tmp_path: Path) -> None:
    one, two = fleet.node(), fleet.node()
    log = tmp_path / "effects"
    runs = one.client.enqueue_many("fleetfunctions:effect", [((str(log), i, 0.02), {}) for i in range(300)])
    assert one.ctl("drain").code == 0
    wait_until(lambda: all(w["state"] == "idle" for w in one.ctl("status", "-o", "json").json["workers"]), 5)
    assert two.stop() == 0
    two.start()
    assert one.ctl("undrain").code == 0
    assert one.ctl("reload").code == 0
    assert set(one.client.wait(runs, 30).values()) == {"completed"}
    assert effects(log) == list(range(300))


def test_a_server_that_lost_everything_is_worked_with_again(fleet: Fleet, tmp_path: Path) -> None:
    daemon = fleet.node(started=False)
    daemon.workflow("demo.yaml", "name: demo\nsteps:\n  - name: a\n    run: [echo, hi]\n")
    daemon.start()
    fleet.wait_leader()
    run = daemon.client.enqueue("fleetfunctions:effect", str(tmp_path / "effects"), 1, 2.0)
    running(daemon, run.id)
    before = pids(daemon)
    fleet.server.kill()
    for file in fleet.server.folder.glob("append*"):
        file.unlink()
    fleet.server.start()
    daemon.wait_log("task fenced", 15)
    wait_until(lambda: daemon.ctl("submit", "demo", "--wait").code == 0, 20)
    assert pids(daemon) == before
    fleet.wait_leader()
