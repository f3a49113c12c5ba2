"""`onFailure` in a fleet: one call for each failed round of a run, whoever is killed between its end and the call."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from nodes import Fleet, coordinator_pid
from support import Daemon, wait_until
from support.redis_server import Server

from kubemin.store.redis import keys

FAILS = "name: fails\nsteps: [{name: a, run: [/bin/false]}]\n"


def node(fleet: Fleet, tmp_path: Path, **options: Any) -> Any:
    script = f"cat > {tmp_path}/call.$KUBEMIN_TASK"
    return fleet.node(onFailure=["sh", "-c", script], **options)


def calls(tmp_path: Path) -> list[dict[str, Any]]:
    wanted = (path for path in tmp_path.glob("call.*"))
    return [json.loads(text) for path in wanted if (text := path.read_text()).endswith("}")]


def settled(server: Server) -> bool:
    """Nothing is owed, nothing is queued."""
    return server.command("EXISTS", keys.hooks(), "workflow:queue", keys.pending("default")) == b":0\r\n"


def test_each_kind_of_failure_has_its_call(fleet: Fleet, tmp_path: Path) -> None:
    daemon = node(fleet, tmp_path)
    failing = daemon.client.submit(daemon.workflow("fails.yaml", FAILS))
    single = daemon.client.enqueue("fleetfunctions:missing")
    poison = daemon.client.enqueue("fleetfunctions:die_always")
    late = daemon.client.submit(
        daemon.workflow("late.yaml", "name: late\ntimeout: 1s\nsteps: [{name: a, run: [sleep, '30']}]\n")
    )
    ok = daemon.client.enqueue("fleetfunctions:nap", 0)
    wait_until(lambda: len(calls(tmp_path)) == 4, 30, what="four calls")
    wait_until(lambda: settled(fleet.server), 10)
    assert {call["id"]: call["status"] for call in calls(tmp_path)} == {
        failing.id: "failed", single.id: "failed", poison.id: "failed", late.id: "timeout",
    }  # fmt: skip
    assert ok.wait(10) == "completed"
    assert failing.retry() == 2 and failing.wait(10) == "failed"
    wait_until(lambda: len(calls(tmp_path)) == 5, 10, what="a call for the second round")


@pytest.mark.parametrize("point", ["worker.settled", "failhook.owed", "failhook.paid"])
def test_killed_between_the_end_and_the_call_there_is_one(fleet: Fleet, tmp_path: Path, point: str) -> None:
    once = {"KUBEMIN_FAULT": f"{point}=kill", "KUBEMIN_FAULT_ONCE": str(tmp_path / "once")}
    daemon = node(fleet, tmp_path, environ=once)
    fleet.wait_leader()
    run = daemon.client.submit(daemon.workflow("fails.yaml", FAILS))
    wait_until(lambda: (tmp_path / f"once.{point}").exists(), 10, what=f"a death at {point}")
    wait_until(lambda: calls(tmp_path), 15, what="the call")
    wait_until(lambda: settled(fleet.server), 10)
    assert [call["id"] for call in calls(tmp_path)] == [run.id]
    assert len(daemon.client.runs(workflow="on-failure")) == 1


def test_its_own_failure_starts_no_other(fleet: Fleet) -> None:
    daemon = fleet.node(onFailure=["/bin/false"])
    daemon.client.submit(daemon.workflow("fails.yaml", FAILS))
    wait_until(lambda: [run.status for run in daemon.client.runs(workflow="on-failure")] == ["failed"], 15)
    assert fleet.server.command("EXISTS", keys.hooks()) == b":0\r\n"


def test_another_node_pays_what_a_lost_one_owed(fleet: Fleet, tmp_path: Path) -> None:
    daemon = node(fleet, tmp_path, environ={"KUBEMIN_FAULT": "worker.settled=stop"}, maxWorkers=1)
    run = daemon.client.submit(daemon.workflow("fails.yaml", FAILS))
    os.kill(coordinator_pid(daemon), signal.SIGSTOP)
    wait_until(lambda: run.status == "failed", 10)
    daemon.kill9(everything=True)
    node(fleet, tmp_path)
    wait_until(lambda: len(calls(tmp_path)) == 1, 20, what="the call")
    assert calls(tmp_path)[0]["id"] == run.id


def test_a_node_alone_hands_the_run_over_as_well(tmp_path: Path) -> None:
    with Daemon(onFailure=["sh", "-c", f"cat > {tmp_path}/call.$KUBEMIN_TASK"]) as daemon:
        run = daemon.client.submit(daemon.workflow("fails.yaml", FAILS))
        wait_until(lambda: calls(tmp_path), 15, what="the call")
        assert [(call["id"], call["status"]) for call in calls(tmp_path)] == [(run.id, "failed")]
