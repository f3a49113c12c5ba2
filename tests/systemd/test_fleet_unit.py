"""The installed unit as a node of a fleet: systemd gives it the password and the signing key, and root's client too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.redis_server import binary
from testbed import UNIT, Machine

from kubemin.telemetry.events import MESSAGE_IDS

SECRET = "hunter2hunter2"
REDIS = f"""\
bind 127.0.0.1
dir /run/redis
appendonly yes
maxmemory-policy noeviction
user default off
user kubemin on >{SECRET} ~workflow:* ~lock:* ~kubemin:* +@all -@dangerous +keys +info +client +config|get
"""
NODE = "redisAddr: redis://kubemin@127.0.0.1:6379\nnodeId: vm-1\nmaxWorkers: 2\n"


@pytest.fixture
def node(unit: Machine) -> Iterator[Machine]:
    """As docs/fleet.md sets one up."""
    unit.must("put", str(Path(binary("redis"))), "/usr/local/bin/")
    unit.write("/etc/redis.conf", REDIS)
    unit.write("/etc/credstore/kubemin.redis-password", SECRET)
    unit.write("/etc/credstore/kubemin.signing-key", "5" * 64 + "\n")
    unit.sh("chmod 700 /etc/credstore; chmod 600 /etc/credstore/*; mkdir -p /run/redis")
    unit.ok("systemd-run", "--unit", "redis", "redis-server", "/etc/redis.conf")
    unit.write("/etc/kubemin/kubemin.yaml", NODE)
    try:
        unit.restart()
        yield unit
    finally:
        unit.run("systemctl", "stop", "redis", UNIT)
        unit.sh("rm -rf /etc/credstore /run/redis")


def test_the_fleets_secrets_are_credentials_of_the_unit(node: Machine) -> None:
    node.until(lambda: node.json("leader")["holder"], "the election")
    assert [(one["node"], one["state"]) for one in node.json("nodes")["items"]] == [("vm-1", "ready")]
    run = node.ok("kubeminctl", "submit", "-f", "/opt/kubemin/src/conf/workflows.d/host-report.yaml", "--wait")
    assert "completed" in node.ok("kubeminctl", "show", run.split()[0])
    doctor = node.ctl("doctor", "-o", "json")
    found = [(one["check"], one["status"]) for one in json.loads(doctor.out)["items"]]
    assert (doctor.code, [one for one in found if one[1] == "wrong"]) == (0, [])
    assert ("signing", "ok") in found

    node.sh("useradd -m -G kubemin op 2>/dev/null || true")
    refused = node.run("su", "op", "-c", "kubeminctl nodes")
    assert refused.code == 3 and "set it in redisAddr or redisPasswordFile" in refused.err


def test_the_election_is_found_by_its_message_ids(node: Machine) -> None:
    became, given_up = MESSAGE_IDS["Node NODE became leader"], MESSAGE_IDS["leadership given up"]
    node.until(lambda: node.messages(f"MESSAGE_ID={became}"), "the election in the journal")
    node.ok("systemctl", "stop", UNIT)
    record = node.journal(f"MESSAGE_ID={became}")[-1]
    assert str(record["MESSAGE"]).startswith("Node vm-1 became leader") and record["KUBEMIN_NODE"] == "vm-1"
    assert record["KUBEMIN_EPOCH"].isdigit()
    assert node.messages(f"MESSAGE_ID={given_up}")
