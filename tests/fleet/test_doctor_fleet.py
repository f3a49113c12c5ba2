"""`doctor` in a fleet: what it says of real servers with settings, rights and versions that are good or bad."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nodes import Fleet, a_fleet
from support import Completed, Daemon, wait_until
from support.apiserver import ApiServer

from kubemin.cli.checks.base import Verdict
from kubemin.cli.checks.fleet import clock_difference

OF_A_FLEET = ("redis", "acl", "aof", "eviction", "replicas", "durability", "nodes", "leader", "lease", "election")


def found(done: Completed) -> dict[str, list[tuple[str, str]]]:
    """check -> (status, message) of what is about the fleet."""
    told: dict[str, list[tuple[str, str]]] = {}
    for item in done.json["items"]:
        if item["check"] in OF_A_FLEET:
            told.setdefault(item["check"], []).append((item["status"], item["message"]))
    return told


def doctor(daemon: Daemon) -> Completed:
    return daemon.ctl("doctor", "-o", "json")


def wrongs(done: Completed) -> set[str]:
    assert done.code == 1, done
    return {check for check, items in found(done).items() if any(status == "wrong" for status, _ in items)}


def test_a_healthy_fleet(fleet: Fleet) -> None:
    fleet.server.command("CONFIG", "SET", "appendfsync", "always")
    one, _ = fleet.node(), fleet.node()
    fleet.wait_leader()
    wait_until(lambda: ("ok", "2 node(s), one leads") in found(doctor(one)).get("nodes", []), 20)
    done = doctor(one)
    assert done.code == 0, done
    told = found(done)
    assert told["redis"][0][0] == "ok" and told["redis"][0][1].startswith("redis 6.2")
    assert told["acl"] == [("ok", "this user may call what the engine needs")]
    assert told["aof"][0][0] == told["eviction"][0][0] == "ok"
    assert told["replicas"][0][0] == "note"
    [(status, message)] = told["lease"]
    assert status == "ok" and "Redis lock" in message and "held by node-" in message


@pytest.fixture
def bare(tmp_path: Path) -> Any:
    """`bare(option=…)`: a daemon that is configured and not started, on a server with these options."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def made(settings: dict[str, Any] | None = None, **options: Any) -> tuple[Fleet, Daemon]:
            fleet = stack.enter_context(a_fleet(tmp_path, **options))
            return fleet, fleet.node(started=False, **settings or {})

        yield made


def test_what_would_lose_work_is_wrong(bare: Callable[..., tuple[Fleet, Daemon]]) -> None:
    fleet, daemon = bare({"durability": "fsync"}, maxmemory="200mb", maxmemory_policy="allkeys-lru")
    done = doctor(daemon)
    assert wrongs(done) == {"aof", "eviction", "durability"}
    told = found(done)
    assert "CONFIG SET appendonly yes" in told["aof"][0][1] and "allkeys-lru" in told["eviction"][0][1]
    fleet.server.command("CONFIG", "SET", "appendonly", "yes")
    fleet.server.command("CONFIG", "SET", "appendfsync", "everysec")
    fleet.server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    done = doctor(daemon)
    assert wrongs(done) == {"durability"}
    assert "about a second" in found(done)["aof"][0][1]


def test_a_server_that_is_away(bare: Callable[..., tuple[Fleet, Daemon]]) -> None:
    fleet, daemon = bare()
    fleet.server.stop()
    done = doctor(daemon)
    assert wrongs(done) == {"redis", "lease"}
    assert fleet.server.socket in found(done)["redis"][0][1]


def test_a_user_with_too_few_rights(bare: Callable[..., tuple[Fleet, Daemon]]) -> None:
    fleet, daemon = bare()
    fleet.server.command("ACL", "SETUSER", "default", "-eval", "-llen", "-config")
    done = doctor(daemon)
    assert "acl" in wrongs(done)
    [(_, message)] = found(done)["acl"]
    assert "EVAL, LLEN" in message
    assert "cannot be read" in found(done)["aof"][0][1] or "appendonly is off" in found(done)["aof"][0][1]


def test_the_lease_of_a_cluster(bare: Callable[..., tuple[Fleet, Daemon]]) -> None:
    """Rights and namespace are tried for real, by a dry run; nothing is left behind."""
    with ApiServer() as api:
        election = {"backend": "kubernetes"}
        _, daemon = bare({"kubeconfig": str(api.kubeconfig()), "leaderElection": election}, appendonly="yes")
        [(status, message)] = found(doctor(daemon))["lease"]
        assert (status, "can be read and written" in message, api.lease()) == ("ok", True, None)
        api.deny("create")
        assert "cannot create resource" in found(doctor(daemon))["lease"][0][1]
        api.deny()
        daemon.start()
        daemon.wait_log("became leader")
        assert "held by node-0_" in found(doctor(daemon))["lease"][0][1]
        api.deny("update")
        done = doctor(daemon)
        assert wrongs(done) == {"lease"} and "cannot update resource" in found(done)["lease"][0][1]
        api.deny()
        assert daemon.stop() == 0
        api.request("DELETE", "/api/v1/namespaces/min-cli-system")
        assert 'namespaces "min-cli-system" not found' in found(doctor(daemon))["lease"][0][1]
        api.kill()
        assert "does not answer" in found(doctor(daemon))["lease"][0][1]

        daemon.configure(**_settings(daemon) | {"leaderElection": {"backend": "redis"}})
        assert "the fleet elects its leader by Lease" in found(doctor(daemon))["election"][0][1]


def test_durations_that_leave_a_leader_no_time_to_stop(bare: Callable[..., tuple[Fleet, Daemon]]) -> None:
    _, daemon = bare({"leaderElection": {"leaseDuration": "3s", "renewDeadline": "2900ms", "retryPeriod": "300ms"}})
    [(status, message)] = found(doctor(daemon))["election"]
    assert status == "wrong" and "must exceed renewDeadline" in message


def _settings(daemon: Daemon) -> dict[str, Any]:
    import json

    settings: dict[str, Any] = json.loads(daemon.config.read_text())
    return settings


@pytest.mark.parametrize(("seconds", "status"), [(0.2, Verdict.OK), (-0.9, Verdict.OK), (40, Verdict.NOTE)])
def test_clocks_that_differ(seconds: float, status: Verdict) -> None:
    assert clock_difference(seconds).status is status
    assert clock_difference(-40.04).message.startswith("Redis' clock is 40.0 s behind")
