"""A fleet's coordinator that hangs is replaced before a lock lapses; one that waits for Redis is left alone."""

from __future__ import annotations

import time
from pathlib import Path

from nodes import Fleet, coordinator_pid, printed, running
from support import wait_until
from support.faultproxy import FaultProxy
from support.functions import effects

from kubemin.pulse import WORK
from kubemin.supervisor.silence import HUNG_SECONDS

DEFAULT_LOCK = {"ttl": "15s", "renew": "5s"}
REPLACED = WORK + HUNG_SECONDS + 3.0


def test_a_leader_whose_coordinator_hangs_is_replaced_before_its_locks_lapse(fleet: Fleet, tmp_path: Path) -> None:
    once, log = tmp_path / "once", tmp_path / "effects"
    hangs = tmp_path / "once.leader.recover"
    fault = {"KUBEMIN_FAULT": "leader.recover=hang@8", "KUBEMIN_FAULT_ONCE": str(once)}
    node = fleet.node(environ=fault, lock=DEFAULT_LOCK)
    first = coordinator_pid(node)
    run = node.client.enqueue("fleetfunctions:effect", str(log), 1, REPLACED + 10.0)
    running(node, run.id)
    wait_until(hangs.exists, 20, what="the hang")
    began = time.monotonic()
    node.wait_log("the coordinator gives no sign of life; it is replaced", REPLACED)
    second = coordinator_pid(node, but=first)
    printed("a leader that hangs, its coordinator replaced", began, REPLACED)
    assert run.wait(30) == "completed" and effects(log) == [1]
    assert "fenced" not in node.log and "queued again" not in node.log
    assert coordinator_pid(node) == second


def test_one_that_waits_for_redis_is_not_replaced(fleet: Fleet, tmp_path: Path) -> None:
    """Replies that take almost as long as they may, one after the other: a turn of the loop takes minutes."""
    with FaultProxy(fleet.server.port) as proxy:
        node = fleet.node(redisAddr=f"127.0.0.1:{proxy.port}", lock=DEFAULT_LOCK)
        fleet.wait_leader()
        first = coordinator_pid(node)
        proxy.delay = 4.0
        time.sleep(WORK + HUNG_SECONDS + 8.0)
        proxy.delay = 0.0
        assert node.client.enqueue("fleetfunctions:nap", 0).wait(20) == "completed"
        assert coordinator_pid(node) == first and "it is replaced" not in node.log
