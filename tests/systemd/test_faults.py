"""What a service manager, an operator and the kernel do to a unit under load, and what must come of it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from testbed import BACKEND, PROGRAMS, TOOL, UNIT, Machine

ROUNDS = int(os.environ.get("KUBEMIN_SYSTEMD_ROUNDS", "4"))  # restarts and reloads; 100 for the whole proof
PAUSE = "0.2" if BACKEND == "uml" else "0.05"  # between two submissions
STEP_SECONDS = 1.0
# Each start and each whole execution leaves a line; a step that was cut short has the first alone.
TICK = f"""\
name: tick
steps:
  - name: work
    shell: |
      echo "begin $KUBEMIN_RUN $KUBEMIN_TOKEN" >> /var/lib/kubemin/effects
      sleep {STEP_SECONDS}
      echo "end $KUBEMIN_RUN $KUBEMIN_TOKEN" >> /var/lib/kubemin/effects
"""


class Load:
    """Submissions without pause, from a process of its own inside the machine."""

    def __init__(self, unit: Machine) -> None:
        self.unit = unit
        self.stop_file = "/run/load.stop"
        unit.sh(f"rm -f {self.stop_file}")
        unit.must("put", str(Path(__file__).with_name("load.py")), "/root/load.py")
        self.process = subprocess.Popen(
            [TOOL, "-n", unit.name, "run", f"{PROGRAMS}/python", "/root/load.py", self.stop_file, PAUSE],
            stdout=subprocess.PIPE,
            text=True,
        )
        unit.until(lambda: self.effects()["begin"] > 0, "the first step of the load")

    def effects(self) -> Counter[str]:
        lines = self.unit.run("cat", "/var/lib/kubemin/effects").out.splitlines()
        return Counter(line.split()[0] for line in lines if line)

    def end(self) -> list[str]:
        """Ids of all runs that were accepted, when all have ended."""
        self.unit.sh(f"touch {self.stop_file}")
        out, _ = self.process.communicate(timeout=180)
        ids: list[str] = json.loads(out)
        self.unit.until(lambda: not self.live(), "the end of all runs", 300)
        return ids

    def live(self) -> list[dict[str, Any]]:
        return [run for state in ("waiting", "running") for run in self.unit.json("runs", "--status", state)["items"]]

    def states(self) -> Counter[str]:
        listed = self.unit.json("runs", "--limit", "100000")["items"]
        return Counter(run["status"] for run in listed)


@pytest.fixture
def load(unit: Machine) -> Iterator[Load]:
    unit.write("/etc/kubemin/workflows.d/tick.yaml", TICK)
    unit.ok("systemctl", "reload", UNIT)
    load = Load(unit)
    yield load
    unit.run("touch", load.stop_file)
    load.process.wait(60)


def judge(load: Load, *, cut_short: bool) -> None:
    """Nothing lost; nothing cut short where that was promised."""
    ids = load.end()
    states, effects = load.states(), load.effects()
    print(f"{len(ids)} runs: {dict(states)}; steps: {effects['begin']} begun, {effects['end']} ended")
    assert states == {"completed": len(ids)}, states
    assert effects["end"] == len(ids) if not cut_short else effects["end"] >= len(ids)  # at least once
    if not cut_short:
        assert effects["begin"] == effects["end"]


def test_restarts_and_reloads_under_load_lose_nothing_and_cut_nothing_short(load: Load) -> None:
    unit = load.unit
    for _ in range(ROUNDS):
        unit.restart()
        unit.ok("systemctl", "reload", UNIT)
    print(f"{ROUNDS} restarts and {ROUNDS} reloads")
    judge(load, cut_short=False)
    assert unit.shown("NRestarts") == "0"


def test_kill_9_of_the_supervisor_under_load_leaves_no_process_and_loses_no_run(load: Load) -> None:
    unit = load.unit
    for _ in range(3):
        before, pid = unit.processes(), unit.pid
        unit.ok("kill", "-9", str(pid))
        unit.until(lambda old=pid: unit.pid not in (0, old), "the restart")
        unit.until(lambda: unit.shown("ActiveState") == "active", "readiness")
        left = unit.processes() & before
        assert left == set(), left
    judge(load, cut_short=True)


def test_a_supervisor_that_stands_still_is_restarted_by_the_watchdog(load: Load) -> None:
    unit = load.unit
    unit.drop_in("watchdog", "[Service]\nWatchdogSec=4s\n")
    unit.restart()
    before, pid = unit.processes(), unit.pid
    unit.ok("kill", "-STOP", str(pid))
    unit.until(lambda: unit.pid not in (0, pid) and unit.shown("ActiveState") == "active", "the watchdog's restart")
    assert unit.processes() & before == set()
    assert any("Watchdog timeout" in line for line in unit.messages("_PID=1"))
    judge(load, cut_short=True)


def test_a_reload_of_a_supervisor_that_is_halted_fails_soon_and_says_what_helps(unit: Machine) -> None:
    pid = unit.pid
    unit.ok("kill", "-STOP", str(pid))
    begin = time.monotonic()
    assert unit.run("systemctl", "reload", UNIT).code != 0
    print(f"the reload of a halted supervisor failed after {time.monotonic() - begin:.1f} s")
    assert time.monotonic() - begin < 20  # of an emulated machine
    assert any(f"`kill -CONT {pid}` lets it go on" in line for line in unit.messages("-n", "20"))
    unit.ok("kill", "-CONT", str(pid))
    unit.until(lambda: unit.run("systemctl", "reload", UNIT).code == 0, "a reload")
    assert unit.pid == pid


def test_a_full_disk_is_waited_for_beyond_the_time_of_a_start(unit: Machine) -> None:
    unit.ok("systemctl", "stop", UNIT)
    unit.drop_in("patience", "[Service]\nTimeoutStartSec=8s\n")
    unit.sh("mount -t tmpfs -o size=4m tmpfs /var/lib/kubemin; cat /dev/zero > /var/lib/kubemin/filler || true")
    try:
        done = unit.run("systemctl", "start", UNIT)
        assert done.code != 0, done
        unit.until(lambda: "no space left on the device" in unit.shown("StatusText"), "the reason in the unit's status")
        unit.until(lambda: int(unit.shown("NRestarts")) >= 1, "the next try")
        unit.sh("rm /var/lib/kubemin/filler")
        unit.until(lambda: unit.shown("ActiveState") == "active", "readiness")
        assert unit.shown("Result") == "success"
    finally:
        unit.sh(f"systemctl stop {UNIT}; umount -l /var/lib/kubemin")


def test_a_step_over_its_memory_dies_alone(control_groups: Machine) -> None:
    unit = control_groups
    unit.write(
        "/etc/kubemin/workflows.d/hungry.yaml",
        """\
