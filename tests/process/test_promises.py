"""The promises of a machine alone, each by killing real processes. Recovery times are printed (`pytest -s`)."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support import Daemon, wait_until
from support.functions import install
from support.processes import alive
from support.programs import program
from support.watching import coordinator_pid, printed, running

FUNCTIONS = """
def fork_and_nap(path, seconds):
    if not (pid := os.fork()):
        os.setsid()
        time.sleep(300)
        os._exit(0)
    effect(path, pid, seconds)

def end(how):
    if how == "exit": os._exit(0)
    if how == "segv": os.kill(os.getpid(), signal.SIGSEGV)
    if how == "sysexit": raise SystemExit(3)
    if how == "memory": raise MemoryError("no room")
    if how == "set": return {1, 2}

KEPT = []

def keep_open(path):
    if not KEPT:
        KEPT.append(open(path, "a"))
    return os.getpid()

def die_always(path):
    effect(path, 0)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def start(start_daemon: Callable[..., Daemon], tmp_path: Path) -> Callable[..., Daemon]:
    python = install(tmp_path, "promises", FUNCTIONS)

    def begin(environ: dict[str, str] | None = None, **settings: Any) -> Daemon:
        return start_daemon(environ=environ, python=python, **settings)

    return begin


def test_killed_worker_loses_nothing_and_its_task_starts_within_a_second(start: Callable[..., Daemon]) -> None:
    daemon = start()
    run = daemon.client.enqueue("promises:nap", 1.0)
    first = running(daemon, run.id)
    began = time.monotonic()
    os.kill(first.pid, signal.SIGKILL)
    second = running(daemon, run.id, beyond=first.token)
    printed("P3 worker killed, task started again", began, 1.0)
    assert second.token > first.token
    assert run.wait(timeout=20) == "completed"
    task = daemon.client.run(run.id).view().tasks[0]
    assert task.attempt == 1  # killed from outside: no attempt is used up


def test_a_stopped_worker_is_killed_and_its_task_started_again(
    start: Callable[..., Daemon],
) -> None:
    daemon = start(lock={"ttl": "1s", "renew": "200ms"})
    run = daemon.client.enqueue("promises:nap", 1.5)
    first = running(daemon, run.id)
    os.kill(first.pid, signal.SIGSTOP)
    began = time.monotonic()
    second = running(daemon, run.id, beyond=first.token)
    printed("P3 worker stopped, task started again", began, 1.0 + 2.0)
    assert second.token > first.token and not alive(first.pid)
    assert run.wait(timeout=20) == "completed"


def test_daemon_killed_and_restarted_takes_its_tasks_back_within_three_seconds(start: Callable[..., Daemon]) -> None:
    daemon = start()
    run = daemon.client.enqueue("promises:nap", 1.0)
    first = running(daemon, run.id)
    daemon.kill9()  # returns when workers and coordinator are gone with it
    began = time.monotonic()
    daemon.start()
    running(daemon, run.id, beyond=first.token)
    printed("P3 daemon killed and restarted, task started again", began, 3.0)
    assert run.wait(timeout=20) == "completed"


def test_a_child_that_a_python_step_forked_does_not_hold_up_a_restart(
    start: Callable[..., Daemon], tmp_path: Path
) -> None:
    """It carries no marker, has no parent-death signal, and holds the state directory's lock as long as it lives."""
    daemon = start()
    child = tmp_path / "child"
    run = daemon.client.enqueue("promises:fork_and_nap", str(child), 1.0)
    wait_until(lambda: child.exists() and child.read_text().endswith("\n"), 10, what="the child")
    first = running(daemon, run.id)
    os.kill(daemon.pid, signal.SIGKILL)
    daemon.wait()
    assert alive(int(child.read_text()))
    began = time.monotonic()
    daemon.start()
    running(daemon, run.id, beyond=first.token)
    printed("P3 daemon killed under a forked child and restarted, task started again", began, 3.0)
    assert not alive(int(child.read_text().split()[0]))
    assert run.wait(timeout=20) == "completed"


def test_everything_killed_at_once_loses_nothing(start: Callable[..., Daemon], tmp_path: Path) -> None:
    daemon = start()
    effects = tmp_path / "effects"
    runs = daemon.client.enqueue_many("promises:effect", [((str(effects), n), {}) for n in range(3000)])
    wait_until(lambda: effects.exists() and effects.stat().st_size > 1000, 10, what="some effects")
    daemon.kill9(everything=True)
    daemon.start()
    states = daemon.client.wait(runs, timeout=60)
    assert set(states.values()) == {"completed"} and len(states) == 3000
    assert set(effects.read_text().split()) == {str(n) for n in range(3000)}


def test_a_schedule_fires_once_a_slot_over_a_reload_and_a_kill_of_everything(start: Callable[..., Daemon]) -> None:
    """P5: every second, and the slots of the time when no daemon ran afterwards (they are within the grace)."""
    daemon = start()
    text = "name: tick\nschedule: {cron: '* * * * * *'}\nsteps: [{name: a, run: ['true']}]\n"
    daemon.workflow("tick.yaml", text)
    assert daemon.ctl("reload").code == 0

    def slots() -> list[str]:
        return sorted(str(run.scheduled_at) for run in daemon.client.runs(workflow="tick", limit=1000))

    wait_until(lambda: len(slots()) >= 2, 10, what="two slots")
    daemon.kill9(everything=True)
    before = len(slots())
    daemon.start()
    wait_until(lambda: len(slots()) >= before + 2, 10, what="two more")
    fired = [datetime.fromisoformat(slot) for slot in slots()]
    assert fired == [fired[0] + timedelta(seconds=n) for n in range(len(fired))]
    assert fired[0].microsecond == 0


