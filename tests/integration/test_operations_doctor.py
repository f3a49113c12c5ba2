"""doctor: what would lose work is an error with exit code 1, what may not be wanted a note; each says what to do."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from support import Completed, Daemon

from kubemin.cli.checks.base import Finding, Verdict
from kubemin.cli.checks.service import _judge
from kubemin.config import Settings

FITS = {
    "Type": "notify",
    "KillMode": "mixed",
    "Delegate": "yes",
    "TimeoutStopUSec": "1min",
    "WatchdogUSec": "30s",
    "Restart": "on-failure",
    "OOMPolicy": "continue",
    "RuntimeDirectoryPreserve": "restart",
    "NeedDaemonReload": "no",
}


def findings(done: Completed) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for item in done.json["items"]:
        found.setdefault(item["check"], []).append((item["status"], item["message"]))
    return found


def test_a_healthy_node(start_daemon: Callable[..., Daemon]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    daemon = start_daemon(httpAddr=address)
    daemon.wait_log("metrics and health are served")
    done = daemon.ctl("doctor", "-o", "json")
    assert done.code == 0, done
    assert findings(done)["http"] == [("ok", f"metrics and health answer at {address}")]
    assert daemon.ctl("drain").code == 0
    assert findings(daemon.ctl("doctor", "-o", "json"))["http"][0] == (
        "note",
        "the node is not ready: the node is drained",
    )


def test_what_would_lose_work_is_wrong(daemon: Daemon) -> None:
    daemon.workflow(
        "odd.yaml",
        "name: odd\ntimeout: 10s\n"
        "steps:\n  - {name: a, run: [ls], timeout: 1m}\n  - {name: b, run: [ls], queue: etl}\n"
        "  - {name: c, run: [ls], forEach: [1], queue: far}\n",
    )
    assert daemon.ctl("reload").code == 0
    assert daemon.client.submit("odd").id
    done = daemon.ctl("doctor", "-o", "json")
    assert done.code == 1
    found = findings(done)
    for queue in ("etl", "far"):
        assert ("wrong", f"odd: no worker serves queue {queue}; add it to `queues`") in found["queues"]
    assert any("step a may take 60 s, the whole run 10 s" in text for _, text in found["timeouts"])


def test_an_address_that_does_not_answer(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(httpAddr="192.0.2.1:9105")  # of no machine (RFC 5737), so nobody can listen there
    [(status, text)] = findings(daemon.ctl("doctor", "-o", "json"))["http"]
    assert status == "wrong" and "does not answer" in text


@pytest.mark.parametrize(
    ("key", "value", "status"),
    [
        ("KillMode", "control-group", Verdict.WRONG),
        ("Delegate", "no", Verdict.WRONG),
        ("Type", "simple", Verdict.WRONG),
        ("Restart", "no", Verdict.WRONG),
        ("OOMPolicy", "stop", Verdict.NOTE),
        ("WatchdogUSec", "0", Verdict.NOTE),
        ("RuntimeDirectoryPreserve", "no", Verdict.NOTE),
        ("NeedDaemonReload", "yes", Verdict.NOTE),
    ],
)
def test_a_unit_that_does_not_fit(key: str, value: str, status: Verdict) -> None:
    found: list[Finding] = list(_judge("kubemin.service", FITS | {key: value}, Settings()))
    assert status in [finding.status for finding in found]
    assert all(any(word in finding.message for word in ("set ", "systemctl")) for finding in found)


def test_a_unit_that_fits() -> None:
    assert list(_judge("kubemin.service", FITS, Settings(graceful_timeout=3600.0))) == []
