"""A booted machine for the whole run, and a fresh, running unit for each test that wants one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from testbed import BACKEND, DROP_INS, PROGRAMS, PROJECT, TOOL, UNIT, Machine

CONFIG = """\
maxWorkers: 4
gracefulTimeout: 30s
log: {level: info}
"""


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    if not TOOL:
        pytest.skip("needs a systemd: KUBEMIN_SYSTEMD_TESTBED names the tool that boots one")
    name = os.environ.get("KUBEMIN_SYSTEMD_INSTANCE", f"kubemin-{os.getpid()}")
    machine = Machine(name)
    machine.must("up", "--backend", BACKEND, timeout=600)
    try:
        machine.must("install", str(PROJECT), "--app", "kubemin", timeout=900)
        machine.ok(f"{PROGRAMS}/kubeminctl", "install-service")
        yield machine
    finally:
        machine.tool("down", "--fresh")


@pytest.fixture
def unit(machine: Machine) -> Iterator[Machine]:
    """The shipped unit, started, with an empty state and no drop-ins but a smaller pool."""
    machine.run("systemctl", "stop", UNIT)
    machine.sh(f"rm -rf {DROP_INS} /var/lib/kubemin/* /etc/kubemin/workflows.d/*; systemctl daemon-reload")
    machine.write("/etc/kubemin/kubemin.yaml", CONFIG)
    machine.run("systemctl", "reset-failed", UNIT)
    machine.ok("systemctl", "start", UNIT)
    yield machine


@pytest.fixture
def control_groups(unit: Machine) -> Machine:
    """The unit where control groups v2 are delegated to it."""
    if unit.run("test", "-e", f"/sys/fs/cgroup/system.slice/{UNIT}/cgroup.controllers").code != 0:
        pytest.skip("needs control groups v2: KUBEMIN_SYSTEMD_BACKEND=uml")
    return unit
