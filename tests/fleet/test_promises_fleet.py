"""The promises of a fleet, each by killing real processes. Recovery times are printed (`pytest -s`)."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from nodes import Fleet, anywhere, coordinator_pid, printed, running
from support import Daemon, wait_until
from support.processes import alive, descendants

TTL = 3.0  # of nodes.QUICK_LOCK


def test_a_task_and_a_workflow_run_and_what_operators_see(fleet: Fleet) -> None:
    daemon = fleet.node()
    daemon.client.enqueue("fleetfunctions:nap", 0).wait(10)
    daemon.workflow(
        "demo.yaml", "name: demo\nsteps:\n  - name: a\n    run: [echo, hi]\n  - name: b\n    run: [sleep, '2']\n"
    )
    assert daemon.ctl("reload").code == 0
    run = daemon.client.submit("demo")
    running(daemon, run.id)
    wait_until(lambda: run.outputs is not None and fleet.server.command("KEYS", "lock:*").count(b"lock:") == 1, 5)
    assert fleet.server.command("KEYS", "workflow:*") == b"*0\r\n"
    status = daemon.ctl("status", "-o", "json").json
    assert status["mode"] == "distributed" and status["leader"] == "node-0"
    assert run.wait(10) == "completed"
    assert fleet.server.command("KEYS", "lock:*") == b"*0\r\n"
    for line in ("Initializing distributed workflow with Redis at ", "Distributed mode enabled with Redis at ",
                 "Node node-0 became leader", " executing task "):  # fmt: skip
        assert line in daemon.log


def test_a_killed_workers_task_starts_again_within_a_second(fleet: Fleet) -> None:
    daemon = fleet.node()
    run = daemon.client.enqueue("fleetfunctions:nap", 1.0)
    first = running(daemon, run.id)
    began = time.monotonic()
    os.kill(first.pid, signal.SIGKILL)
    second = running(daemon, run.id, beyond=first.token)
    printed("killed worker, its task started again", began, 1.0)
    assert run.wait(10) == "completed" and second.token > first.token


def test_a_task_whose_worker_is_killed_three_times_is_quarantined(fleet: Fleet) -> None:
    daemon = fleet.node()
    poison = daemon.client.enqueue("fleetfunctions:die_always")
    assert poison.wait(30) == "failed"
    assert fleet.store().run(poison.id).tasks[0].cause == "crash"
    assert daemon.client.enqueue("fleetfunctions:nap", 0).wait(10) == "completed"


def test_a_worker_killed_between_pop_and_claim(fleet: Fleet, tmp_path: Path) -> None:
    once = {"KUBEMIN_FAULT": "worker.popped=kill", "KUBEMIN_FAULT_ONCE": str(tmp_path / "once")}
    daemon = fleet.node(environ=once)
    began = time.monotonic()
    run = daemon.client.enqueue("fleetfunctions:nap", 0)
    assert run.wait(10) == "completed"
    printed("killed between pop and lock, run again and done", began, 3.0)


def test_a_worker_killed_at_every_other_point(fleet: Fleet, tmp_path: Path) -> None:
    points = ("worker.claimed", "worker.taken", "worker.started", "worker.ended", "worker.reported")
    for n, point in enumerate(points):
        environ = {"KUBEMIN_FAULT": f"{point}=kill", "KUBEMIN_FAULT_ONCE": str(tmp_path / f"once{n}")}
        daemon = fleet.node(environ=environ)
        runs = daemon.client.enqueue_many("fleetfunctions:effect", [((str(tmp_path / point), i), {}) for i in range(5)])
        assert set(daemon.client.wait(runs, 20).values()) == {"completed"}, point
        done = sorted(map(int, (tmp_path / point).read_text().split()))
        assert set(done) == set(range(5)) and len(done) <= 6, (point, done)
        assert daemon.stop() == 0


def test_a_lost_node_is_recovered_within_the_locks_life_and_five_seconds(fleet: Fleet) -> None:
    one, _two = fleet.node(), fleet.node()
    fleet.wait_leader()
    run = one.client.enqueue("fleetfunctions:nap", 1.5)
    where, first = anywhere(fleet, run.id)
    began = time.monotonic()
    tree = where.kill9(everything=True)
    assert not any(map(alive, tree))
    anywhere(fleet, run.id, beyond=first.token)
    printed("lost node, its task started again", began, TTL + 5)
    assert fleet.nodes[0 if where is not one else 1].client.run(run.id).wait(10) == "completed"


def test_a_restarted_daemon_takes_back_what_its_predecessor_held(fleet: Fleet) -> None:
    daemon = fleet.node(lock={"ttl": "60s", "renew": "5s"})
    run = daemon.client.enqueue("fleetfunctions:nap", 0.5)
    first = running(daemon, run.id)
    daemon.kill9(everything=True)
    began = time.monotonic()
    daemon.start()
    running(daemon, run.id, beyond=first.token)
    printed("restarted daemon, task started again", began, 3.0)
    assert run.wait(10) == "completed"


def test_a_killed_supervisor_takes_everything_with_it_and_the_restart_goes_on(fleet: Fleet) -> None:
    daemon = fleet.node(lock={"ttl": "60s", "renew": "5s"})
    run = daemon.client.enqueue("fleetfunctions:nap", 0.5)
    first = running(daemon, run.id)
    daemon.kill9()
    began = time.monotonic()
    daemon.start()
    running(daemon, run.id, beyond=first.token)
    printed("killed supervisor, task started again", began, 3.0)


def test_a_killed_coordinator_loses_no_lock_and_touches_no_task(fleet: Fleet) -> None:
    daemon = fleet.node()
    run = daemon.client.enqueue("fleetfunctions:nap", 5.0)
    first = running(daemon, run.id)
    began = time.monotonic()
    pid = coordinator_pid(daemon)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: coordinator_pid(daemon) != pid, 5, what="another coordinator")
    printed("killed coordinator, another ready", began, 1.5)
    assert run.wait(15) == "completed"
    assert fleet.store().run(run.id).tasks[0].token == first.token


def test_cancel_is_noticed_within_half_a_second(fleet: Fleet) -> None:
    daemon = fleet.node()
    run = daemon.client.enqueue("fleetfunctions:patient", 30)
    running(daemon, run.id)
    began = time.monotonic()
    assert daemon.ctl("cancel", run.id).code == 0
    asked = time.monotonic()
    wait_until(lambda: run.status == "cancelled", 5)
    printed("cancel, told and ended", max(began, asked - 0.3), 0.8)


def test_a_python_step_that_ignores_its_cancel_is_killed(fleet: Fleet) -> None:
    daemon = fleet.node(maxWorkers=1)
    run = daemon.client.enqueue("fleetfunctions:deaf", 60)
    record = running(daemon, run.id)
    daemon.client.cancel(run.id)
    began = time.monotonic()
    assert run.wait(20) == "cancelled"
    printed("a step that ignores its cancel, killed", began, 7.0)
    assert time.monotonic() - began > 4.5, "it had no time to end by itself"
    assert not alive(record.pid)


def test_a_cancelled_command_is_ended(fleet: Fleet) -> None:
    daemon = fleet.node()
    daemon.workflow("demo.yaml", "name: demo\nsteps:\n  - name: a\n    run: [sleep, '60']\n")
    assert daemon.ctl("reload").code == 0
    run = daemon.client.submit("demo")
    record = running(daemon, run.id)
    wait_until(lambda: descendants(record.pid), 5)
    daemon.client.cancel(run.id)
    assert run.wait(5) == "cancelled"
    assert not descendants(record.pid)


def test_a_worker_that_holds_the_gil_keeps_its_lock(fleet: Fleet) -> None:
    daemon = fleet.node(maxWorkers=1)
    run = daemon.client.enqueue("fleetfunctions:burn", 5.0)
    first = running(daemon, run.id)
    assert run.wait(30) == "completed"
    assert fleet.store().run(run.id).tasks[0].token == first.token


def test_a_stopped_worker_is_killed_after_its_locks_life(fleet: Fleet) -> None:
    daemon = fleet.node()
    run = daemon.client.enqueue("fleetfunctions:nap", 1.0)
    first = running(daemon, run.id)
    began = time.monotonic()
    os.kill(first.pid, signal.SIGSTOP)
    running(daemon, run.id, beyond=first.token, timeout=20)
    printed("stopped worker, its task started again", began, TTL + 5)
    assert run.wait(10) == "completed"
    wait_until(lambda: not alive(first.pid), 5, what="the end of the stopped worker")


def stop_tree(daemon: Daemon, number: signal.Signals) -> None:
    for pid in [daemon.pid, *descendants(daemon.pid)]:
        os.kill(pid, number)


def test_a_node_stopped_for_longer_than_its_locks_is_fenced(fleet: Fleet, tmp_path: Path) -> None:
    one, two = fleet.node(), fleet.node(queues=["other"])
    wait_until(lambda: fleet.leader() is not None, 10)
    log = tmp_path / "effects"
    run = one.client.enqueue("fleetfunctions:effect", str(log), 1, 10.0)
    first = running(one, run.id)
    stop_tree(one, signal.SIGSTOP)
    other = two.client
    wait_until(lambda: other.run(run.id).status in ("waiting", "running") and not _claimed(fleet, run.id), TTL + 8)
    stop_tree(one, signal.SIGCONT)
    one.wait_log("task fenced", 10)
    assert other.run(run.id).wait(40) == "completed"
    assert fleet.store().run(run.id).tasks[0].token > first.token


def _claimed(fleet: Fleet, run: str) -> bool:
    return fleet.store().run(run).tasks[0].status == "running"


def test_leader_killed_another_leads_and_a_retry_goes_on(fleet: Fleet) -> None:
    fleet.node(), fleet.node()
    first = fleet.wait_leader()
    began = time.monotonic()
    first.kill9(everything=True)
    second = fleet.wait_leader(10)
    printed("killed leader, another leads", began, 3 + 2.5)
    delayed = second.client.options(delay="1s").enqueue("fleetfunctions:nap", 0)
    assert delayed.wait(10) == "completed"


def test_stop_hands_over_at_once(fleet: Fleet) -> None:
    fleet.node(), fleet.node()
    first = fleet.wait_leader()
    began = time.monotonic()
    assert first.stop() == 0
    fleet.wait_leader(10)
    printed("stopped leader, another leads", began, 3.0)
