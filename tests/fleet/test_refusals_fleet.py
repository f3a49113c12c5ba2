"""A server that is there and refuses, under a whole daemon: told, no process ends, no storm, nothing lost, on again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from nodes import a_fleet, printed, running
from refusals import WAYS, alone, errors, fill
from support.processes import descendants
from support.redis_server import Link

SECONDS = 1.5  # the refusal lasts
OPTIONS: dict[str, dict[str, Any]] = {
    "clusterdown": {"cluster_enabled": "yes"}, "noreplicas": {"kind": "valkey"}, "loading": {"appendonly": "yes"},
}  # fmt: skip
WORDS = {"maxclients": "no room for more clients"}
RATE = 40.0  # refusals and connects a second of all processes of a node, at most: they back off to one in 2 s


@pytest.mark.parametrize("way", WAYS)
def test_a_refusing_server_is_waited_for(way: str, tmp_path: Path) -> None:
    options = OPTIONS.get(way, {})
    with a_fleet(tmp_path, **options) as fleet:
        server = fleet.server
        address = alone(server) if way == "clusterdown" else server.address
        if way == "loading":
            fill(server)
        log = tmp_path / "effects"
        daemon = fleet.node(redisAddr=address)
        before = set(descendants(daemon.pid))
        run = daemon.client.enqueue("fleetfunctions:effect", str(log), 1, 0.5)
        running(daemon, run.id)
        with WAYS[way](server) as link:
            daemon.wait_log("Redis cannot be used", 10)
            daemon.wait_log("a result is kept", 10)
            rate = _rate(link) if way != "busy" else 0.0  # it refuses to count, too
        began = time.monotonic()
        another = daemon.client.enqueue("fleetfunctions:effect", str(log), 2)
        assert run.wait(10) == another.wait(10) == "completed"
        printed(f"{way} is over, the kept result delivered and the next done", began, 5.0)
        assert sorted(log.read_text().split()) == ["1", "2"]
        assert set(descendants(daemon.pid)) == before
        daemon.wait_log("Redis can be used again", 5)
        assert f": {WORDS.get(way, way.upper())}: " in daemon.log or WORDS.get(way, "-") in daemon.log
        assert rate < RATE, f"{rate:.0f} a second"


def _rate(link: Link) -> float:
    """Refusals and connects a second, while nothing is to be done but wait."""
    before, began = errors(link), time.monotonic()
    time.sleep(SECONDS)
    rate = (errors(link) - before) / (time.monotonic() - began)
    print(f"{rate:.1f} refusals and connects a second")
    return rate
