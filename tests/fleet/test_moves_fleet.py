"""Our keys go to another server in the middle of work: fail-overs, with and without lost writes, slots that move.

Whole daemons on Sentinel and Cluster. A short selection runs by default, all of it with `--topologies`.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from leftovers import left_behind
from nodes import Fleet, a_fleet, anywhere, coordinator_pid, printed
from refusals import errors
from support import wait_until
from support.processes import descendants
from support.redis_server import Server
from support.topologies import Cluster, Sentinels

from kubemin.client import Run
from kubemin.errors import KubeminError, NotFound
from kubemin.store.redis import keys

SECONDS = 1.0  # idle, after all has ended: nobody asks and asks


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "where" in metafunc.fixturenames:
        way = metafunc.function.__name__.split("_")[-1]
        everywhere = metafunc.config.getoption("--topologies")
        metafunc.parametrize("where", [f"{way}-redis", *([f"{way}-valkey"] if everywhere else [])])


def fail_over(fleet: Fleet) -> None:
    fabric = fleet.place.fabric
    fabric.fail_over(*((keys.SEQ,) if isinstance(fabric, Cluster) else ()))


def effects(path: Path) -> list[int]:
    return sorted(map(int, path.read_text().split())) if path.exists() else []


def enqueued(fleet: Fleet, log: Path, number: int) -> Run:
    """As soon as the new master is found."""
    client = fleet.node(started=False).client

    def tried() -> Run | None:
        with suppress(KubeminError):
            return client.enqueue("fleetfunctions:effect", str(log), number)
        return None

    return wait_until(tried, 10, what="a server that takes a submission")


def survives(fleet: Fleet, log: Path) -> None:
    """A task that runs across a fail-over goes on, and work follows within 5 s of the new master."""
    daemon = fleet.node(lock={"ttl": "15s", "renew": "5s"})
    before = set(descendants(daemon.pid))
    run = daemon.client.enqueue("fleetfunctions:effect", str(log), 1, 6.0)
    _, first = anywhere(fleet, run.id)
    fleet.server.command("WAIT", 1, 2000)
    fail_over(fleet)
    began = time.monotonic()
    assert enqueued(fleet, log, 2).wait(10) == "completed"
    printed(f"{fleet.place.address.partition(':')[0]}: work after the fail-over", began, 5.0)
    assert run.wait(20) == "completed" and fleet.store().run(run.id).tasks[0].token == first.token
    assert effects(log) == [1, 2] and set(descendants(daemon.pid)) == before
    wait_until(lambda: not left_behind(fleet.server), 10)


def test_work_goes_on_over_a_failover_of_sentinel(where: str, tmp_path: Path) -> None:
    with a_fleet(tmp_path, where) as fleet:
        survives(fleet, tmp_path / "effects")


def test_work_goes_on_over_a_failover_of_cluster(where: str, tmp_path: Path) -> None:
    with a_fleet(tmp_path, where) as fleet:
        survives(fleet, tmp_path / "effects")


def test_a_replica_that_had_not_heard_of_all_is_promoted_by_sentinel(where: str, tmp_path: Path) -> None:
    """What it had not heard is lost, with Redis; the rest is worked off, and nobody hangs or ends."""
    with a_fleet(tmp_path, where) as fleet:
        daemon, log = fleet.node(), tmp_path / "effects"
        fabric: Sentinels = fleet.place.fabric
        before = coordinator_pid(daemon)
        known = [daemon.client.enqueue("fleetfunctions:effect", str(log), n, 4.0).id for n in range(4)]
        anywhere(fleet, known[0])
        fleet.server.command("WAIT", 1, 2000)
        fabric.replica.pause()
        fabric.master.command("CLIENT", "KILL", "TYPE", "replica")  # else what is sent waits for it in its socket
        lost = daemon.client.enqueue_many("fleetfunctions:effect", [((str(log), 10 + n), {}) for n in range(3)])
        assert set(daemon.client.wait(known[:2], 20).values()) == {"completed"}
        fabric.master.kill()
        fabric.replica.resume()
        wait_until(lambda: b"role:master" in fabric.replica.command("INFO", "replication"), 20)
        began = time.monotonic()
        fresh = enqueued(fleet, log, 20)
        # A token may be given out twice now; a worker that was told to stop under the first use heeds it no more.
        assert set(daemon.client.wait([*known, fresh.id], 40).values()) == {"completed"}
        printed("worked off after a fail-over with lost writes", began, 30.0)
        with pytest.raises(NotFound):
            daemon.client.wait([run.id for run in lost], 5)
        ran = Counter(effects(log))
        assert all(ran[n] >= 1 for n in range(4)) and ran[20] == 1  # its ledger does not know who ran what
        assert daemon.running and coordinator_pid(daemon) == before  # steps that are fenced take their workers along
        wait_until(lambda: not left_behind(fleet.server), 10)


def moves(fleet: Fleet, log: Path, move: str) -> None:
    daemon = fleet.node(lock={"ttl": "15s", "renew": "5s"})
    before = set(descendants(daemon.pid))
    first = daemon.client.enqueue_many("fleetfunctions:effect", [((str(log), n, 0.05), {}) for n in range(60)])
    source = fleet.server
    getattr(fleet.place.fabric, move)(keys.SEQ)
    assert fleet.server is not source
    began = time.monotonic()
    second = daemon.client.enqueue_many("fleetfunctions:effect", [((str(log), 60 + n), {}) for n in range(20)])
    assert set(daemon.client.wait([*first, *second], 20).values()) == {"completed"}
    printed(f"{move}: worked off at the slot's new server", began, 10.0)
    assert effects(log) == list(range(80))
    assert set(descendants(daemon.pid)) == before
    assert "makes no sense" not in daemon.log and "fenced" not in daemon.log
    wait_until(lambda: not left_behind(fleet.server), 10)
    assert left_behind(source) == []
    calm(source)


def calm(server: Server) -> None:
    """Everybody waits at the new server: the old one is not asked over and over."""
    with server.link() as link:
        before = errors(link)
        time.sleep(SECONDS)
        assert errors(link) - before < 10


def test_a_slot_moves_key_by_key_in_a_cluster(where: str, tmp_path: Path) -> None:
    with a_fleet(tmp_path, where) as fleet:
        moves(fleet, tmp_path / "effects", "move_slot")


def test_a_slot_moves_at_once_in_a_cluster(tmp_path: Path) -> None:
    with a_fleet(tmp_path, "cluster-valkey") as fleet:
        moves(fleet, tmp_path / "effects", "move_slot_at_once")
