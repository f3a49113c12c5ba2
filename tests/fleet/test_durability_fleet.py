"""`durability`: what a submission waits for, on both servers, and what the client is told when it does not come."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from nodes import Fleet, a_fleet
from support import wait_until
from support.redis_server import Server, running

from kubemin.errors import NotDurable, Refused
from kubemin.store.redis import keys

ONE = "name: one\nsteps: [{name: a, run: [echo, hi]}]\n"


@contextmanager
def replica_of(master: Server) -> Iterator[Server]:
    with running(master.kind, replicaof=f"127.0.0.1 {master.port}") as replica:
        wait_until(lambda: b"master_link_status:up" in replica.command("INFO", "replication"), 20)
        wait_until(lambda: b"state=online" in master.command("INFO", "replication"), 20)
        yield replica


@pytest.fixture(params=["redis", "valkey"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Fleet, Server]]:
    with a_fleet(tmp_path, kind=request.param) as fleet, replica_of(fleet.server) as replica:
        yield fleet, replica


def runs_on(server: Server) -> int:
    return int(server.command("ZCARD", keys.RUNS)[1:])


def waits(server: Server) -> int:
    """WAITs that the server has answered."""
    return int(server.command("INFO", "commandstats").partition(b"cmdstat_wait:calls=")[2].partition(b",")[0])


def test_a_replica_has_what_was_submitted(pair: tuple[Fleet, Server]) -> None:
    fleet, replica = pair
    node = fleet.node(durability="replica", started=False)
    client = node.client
    run = client.enqueue("fleetfunctions:nap", 0)
    assert runs_on(replica) == 1, "on the replica when the client is told"
    many = client.enqueue_many("fleetfunctions:nap", [((0,), {})] * 1500)
    assert replica.command("LLEN", keys.sealing()) == b":1\r\n", "the batch as well"
    node.start()
    assert set(client.wait([run, *many], 40).values()) == {"completed"}


def test_a_replica_that_stands_still_is_told_with_the_run_that_was_accepted(pair: tuple[Fleet, Server]) -> None:
    fleet, replica = pair
    node = fleet.node(durability="replica")
    replica.pause()
    try:
        done = node.ctl("submit", "-f", str(node.workflow("one.yaml", ONE)))
        (view,) = node.client.runs()
        assert done.code == 3 and len(done.stderr.splitlines()) == 1
        assert f"accepted as run {view.id}, but not on a replica after 4 s" in done.stderr
        with pytest.raises(NotDurable) as told:
            node.client.enqueue_many("fleetfunctions:nap", [((0,), {})] * 3)
        assert len(told.value.runs) == 3
    finally:
        replica.resume()
    assert set(node.client.wait([view.id, *told.value.runs], 20).values()) == {"completed"}
    assert node.ctl("submit", "-f", str(node.workflows / "one.yaml"), "--wait").code == 0


def test_cut_off_in_the_wait_the_request_is_repeated_and_counts_once(pair: tuple[Fleet, Server]) -> None:
    """The new connection may lead elsewhere: what it waits for has to be what it wrote."""
    fleet, replica = pair
    node = fleet.node(started=False, durability="replica")
    replica.pause()
    done: list[object] = []
    thread = threading.Thread(target=lambda: done.append(node.client.enqueue("fleetfunctions:nap", 0)))
    thread.start()
    try:
        wait_until(lambda: b"cmd=wait " in fleet.server.command("CLIENT", "LIST"), 5, what="a client in WAIT")
        run = fleet.server.command("ZRANGE", keys.RUNS, 0, 0).split(b"\r\n")[2].decode()
        fleet.server.command("DEL", keys.run(run), keys.RUNS)  # as if the other server had not got it
        fleet.server.command("CLIENT", "KILL", "TYPE", "normal")
    finally:
        replica.resume()
    thread.join(10)
    assert len(done) == 1 and getattr(done[0], "created", False) is True
    assert runs_on(fleet.server) == runs_on(replica) == 1


def test_the_disk_is_waited_for_where_the_server_can_say_so(tmp_path: Path) -> None:
    """Valkey 9 has WAITAOF; without a log there is nothing to wait for."""
    with a_fleet(tmp_path, kind="valkey", appendonly="yes") as fleet:
        node = fleet.node(durability="fsync")
        run = node.client.enqueue("fleetfunctions:nap", 0)
        assert b"waitaof" in fleet.server.command("INFO", "commandstats")
        assert run.wait(10) == "completed"
        many = node.client.enqueue_many("fleetfunctions:nap", [((0,), {})] * 1200)
        assert set(node.client.wait(many, 40).values()) == {"completed"}
        fleet.server.command("CONFIG", "SET", "appendonly", "no")
        with pytest.raises(NotDurable) as told:
            node.client.enqueue("fleetfunctions:nap", 0)
        assert told.value.runs and "not known to be on disk" in str(told.value)
        other = fleet.node(started=False, durability="fsync")
        other.start(ready=False)
        assert other.wait(20) == 3 and "needs `appendonly yes`" in other.log


def test_where_it_cannot_be_waited_for_nothing_is_accepted(tmp_path: Path) -> None:
    """Redis 6.2 without `appendfsync always`: said before anything is written, also by a client without a daemon."""
    with a_fleet(tmp_path, kind="redis", appendonly="yes") as fleet:
        node = fleet.node(started=False, durability="fsync")
        done = node.ctl("submit", "-f", str(node.workflow("one.yaml", ONE)))
        assert done.code == 5 and "appendfsync always" in done.stderr
        with pytest.raises(Refused):
            node.client.enqueue("fleetfunctions:nap", 0)
        assert runs_on(fleet.server) == 0
        fleet.server.command("CONFIG", "SET", "appendfsync", "always")
        node.client.enqueue("fleetfunctions:nap", 0)
        assert runs_on(fleet.server) == 1
        fleet.server.command("CONFIG", "SET", "appendfsync", "everysec")  # behind the back of an open client
        with pytest.raises(NotDurable):
            node.client.enqueue("fleetfunctions:nap", 0)


def test_what_a_step_enqueues_is_waited_for_as_well(pair: tuple[Fleet, Server]) -> None:
    fleet, _ = pair
    (fleet.folder / "fleetchild.py").write_text(
        "import kubemin\n\ndef parent():\n    return kubemin.Client.from_config().enqueue('fleetchild:child').id\n\n"
        "def child():\n    return 1\n"
    )
    node = fleet.node(durability="replica", python={"path": [str(fleet.folder)], "allow": ["fleetchild:*"]})
    assert node.ctl("queue", "pause", "default").code == 0
    run = node.client.enqueue("fleetchild:parent")
    before = waits(fleet.server)
    assert before and node.ctl("queue", "resume", "default").code == 0
    assert run.wait(10) == "completed"
    assert node.client.wait([run.result], 10)[run.result] == "completed"
    assert waits(fleet.server) > before
