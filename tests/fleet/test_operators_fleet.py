"""What an operator of a fleet sees and does: nodes, leader, queues, hand-over, names, fall-back."""

from __future__ import annotations

import re
import time
import urllib.request
from pathlib import Path

from nodes import QUICK_ELECTION, Fleet, printed
from support import wait_until
from support.processes import descendants
from support.redis_server import free_port


def test_nodes_and_leader(fleet: Fleet) -> None:
    one, two = fleet.node(), fleet.node(queues=["etl"])
    leader = fleet.wait_leader()
    wait_until(lambda: one.ctl("leader").code == 0, 10)
    told = one.ctl("leader", "-o", "json").json
    assert told["node"] == f"node-{fleet.nodes.index(leader)}" and told["epoch"] == 1
    found = {node["node"]: node for node in two.ctl("nodes", "-o", "json").json["items"]}
    assert set(found) == {"node-0", "node-1"} and found["node-1"]["queues"] == ["etl"]
    assert [name for name, node in found.items() if node["leader"]] == [told["node"]]
    assert found["node-0"]["workers"] == 2 and found["node-0"]["state"] == "ready"
    shown = two.ctl("nodes").stdout
    assert "node-1" in shown and re.search(rf"leader +{told['node']}, term 1, by Redis lock", shown)
    assert re.search(r"redis +.*, up, answers in [0-9.]+ ms", shown)
    line = re.compile(rf"^leader +{told['node']}, term 1$", re.MULTILINE)
    for daemon in (one, two):
        wait_until(lambda daemon=daemon: line.search(daemon.ctl("status").stdout), 5, what="the leader in the status")
        shown = daemon.ctl("status").stdout
        assert re.search(r"^redis +.*, up$", shown, re.MULTILINE), shown
    assert two.stop() == 0
    assert [node["node"] for node in one.ctl("nodes", "-o", "json").json["items"]] == ["node-0"]


def test_failures_of_the_last_hour_are_the_fleets(fleet: Fleet) -> None:
    """What fails on one node is seen on every one; and Redis away is said by each."""
    one, two = fleet.node(), fleet.node(queues=["etl"])
    for n in range(3):
        assert one.client.options(queue="etl").enqueue("fleetfunctions:no_such", n).wait(20) == "failed"

    def told() -> bool:
        return "failed runs, last hour  3 (fleetfunctions:no_such 3)" in one.ctl("status").stdout

    wait_until(told, 20, what="the failures in the other node's heartbeat")
    nodes = {node["node"]: node["failedLastHour"] for node in two.ctl("nodes", "-o", "json").json["items"]}
    assert nodes == {"node-0": 0, "node-1": 3}
    fleet.server.pause()
    try:
        wait_until(lambda: re.search(r"^redis +.*, down$", one.ctl("status").stdout, re.MULTILINE), 30)
    finally:
        fleet.server.resume()


def test_step_down_hands_over_within_three_seconds(fleet: Fleet) -> None:
    one, _ = fleet.node(), fleet.node()
    first = fleet.wait_leader()
    wait_until(lambda: one.ctl("leader").code == 0, 10)
    began = time.monotonic()
    done = one.ctl("leader", "--step-down", "-o", "json")
    assert done.code == 0, done
    printed("asked to step down, another leads", began, 3.0)
    assert done.json["epoch"] == 2 and done.json["node"] != f"node-{fleet.nodes.index(first)}"


def test_a_second_node_of_the_same_name_refuses_to_start(fleet: Fleet) -> None:
    fleet.node()
    other = fleet.node(started=False, nodeId="node-0")
    other.start(ready=False)
    assert other.wait(20) == 3
    assert "a node named node-0 is in the fleet already" in other.log