def test_a_poison_task_is_quarantined_and_others_go_on(start: Callable[..., Daemon], tmp_path: Path) -> None:
    daemon = start()
    poison = daemon.client.enqueue("promises:die_always", str(tmp_path / "deaths"))
    others = [daemon.client.enqueue("promises:nap", 0.0) for _ in range(20)]
    assert poison.wait(timeout=30) == "failed"
    task = daemon.client.run(poison.id).view().tasks[0]
    assert task.cause == "crash"
    assert len((tmp_path / "deaths").read_text().split()) == 3
    assert {run.wait(timeout=20) for run in others} == {"completed"}


@pytest.mark.parametrize(
    ("how", "cause"),
    [("exit", "exit"), ("segv", "signal"), ("sysexit", "exit"), ("memory", "oom"), ("set", "output")],
)
def test_a_python_step_that_ends_badly_fails_with_its_cause(start: Callable[..., Daemon], how: str, cause: str) -> None:
    daemon = start()
    run = daemon.client.enqueue("promises:end", how)
    assert run.wait(timeout=20) == "failed"
    assert daemon.client.run(run.id).view().tasks[0].cause == cause
    assert daemon.client.enqueue("promises:nap", 0.0).wait(timeout=20) == "completed"


@pytest.mark.parametrize(
    "point",
    [
        "coordinator.applied",
        "coordinator.committed",
        "coordinator.handed",
        "worker.taken",
        "worker.started",
        "worker.ended",
        "worker.reported",
    ],
)
def test_crash_points_lose_nothing_and_accept_once(start: Callable[..., Daemon], tmp_path: Path, point: str) -> None:
    """One process dies exactly there, once; the work is done all the same, each completion accepted once."""
    once = tmp_path / "once"
    daemon = start({"KUBEMIN_FAULT": f"{point}=kill@5", "KUBEMIN_FAULT_ONCE": str(once)})
    effects = tmp_path / "effects"
    runs = [daemon.client.enqueue("promises:effect", str(effects), n) for n in range(30)]
    states = daemon.client.wait(runs, timeout=30)
    assert set(states.values()) == {"completed"}
    assert Path(f"{once}.{point}").exists(), "the point was never reached"
    counts = [effects.read_text().split().count(str(n)) for n in range(30)]
    assert all(counts) and sum(counts) <= 31
    if point not in ("worker.ended", "worker.started"):  # there the effect may be there, and not its report
        assert sum(counts) == 30


def test_coordinator_stopped_and_killed_loses_nothing(start: Callable[..., Daemon], tmp_path: Path) -> None:
    daemon = start()
    run = daemon.client.enqueue("promises:nap", 1.5)
    held = running(daemon, run.id)
    first = coordinator_pid(daemon)
    os.kill(first, signal.SIGKILL)
    began = time.monotonic()
    coordinator_pid(daemon, but=first)
    printed("coordinator killed, a new one ready", began, 1.0)
    assert run.wait(timeout=20) == "completed"
    task = daemon.client.run(run.id).view().tasks[0]
    assert task.token == held.token  # the task ran on, untouched


def test_term_lets_a_task_finish_and_leaves_nothing(start: Callable[..., Daemon]) -> None:
    daemon = start()
    run = daemon.client.enqueue("promises:nap", 1.0)
    running(daemon, run.id)
    assert daemon.stop() == 0
    assert daemon.leftovers() == []
    assert daemon.client.run(run.id).status == "completed"


def test_what_outlives_the_grace_period_is_queued_again_for_free(start: Callable[..., Daemon]) -> None:
    daemon = start(gracefulTimeout="500ms")
    run = daemon.client.enqueue("promises:nap", 30.0)
    running(daemon, run.id)
    began = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - began < 8
    task = daemon.client.run(run.id).view().tasks[0]
    assert (task.status, task.attempt) == ("queued", 0)


def test_second_daemon_on_the_same_state_directory_is_refused(start: Callable[..., Daemon]) -> None:
    daemon = start()
    done = subprocess.run(
        [program("kubemind"), "--config", str(daemon.config), "--runtime-dir", str(daemon.home / "other")],
        env=daemon.environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode != 0
    assert str(daemon.pid) in done.stderr
    assert "Traceback" not in done.stderr


def test_ready_means_that_workflows_can_be_submitted(start: Callable[..., Daemon]) -> None:
    daemon = start(started=False)
    for n in range(40):
        daemon.workflow(f"w{n}.yaml", f"name: ready-{n}\nsteps:\n  - name: one\n    run: [/bin/true]\n")
    daemon.start()
    assert daemon.client.submit("ready-39").wait(timeout=20) == "completed"
    daemon.workflow("later.yaml", "name: later\nsteps:\n  - name: one\n    run: [/bin/true]\n")
    assert daemon.ctl("reload").code == 0
    assert daemon.client.submit("later").wait(timeout=20) == "completed"


def test_a_function_that_keeps_a_file_open_does_not_cost_a_worker_for_each_task(
    start: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = start(maxWorkers=1)
    calls = [((str(tmp_path / "kept"),), {}) for _ in range(300)]
    first = daemon.client.enqueue("promises:keep_open", str(tmp_path / "kept"))
    first.wait(timeout=20)
    runs = daemon.client.enqueue_many("promises:keep_open", calls)
    daemon.client.wait(runs, timeout=60)
    pids = [run.result for run in runs]
    assert first.result not in pids, "the first worker that was left so is replaced"
    assert len(set(pids)) <= 5
