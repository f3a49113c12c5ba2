"""What a kill leaves at each named point of a fleet, in every place: a submission is whole or is not, work goes on.

Which points: a popped entry, a claim, a step that runs, its end, its report (workers); each request of a submission
(clients); supervisor, coordinator, everything (daemons).
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from leftovers import left_behind
from nodes import Fleet, coordinator_pid, running
from support import Daemon, wait_until

from kubemin.client import AT_ONCE
from kubemin.store.redis import keys

pytestmark = pytest.mark.everywhere
LOCK = {"ttl": "60s", "renew": "5s"}  # what comes back earlier does not come back by a lapsed lock
MANY = 2500  # in parts, which one more request seals
DEMO = "name: demo\nsteps:\n  - name: a\n    python: fleetfunctions:token\n"


def effects(path: Path) -> list[int]:
    return sorted(map(int, path.read_text().split())) if path.exists() else []


@pytest.mark.parametrize("point", ["popped", "claimed", "taken", "started", "ended", "reported"])
def test_a_worker_killed_there(point: str, fleet: Fleet, tmp_path: Path) -> None:
    environ = {"KUBEMIN_FAULT": f"worker.{point}=kill", "KUBEMIN_FAULT_ONCE": str(tmp_path / "once")}
    daemon, log = fleet.node(environ=environ, lock=LOCK), tmp_path / "effects"
    runs = daemon.client.enqueue_many("fleetfunctions:effect", [((str(log), n), {}) for n in range(5)])
    assert set(daemon.client.wait(runs, 15).values()) == {"completed"}
    twice = 1 if point == "ended" else 0  # the step ran, and nobody knows
    assert set(effects(log)) == set(range(5)) and len(effects(log)) == 5 + twice
    wait_until(lambda: not left_behind(fleet.server), 5)


@pytest.mark.parametrize("what", ["supervisor", "everything", "coordinator"])
def test_a_daemon_killed_under_a_step(what: str, fleet: Fleet, tmp_path: Path) -> None:
    daemon, log = fleet.node(lock=LOCK), tmp_path / "effects"
    run = daemon.client.enqueue("fleetfunctions:effect", str(log), 1, 1.5)
    first = running(daemon, run.id)
    wait_until(lambda: effects(log), 5)
    if what == "coordinator":
        os.kill(coordinator_pid(daemon), signal.SIGKILL)
    else:
        daemon.kill9(everything=what == "everything")
        daemon.start()
        running(daemon, run.id, beyond=first.token, timeout=3.0)
    assert run.wait(10) == "completed"
    assert effects(log) == ([1] if what == "coordinator" else [1, 1])
    wait_until(lambda: not left_behind(fleet.server), 5)


def submitting(daemon: Daemon, text: str, nth: int) -> int:
    """A client of its own that is killed after its nth request was carried out; its exit code."""
    code = f"import sys, kubemin; client = kubemin.Client.from_config({str(daemon.config)!r}); {text}"
    environ = daemon.environ | {"KUBEMIN_FAULT": f"client.carried=kill@{nth}"}
    return subprocess.run([sys.executable, "-c", code], env=environ, check=False, timeout=30).returncode


def test_a_client_killed_in_a_submission_of_many_parts(fleet: Fleet) -> None:
    daemon = fleet.node(maxWorkers=1)
    text = f"client.enqueue_many('fleetfunctions:nap', [((0,), {{}})] * {MANY})"
    parts = math.ceil(MANY / AT_ONCE)
    assert [submitting(daemon, text, nth) for nth in (1, parts - 1, parts)] == [-signal.SIGKILL] * 3
    store = fleet.store()

    def accepted() -> int:
        return int(store.client.execute("ZCARD", keys.RUNS))

    def ended() -> bool:
        """Of the parts that were never sealed, nobody works anything."""
        return all(name.startswith(keys.inbox("")) for name in left_behind(fleet.server))

    assert accepted() == 0
    assert submitting(daemon, text, parts + 1) == -signal.SIGKILL
    wait_until(lambda: accepted() == MANY and ended(), 30)
    assert submitting(daemon, text, parts + 2) == 0
    wait_until(lambda: accepted() == 2 * MANY and ended(), 30)


def test_a_client_killed_after_its_run_was_accepted_repeats_it_by_key(fleet: Fleet) -> None:
    daemon = fleet.node(started=False)
    daemon.workflow("demo.yaml", DEMO)
    daemon.start()
    assert submitting(daemon, "client.submit('demo', key='once')", 1) == -signal.SIGKILL
    again = daemon.client.submit("demo", key="once")
    assert again.wait(10) == "completed"
    assert [run.id for run in daemon.client.runs(limit=10)] == [again.id]