name: hungry
mode: DAG
steps:
  - name: eats
    run: [python3, -c, "x = bytearray(200_000_000); print(len(x))"]
    limits: {memory: 48Mi}
  - name: modest
    shell: "sleep 5; cat /proc/self/cgroup"
    limits: {memory: 48Mi, pids: 10, cpu: "0.5"}
""",
    )
    unit.ok("systemctl", "reload", UNIT)
    pid = unit.pid
    run = unit.ctl("submit", "hungry", "--wait").out.split()[0]
    tasks = {task["step"]: task for task in unit.json("show", run)["tasks"]}
    assert (tasks["eats"]["status"], tasks["eats"]["cause"]) == ("failed", "oom"), tasks["eats"]
    assert "limits.memory" in tasks["eats"]["message"]
    assert tasks["modest"]["status"] == "completed", tasks["modest"]
    assert "kubemin.service/step-" in tasks["modest"]["stdoutTail"]
    assert not tasks["modest"]["unenforced"]
    assert (unit.pid, unit.shown("NRestarts")) == (pid, "0")


EXAMPLES = {
    "host-report": (),
    "disk-watch": (),
    "log-digest": (),
    "backup": ("-p", "source=/etc/systemd", "-p", "target=/srv/backups"),
    "site-check": ("-p", "url=http://127.0.0.1:8099/"),
    "push-metrics": ("-p", "url=http://127.0.0.1:8099/"),
}
SITE = """\
import http.server
class Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "3"); self.end_headers(); self.wfile.write(b"ok\\n")
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"])); self.do_GET()
http.server.ThreadingHTTPServer(("127.0.0.1", 8099), Site).serve_forever()
"""


def test_every_example_completes_in_the_shipped_unit(unit: Machine) -> None:
    unit.sh("cp /opt/kubemin/venv/share/kubemin/conf/workflows.d/*.yaml /etc/kubemin/workflows.d/")
    unit.sh("mkdir -p /srv/backups && chown kubemin: /srv/backups; id > /etc/kubemin/secrets/metrics-token")
    unit.ok("kubeminctl", "install-service")  # which gives the unit the secret
    unit.write("/root/site.py", SITE)
    unit.ok("systemd-run", "--unit", "site", "python3", "/root/site.py")
    try:
        unit.restart()
        assert set(EXAMPLES) == {item["name"] for item in unit.json("workflows")["items"]}
        for name, params in EXAMPLES.items():
            done = unit.ctl("submit", name, *params, "--wait")
            run = done.out.split()[0]
            assert done.code == 0, f"{name}: {unit.ok('kubeminctl', 'show', run)}\n{unit.ok('kubeminctl', 'logs', run)}"
            tasks = unit.json("show", run)["tasks"]
            assert not [task["step"] for task in tasks if task["unenforced"]] or BACKEND != "uml"
    finally:
        unit.run("systemctl", "stop", "site")
        unit.sh("rm -f /etc/kubemin/secrets/metrics-token; kubeminctl install-service >/dev/null")