def test_a_paused_queue_holds_its_tasks(fleet: Fleet) -> None:
    daemon = fleet.node(queues=["default", "etl"])
    assert daemon.ctl("queue", "pause", "etl").code == 0
    held = daemon.client.options(queue="etl").enqueue("fleetfunctions:nap", 0)
    assert daemon.client.enqueue("fleetfunctions:nap", 0).wait(10) == "completed"
    shown = daemon.ctl("queue", "-o", "json").json["items"]
    assert [(q["name"], q["length"], q["paused"]) for q in shown if q["name"] == "etl"] == [("etl", 1, True)]
    assert "etl" in daemon.ctl("why", held.id).stdout
    assert daemon.ctl("queue", "resume", "etl").code == 0
    assert held.wait(10) == "completed"


def test_without_a_server_a_required_one_stops_the_start(fleet: Fleet) -> None:
    fleet.server.stop()
    daemon = fleet.node(started=False, redisRequired=True)
    daemon.start(ready=False)
    assert daemon.wait(20) == 3
    assert "redisRequired" in daemon.log


def test_no_daemon_and_no_server_is_not_reachable(fleet: Fleet) -> None:
    daemon = fleet.node(started=False)
    fleet.server.stop()
    done = daemon.ctl("runs")
    assert done.code == 3 and "Redis at" in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_daemon_is_down_and_submissions_are_kept(fleet: Fleet) -> None:
    daemon = fleet.node(started=False, leaderElection=QUICK_ELECTION)
    run = daemon.client.enqueue("fleetfunctions:nap", 0)
    daemon.start()
    assert run.wait(10) == "completed"


def test_schedules_fire_once_in_the_fleet(fleet: Fleet) -> None:
    text = 'name: tick\nschedule: {cron: "* * * * * *"}\nsteps:\n  - name: a\n    python: fleetfunctions:token\n'
    for _ in range(2):
        node = fleet.node(started=False)
        node.workflow("tick.yaml", text)
        node.start()
    client = fleet.nodes[0].client
    wait_until(lambda: len(client.runs(workflow="tick")) >= 4, 20)
    slots = [run.scheduled_at for run in client.runs(workflow="tick")]
    assert len(slots) == len(set(slots))


def test_durability_that_the_server_cannot_give_is_refused_at_the_start(fleet: Fleet) -> None:
    """Redis 6.2 has no WAITAOF: `fsync` needs `appendfsync always` there."""
    daemon = fleet.node(started=False, durability="fsync")
    daemon.start(ready=False)
    assert daemon.wait(20) == 3
    assert "appendfsync always" in daemon.log
    fleet.server.command("CONFIG", "SET", "appendfsync", "always")
    daemon.start()
    assert daemon.client.enqueue("fleetfunctions:nap", 0).wait(10) == "completed"


def test_a_submission_without_the_replica_it_asks_for_says_so(fleet: Fleet) -> None:
    daemon = fleet.node(durability="replica")
    done = daemon.ctl(
        "submit", "-f", str(daemon.workflow("w.yaml", "name: one\nsteps:\n  - name: a\n    run: [echo]\n"))
    )
    assert done.code == 3 and "not on a replica" in done.stderr


def test_why_looks_at_the_whole_fleet(fleet: Fleet) -> None:
    one, _ = fleet.node(), fleet.node(queues=["etl"])
    nowhere = one.client.options(queue="gpu").enqueue("fleetfunctions:nap", 0)
    assert "the fleet serves default, etl, not gpu" in one.ctl("why", nowhere.id).stdout
    elsewhere = one.client.options(queue="etl").enqueue("fleetfunctions:nap", 30)
    wait_until(lambda: elsewhere.status == "running", 10)
    assert "not etl" not in one.ctl("why", elsewhere.id).stdout


def test_metrics_and_titles(fleet: Fleet) -> None:
    port = free_port()
    daemon = fleet.node(httpAddr=f"127.0.0.1:{port}")
    fleet.wait_leader()
    assert daemon.client.enqueue("fleetfunctions:nap", 0).wait(10) == "completed"
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        assert b"kubemin_store_up 1" in answer.read()
    pids = [daemon.pid, *descendants(daemon.pid)]
    titles = [Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0 ").decode() for pid in pids]
    assert "kubemin: coordinator [leader]" in titles
    assert any(title.startswith("kubemin: supervisor [node-0 distributed gen 1") for title in titles)
