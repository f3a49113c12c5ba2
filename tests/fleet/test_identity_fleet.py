"""Two fleets and one server, and a server that lost everything: refused, or gone on with, and said in either case."""

from __future__ import annotations

import os
from pathlib import Path

from nodes import Fleet
from support import Daemon, wait_until
from support.functions import effects
from support.redis_server import Server

from kubemin.store.redis import keys


def identity(node: Daemon) -> str:
    return (node.state / "fleet").read_text().split()[0]


def test_a_node_of_another_fleet_is_refused_and_says_how_to_go_on(fleet: Fleet) -> None:
    first = fleet.node()
    own = identity(first)
    assert own.encode() in fleet.server.command("GET", keys.FLEET)
    with Server() as other:
        stranger = fleet.node(redisAddr=other.address)
        assert identity(stranger) != own
        assert stranger.stop() == 0
    stranger.configure(redisAddr=fleet.server.address, nodeId="stranger", python=fleet.python)
    stranger.start(ready=False)
    assert stranger.wait(20) == 3
    assert "this node cannot be in the fleet" in stranger.log and f"belongs to fleet {own}" in stranger.log
    assert f"remove {stranger.state}/fleet to move this node into that fleet" in stranger.log

    for command in (
        ("runs",),
        ("submit", "-f", str(first.workflow("w.yaml", "name: one\nsteps: [{name: a, run: [id]}]"))),
    ):
        done = stranger.ctl(*command)
        assert done.code == 3 and f"belongs to fleet {own}" in done.stderr and len(done.stderr.splitlines()) == 1
    assert first.ctl("runs", "-o", "json").json["items"] == []

    (stranger.state / "fleet").unlink()
    stranger.start()
    assert identity(stranger) == own
    assert stranger.client.enqueue("fleetfunctions:nap", 0).wait(10) == "completed"


def test_many_first_nodes_agree_on_one_fleet(fleet: Fleet) -> None:
    nodes = [fleet.node(started=False) for _ in range(3)]
    for node in nodes:
        node.start(ready=False)
    for node in nodes:
        node.wait_ready()
    assert len({(node.state / "fleet").read_text() for node in nodes}) == 1


def test_a_live_node_takes_nothing_from_a_server_that_became_another_fleets(fleet: Fleet, tmp_path: Path) -> None:
    """The address leads to another fleet's server after a restart there, as a DNS name or a fail-over may."""
    node = fleet.node()
    with Server() as other:
        owner = fleet.node(redisAddr=other.address, maxWorkers=1)
        assert owner.client.enqueue("fleetfunctions:nap", 0).wait(10) == "completed"
        assert owner.stop() == 0
        owner.client.enqueue("fleetfunctions:effect", str(tmp_path / "effects"), 1)
        own_socket = fleet.server.socket
        fleet.server.stop()
        os.symlink(other.socket, own_socket)
        node.wait_log("belongs to fleet", 15)
        assert (
            node.ctl("submit", "-f", str(node.workflow("w.yaml", "name: one\nsteps: [{name: a, run: [id]}]"))).code == 3
        )
        assert other.command("LLEN", "workflow:queue") == b":1\r\n"
        os.unlink(own_socket)
        fleet.server.start()
        assert node.client.enqueue("fleetfunctions:nap", 0).wait(20) == "completed"
        assert effects(tmp_path / "effects") == [] and node.log.count("Redis cannot be used") <= 2


def test_after_a_flushall_the_fleet_goes_on_and_says_what_is_gone(fleet: Fleet, tmp_path: Path) -> None:
    nodes = [fleet.node(started=False) for _ in range(2)]
    for node in nodes:
        node.workflow("demo.yaml", "name: demo\nsteps:\n  - name: a\n    run: [echo, hi]\n")
        node.start()
    one, two = nodes
    fleet.wait_leader()
    own = identity(one)
    lost = one.client.enqueue("fleetfunctions:effect", str(tmp_path / "effects"), 1, 3.0)
    wait_until(lambda: effects(tmp_path / "effects"), 10)
    before = [node.pid for node in nodes]
    assert fleet.server.command("FLUSHALL") == b"+OK\r\n"
    for node in nodes:
        node.wait_log("Redis has lost the records of this fleet", 10)
    wait_until(lambda: one.ctl("submit", "demo", "--wait").code == 0, 20)
    assert two.client.enqueue("fleetfunctions:nap", 0).wait(20) == "completed"
    assert fleet.server.command("GET", keys.FLEET).split(b"\r\n")[1].decode().split()[0] == own
    assert one.ctl("show", lost.id).code == 4, "what is gone is not completed"
    wait_until(lambda: "task fenced" in one.log + two.log, 10)
    fleet.wait_leader(20)
    assert [node.pid for node in nodes] == before and "Traceback" not in one.log + two.log
    assert effects(tmp_path / "effects") == [1]
    two.restart()
    assert two.log.count("Redis has lost the records") == 1, "once"
