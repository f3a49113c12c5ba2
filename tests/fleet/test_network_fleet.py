"""The network between a node and its server: half open, slow, lossy; replies that get lost after their script ran."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from leftovers import left_behind
from nodes import Fleet, anywhere, look, printed, running
from support import Daemon, wait_until
from support.faultproxy import FaultProxy

from kubemin.errors import KubeminError
from kubemin.store.redis.node import BLOCK

DEMO = """
name: demo
steps:
  - name: a
    python: fleetfunctions:token
  - name: b
    python: fleetfunctions:token
    forEach: [1, 2, 3]
"""
LOCK = {"ttl": "6s", "renew": "2s"}


@pytest.fixture
def proxy(fleet: Fleet) -> Iterator[FaultProxy]:
    with FaultProxy(fleet.server.port) as made:
        yield made


def behind(fleet: Fleet, proxy: FaultProxy, **settings: Any) -> Daemon:
    return fleet.node(redisAddr=f"127.0.0.1:{proxy.port}", **settings)


def running_no_more(daemon: Daemon, run: str) -> bool:
    return look(daemon, run) is None


def effects(path: Path) -> list[int]:
    return sorted(map(int, path.read_text().split()))


def idle(daemon: Daemon, fleet: Fleet, count: int = 2) -> None:
    """All workers are blocked in BLPOP."""
    wait_until(lambda: fleet.server.command("CLIENT", "LIST").count(b"cmd=blpop") == count, 10, what="blocked workers")


def test_a_half_open_wait_is_noticed(fleet: Fleet, proxy: FaultProxy) -> None:
    daemon, client = behind(fleet, proxy), fleet.node(started=False).client
    idle(daemon, fleet)
    proxy.cut("half-open")
    began = time.monotonic()
    run = client.enqueue("fleetfunctions:nap", 0)
    daemon.wait_log("cut off while waiting for a task", 10)
    printed("half-open connection, noticed", began, BLOCK + 2)
    # Popped for a dead connection, it is pushed again 2 s later, when the coordinator has noticed as well (5 s).
    assert run.wait(10) == "completed"
    printed("and what was popped for it done", began, 8.0)


def test_a_lossy_network_without_false_recoveries(fleet: Fleet, proxy: FaultProxy, tmp_path: Path) -> None:
    """One node loses 30 % of its packets, a healthy one leads: nothing that runs is taken from anybody."""
    fleet.node(queues=["other"], lock=LOCK)
    fleet.wait_leader()
    daemon = behind(fleet, proxy, lock=LOCK)
    log = tmp_path / "effects"
    proxy.loss = 0.3
    runs = daemon.client.enqueue_many("fleetfunctions:effect", [((str(log), n, 0.7), {}) for n in range(12)])
    assert set(daemon.client.wait(runs, 60).values()) == {"completed"}
    assert effects(log) == list(range(12))
    nothing_was_recovered(fleet)


def test_five_seconds_of_latency_without_false_recoveries(fleet: Fleet, proxy: FaultProxy, tmp_path: Path) -> None:
    """For longer than the locks live, nobody's renewal gets an answer: nothing is taken from anybody."""
    log = tmp_path / "effects"
    nodes = [behind(fleet, proxy, lock=LOCK, maxWorkers=1) for _ in range(2)]
    leader = fleet.wait_leader()
    runs = nodes[0].client.enqueue_many("fleetfunctions:effect", [((str(log), n, 15.0), {}) for n in range(2)])
    for run in runs:
        anywhere(fleet, run.id)
    proxy.delay = 5.0
    for node in nodes:
        node.wait_log("Redis cannot be used", 15)
    time.sleep(4.0)  # with what it took to notice: locks have lapsed
    proxy.delay = 0.0
    assert set(nodes[0].client.wait(runs, 40).values()) == {"completed"}
    assert effects(log) == [0, 1] and leader.running
    nothing_was_recovered(fleet)


def nothing_was_recovered(fleet: Fleet) -> None:
    for node in fleet.nodes:
        assert "fenced" not in node.log and "queued again" not in node.log


def test_replies_that_get_lost_are_asked_for_again(fleet: Fleet, proxy: FaultProxy, tmp_path: Path) -> None:
    """Of whatever was carried out: it is applied once, nothing is claimed that nobody runs, and nobody is killed."""
    daemon = behind(fleet, proxy, started=False)
    daemon.workflow("demo.yaml", DEMO)
    daemon.start()
    log, direct = tmp_path / "effects", fleet.node(started=False).client
    accepted: list[str] = []
    for part in range(4):
        proxy.swallow = 0.1 + 0.05 * part
        calls = [((str(log), part * 100 + n), {}) for n in range(40)]
        accepted += [run.id for run in direct.enqueue_many("fleetfunctions:effect", calls)]
        accepted += [submitted(daemon, f"{part}-{n}") for n in range(5)]
        assert set(direct.wait(accepted, 60).values()) == {"completed"}
    proxy.swallow = 0
    print(f"{proxy.swallowed} replies lost on {proxy.accepted} connections")
    assert proxy.swallowed > 50 and len(set(accepted)) == len(accepted) == 180
    assert effects(log) == [part * 100 + n for part in range(4) for n in range(40)]
    wait_until(lambda: not left_behind(fleet.server), 10)
    for run in accepted:
        assert {task.attempt for task in fleet.store().run(run).tasks if task.token} == {1}
    assert "killing worker" not in daemon.log


def submitted(daemon: Daemon, key: str) -> str:
    """Through the same network, so that it is repeated under its key."""

    def tried() -> str:
        with suppress(KubeminError):
            return daemon.client.submit("demo", key=key).id
        return ""

    return wait_until(tried, 20)


def test_a_request_that_arrives_after_its_workers_death_changes_nothing(
    fleet: Fleet, proxy: FaultProxy, tmp_path: Path
) -> None:
    """The worker's result, and its claim of the next task, stand in the network while it dies."""
    daemon = behind(fleet, proxy, maxWorkers=1)
    log = tmp_path / "effects"
    first = daemon.client.enqueue("fleetfunctions:effect", str(log), 1, 1.0)
    record = running(daemon, first.id)
    second = daemon.client.enqueue("fleetfunctions:effect", str(log), 2)
    proxy.hold()
    wait_until(lambda: running_no_more(daemon, first.id), 10)
    time.sleep(0.2)
    os.kill(record.pid, signal.SIGKILL)
    daemon.wait_log("worker died", 5)
    proxy.release()
    assert first.wait(20) == second.wait(20) == "completed"
    assert effects(log) in ([1, 2], [1, 1, 2])
    wait_until(lambda: not left_behind(fleet.server), 10)
