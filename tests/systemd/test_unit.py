"""The shipped unit under a real systemd: start, reload, stop, and what an operator does to it."""

from __future__ import annotations

import re

from testbed import UNIT, Machine

SLOW = "name: slow\nsteps:\n  - {name: nap, shell: 'echo begun; sleep 8; echo ended'}\n"


def test_the_unit_is_clean_and_hardened(machine: Machine) -> None:
    done = machine.run("systemd-analyze", "verify", "--man=no", UNIT)
    assert (done.code, done.out, done.err) == (0, "", "")
    shown = machine.run("systemd-analyze", "security", "--offline=true", "--no-pager", UNIT).out
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", shown)
    assert found is not None, shown
    print(f"exposure of the unit: {found[1]}")
    assert float(found[1]) <= 2.0, shown


def test_installing_again_changes_nothing(unit: Machine) -> None:
    again = unit.json("install-service")
    assert {file["became"] for file in again["items"]} <= {"unchanged", "kept"}, again
    assert [step["problem"] for step in again["commands"]] == ["", "", ""]


def test_start_waits_for_ready(unit: Machine) -> None:
    assert unit.shown("ActiveState") == "active"
    header = unit.json("status")
    assert [worker["state"] for worker in header["workers"]] == ["idle"] * 4
    assert "Running: 4 of 4 workers" in unit.shown("StatusText")
    unit.ok("systemctl", "stop", UNIT)
    assert unit.shown("Result") == "success"
    assert unit.processes() == set()


def test_reload_tells_what_changed_and_a_broken_file_changes_nothing(unit: Machine) -> None:
    pid = unit.pid
    unit.write("/etc/kubemin/workflows.d/slow.yaml", SLOW)
    unit.ok("systemctl", "reload", UNIT)
    assert unit.ok("kubeminctl", "workflows").count("slow") == 1
    generation = unit.json("status")["generation"]

    unit.write("/etc/kubemin/kubemin.yaml", "maxWorkers: many\n")
    done = unit.run("systemctl", "reload", UNIT)
    assert done.code != 0
    assert any("maxWorkers" in line for line in unit.messages("-n", "20"))  # the reason
    unit.write("/etc/kubemin/kubemin.yaml", "maxWorkers: 3\n")
    unit.write("/etc/kubemin/workflows.d/slow.yaml", "name: slow\nsteps: [{name: nap, rn: [ls]}]\n")
    assert unit.run("systemctl", "reload", UNIT).code != 0
    assert any("slow.yaml" in line for line in unit.messages("-n", "20"))
    assert "last reload failed" in unit.shown("StatusText")

    status = unit.json("status")
    assert (unit.pid, status["generation"], len(status["workers"])) == (pid, generation, 4)
    assert unit.shown("ActiveState") == "active"
    unit.write("/etc/kubemin/workflows.d/slow.yaml", SLOW)
    unit.ok("systemctl", "reload", UNIT)
    assert "last reload failed" not in unit.shown("StatusText")
    unit.until(lambda: len(unit.json("status")["workers"]) == 3, "the pool of the new configuration")


def test_a_wrong_configuration_fails_the_start_once_and_says_why(unit: Machine) -> None:
    unit.ok("systemctl", "stop", UNIT)
    unit.write("/etc/kubemin/kubemin.yaml", "maxWorkers: 0\n")
    assert unit.run("systemctl", "start", UNIT).code != 0
    assert unit.shown("ExecMainStatus") == "2"
    assert unit.shown("ActiveState") == "failed"
    assert any("maxWorkers" in line for line in unit.messages("-n", "20"))


def test_a_stop_may_take_longer_than_the_unit_says(unit: Machine) -> None:
    """The daemon asks for the time that gracefulTimeout gives its steps (EXTEND_TIMEOUT_USEC)."""
    unit.drop_in("short", "[Service]\nTimeoutStopSec=3s\n")
    unit.write("/etc/kubemin/workflows.d/slow.yaml", SLOW)
    unit.restart()
    run = unit.ok("kubeminctl", "submit", "slow").strip()
    unit.until(lambda: unit.messages(f"KUBEMIN_RUN={run}", "--grep=begun"), "the step's first words")
    unit.ok("systemctl", "stop", UNIT)
    assert unit.shown("Result") == "success"
    assert unit.json("show", run)["status"] == "completed"


def test_a_drop_in_gives_steps_more_freedom(unit: Machine) -> None:
    unit.write(
        "/etc/kubemin/workflows.d/rights.yaml",
        "name: rights\nsteps:\n  - name: look\n    shell: |\n      grep -E '^(NoNewPrivs|CapBnd):' /proc/self/status\n"
        "      touch /usr/x 2>&1 || true\n",
    )
    unit.restart()
    shipped = unit.ok("kubeminctl", "submit", "rights", "--wait").split()[0]
    assert "NoNewPrivs:\t1" in unit.ok("kubeminctl", "logs", f"{shipped}/look")
    assert "Read-only file system" in unit.ok("kubeminctl", "logs", f"{shipped}/look")

    unit.sh(
        f"mkdir -p /etc/systemd/system/{UNIT}.d; "
        f"cp /opt/kubemin/venv/share/kubemin/systemd/freer-steps.conf /etc/systemd/system/{UNIT}.d/; "
        "systemctl daemon-reload"
    )
    assert unit.run("systemd-analyze", "verify", "--man=no", UNIT).err == ""
    unit.restart()
    freer = unit.ok("kubeminctl", "submit", "rights", "--wait").split()[0]
    shown = unit.ok("kubeminctl", "logs", f"{freer}/look")
    assert "NoNewPrivs:\t0" in shown and "Permission denied" in shown and not re.search(r"CapBnd:\s+0{16}", shown)
