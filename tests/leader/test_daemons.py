"""Whole daemons: two nodes, a real Redis, the double of the API server. A change of leader touches no running task."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.apiserver import ApiServer
from support.daemon import Daemon
from support.processes import descendants, kill
from support.waiting import wait_until

from leader.ledger import RedisProcess

ELECTION = {"leaseDuration": "3s", "renewDeadline": "2s", "retryPeriod": "300ms"}
BOUND = 3.0 + 0.36 + 3.0  # lease, one look, and what a loaded machine adds
STEP = 6  # seconds: longer than a fail-over takes
WORKFLOW = f"name: patient\nsteps:\n  - name: wait\n    run: [sleep, '{STEP}']\n"


@pytest.fixture
def nodes(api: ApiServer) -> Iterator[list[Daemon]]:
    """a leads, b follows."""
    with ExitStack() as stack:
        redis = RedisProcess()
        stack.callback(redis.close)
        daemons = []
        for name in "ab":
            daemon = Daemon(
                nodeId=name,
                redisAddr=f"unix://{redis.socket}",
                kubeconfig=str(api.kubeconfig(name)),
                leaderElection=ELECTION,
            )
            stack.callback(daemon.close)
            daemon.workflow("patient.yaml", WORKFLOW)
            daemons.append(daemon.start())
            daemon.wait_log(f"Node {name} became leader" if name == "a" else "Node b is follower")
        yield daemons


def test_the_leader_stops(nodes: list[Daemon]) -> None:
    old, new = nodes
    begun = time.monotonic()
    old.send(signal.SIGTERM)
    new.wait_log("Node b became leader")
    took = time.monotonic() - begun
    print(f"daemons, hand-over by SIGTERM: {took:.2f} s")
    assert took < 3.0
    assert old.wait() == 0


def test_the_leader_is_killed_while_a_task_runs(nodes: list[Daemon]) -> None:
    """All of it at once, and what was accepted completes."""
    old, new = nodes
    run = new.client.submit("patient")
    wait_until(lambda: run.status == "running", 15, what="the task to start")
    begun = time.monotonic()
    old.kill9(everything=True)
    new.wait_log("Node b became leader", timeout=30)
    took = time.monotonic() - begun
    print(f"daemons, fail-over after kill -9: {took:.2f} s")
    assert took < BOUND
    assert run.wait(timeout=60) == "completed"


def test_the_leaders_coordinator_is_killed(nodes: list[Daemon], api: ApiServer) -> None:
    """It is another process with another identity: the old term ends first, and the task that runs there goes on."""
    old, _ = nodes
    before = (api.lease() or {})["spec"]
    run = old.client.submit("patient")
    wait_until(lambda: run.status == "running", 15, what="the task to start")
    kill(pid for pid in descendants(old.pid) if b"kubemin: coordinator" in Path(f"/proc/{pid}/cmdline").read_bytes())
    wait_until(lambda: transitions(api) > before["leaseTransitions"], 30, what="the next term")
    assert (api.lease() or {})["spec"]["holderIdentity"] != before["holderIdentity"]
    assert run.wait(timeout=60) == "completed"
    [task] = run_tasks(old, run.id)
    assert task["attempt"] == 1


def transitions(api: ApiServer) -> int:
    return int((api.lease() or {})["spec"]["leaseTransitions"])


def run_tasks(daemon: Daemon, run: str) -> list[dict[str, int]]:
    tasks: list[dict[str, int]] = daemon.ctl("show", run, "-o", "json").json["tasks"]
    return tasks
