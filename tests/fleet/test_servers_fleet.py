"""The same fleet over other servers and ways to reach them: Valkey 9, TCP with a password, another database."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from nodes import a_fleet, running
from support import wait_until

WAYS = {
    "valkey": ({"kind": "valkey"}, "{socket}"),
    "tcp": ({}, "{tcp}"),
    "password": ({"requirepass": "s3cret"}, "redis://:s3cret@{tcp}/0"),
    "database": ({}, "redis://{tcp}/3"),
}


@pytest.mark.parametrize("way", WAYS)
def test_work_kills_and_cancels(way: str, tmp_path: Path) -> None:
    options, address = WAYS[way]
    with a_fleet(tmp_path, **options) as fleet:
        server = fleet.server
        daemon = fleet.node(redisAddr=address.format(socket=server.address, tcp=server.tcp_address))
        assert "s3cret" not in daemon.log
        run = daemon.client.enqueue("fleetfunctions:nap", 0.5)
        first = running(daemon, run.id)
        os.kill(first.pid, signal.SIGKILL)
        assert run.wait(10) == "completed"
        stopped = daemon.client.enqueue("fleetfunctions:patient", 30)
        running(daemon, stopped.id)
        assert daemon.client.cancel(stopped)
        wait_until(lambda: stopped.status == "cancelled", 5)
        many = daemon.client.enqueue_many("fleetfunctions:nap", [((0,), {})] * 500)
        assert set(daemon.client.wait(many, 20).values()) == {"completed"}
        assert daemon.stop() == 0 and "s3cret" not in daemon.log
