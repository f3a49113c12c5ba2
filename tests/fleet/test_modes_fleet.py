"""The fall-back to local, the switch-over, and what moves with it: each run once."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from nodes import Fleet, printed, running
from support import wait_until

WORKFLOW = """
name: chain
params: {{log: {{default: "{log}"}}}}
steps:
  - name: first
    python: fleetfunctions:effect
    with: {{path: "${{{{ params.log }}}}", n: 1001, seconds: 2.0}}
  - name: second
    python: fleetfunctions:effect
    with: {{path: "${{{{ params.log }}}}", n: 1002}}
"""


def effects(path: Path) -> list[int]:
    return sorted(map(int, path.read_text().split())) if path.exists() else []


def test_fall_back_and_switch_over_carry_each_run_once(fleet: Fleet, tmp_path: Path) -> None:
    fleet.server.stop()
    log = tmp_path / "effects"
    daemon = fleet.node(started=False)
    daemon.workflow("chain.yaml", WORKFLOW.format(log=log))
    daemon.workflow(
        "tick.yaml", 'name: tick\nschedule: {cron: "* * * * * *"}\nsteps:\n  - name: a\n    run: ["true"]\n'
    )
    daemon.start()
    assert "Failed to init Redis, falling back to local mode: Redis at " in daemon.log
    assert daemon.ctl("status", "-o", "json").json["mode"] == "fallback"
    client = daemon.client
    assert client.enqueue("fleetfunctions:nap", 0).wait(10) == "completed"
    begun = client.submit("chain")
    running(daemon, begun.id)
    slow = client.enqueue("fleetfunctions:effect", str(log), 1000, 3.0)
    running(daemon, slow.id)
    queued = client.enqueue_many("fleetfunctions:effect", [((str(log), n), {}) for n in range(100)])
    keyed = client.submit("chain", params={"log": str(log) + ".other"}, key="once")
    later = client.options(delay="4s").enqueue("fleetfunctions:effect", str(log), 2000)
    assert not client.runs(workflow="tick")

    fleet.server.start()
    began = time.monotonic()
    wait_until(lambda: daemon.ctl("status", "-o", "json").json["mode"] in ("carrying", "distributed"), 10)
    printed("server there, switched over", began, 5.0)
    assert "Distributed mode enabled with Redis at " in daemon.log
    runs = [begun.id, slow.id, keyed.id, later.id, *(run.id for run in queued)]
    ended = client.wait(runs, 30)
    assert set(ended.values()) == {"completed"}
    assert effects(log) == [*range(100), 1000, 1001, 1002, 2000]
    assert client.submit("chain", params={"log": str(log) + ".other"}, key="once").id == keyed.id
    assert later.id in {run.id for run in client.runs(limit=1000)}
    wait_until(lambda: daemon.ctl("status", "-o", "json").json["mode"] == "distributed", 10)
    wait_until(lambda: client.runs(workflow="tick"), 10)


def test_killed_in_the_middle_of_the_move_each_run_arrives_once(fleet: Fleet, tmp_path: Path) -> None:
    fleet.server.stop()
    log = tmp_path / "effects"
    environ = {"KUBEMIN_FAULT": "carrier.arrived=kill", "KUBEMIN_FAULT_ONCE": str(tmp_path / "once")}
    daemon = fleet.node(environ=environ)
    client = daemon.client
    assert daemon.ctl("drain").code == 0
    runs = client.enqueue_many("fleetfunctions:effect", [((str(log), n), {}) for n in range(1200)])
    daemon.send(signal.SIGTERM)
    assert daemon.wait() == 0
    fleet.server.start()
    daemon.start()
    assert set(client.wait(runs, 30).values()) == {"completed"}
    assert effects(log) == list(range(1200))
    assert "coordinator died" in daemon.log


def test_a_fleet_is_left_by_configuration_alone(fleet: Fleet) -> None:
    daemon = fleet.node(enableDistributed=False)
    assert daemon.ctl("status", "-o", "json").json["mode"] == "local"
    assert daemon.client.enqueue("fleetfunctions:nap", 0).wait(10) == "completed"
    assert fleet.server.command("DBSIZE") == b":0\r\n"
