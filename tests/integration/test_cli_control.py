"""kubeminctl on the daemon: status, size, drain, reload, stop; and the daemon's absence."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support import Completed, Daemon

STATUS = {"node", "mode", "leader", "generation", "supervisorPid", "workers", "queues"}


def ok(done: Completed) -> Completed:
    assert done.code == 0, done
    return done


def refused(done: Completed, code: int) -> list[dict[str, Any]]:
    assert done.code == code and done.stderr == "", done
    found: list[dict[str, Any]] = done.json["errors"]
    return found


@pytest.fixture(scope="module")
def node(shared_daemon: Daemon) -> Daemon:
    return shared_daemon


def workers(node: Daemon) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ok(node.ctl("status", "-o", "json")).json["workers"]
    return found


def test_status(node: Daemon) -> None:
    shown = ok(node.ctl("status", "-o", "json")).json
    assert set(shown) == STATUS
    assert (shown["mode"], shown["supervisorPid"]) == ("local", node.pid)
    assert [set(worker) for worker in shown["workers"]] == [
        {"slot", "pid", "state", "run", "step", "task", "seconds"}
    ] * 2
    assert "ready" in ok(node.ctl("status")).stdout


def test_a_wrong_configuration_does_not_keep_anybody_from_the_daemon(start_daemon: Callable[..., Daemon]) -> None:
    """It runs with the settings that it has, and can be looked at, asked to reload, drained and stopped."""
    daemon = start_daemon(maxWorkers=1)
    run = daemon.client.submit(daemon.workflow("one.yaml", "name: one\nsteps: [{name: a, run: ['true']}]\n"))
    assert run.wait(timeout=20) == "completed"
    daemon.configure(maxWorkers="many")
    for command in (["status", "-o", "json"], ["show", run.id, "-o", "json"], ["drain", "-o", "json"], ["undrain"]):
        done = ok(daemon.ctl(*command))
        assert "maxWorkers: must be a whole number" in done.stderr and "going by what the running daemon" in done.stderr
    reload = daemon.ctl("reload")
    assert reload.code == 2 and "maxWorkers" in reload.stderr, reload
    assert len(workers(daemon)) == 1
    assert daemon.ctl("doctor").code == 1
    daemon.config.write_text("maxWorkers: 1\nstateDir: [half")
    assert daemon.ctl("status").code == 2, "where its runtime directory is cannot be known"
    daemon.config.write_text(f"maxWorkers: 1\nruntimeDir: {daemon.run}  # a place of its own\nstateDir: [half")
    done = ok(daemon.ctl("status"))
    assert "ready" in done.stdout and "going by what the running daemon" in done.stderr
    assert daemon.ctl("reload").code == 2
    daemon.config.write_text("maxWorkers: 1\nstateDir: [half")
    there = ("--runtime-dir", str(daemon.run))
    assert "ready" in ok(daemon.ctl(*there, "status")).stdout
    assert daemon.ctl(*there, "reload").code == 2
    ok(daemon.ctl(*there, "stop"))
    assert daemon.wait() == 0
    assert refused(daemon.ctl(*there, "status", "-o", "json"), 2)


def test_status_of_a_running_task(node: Daemon, wait_until: Callable[..., Any]) -> None:
    node.workflow("nap.yaml", "name: nap\nsteps:\n  - {name: sleep, run: [sleep, '60']}\n")
    run = node.client.submit(node.workflows / "nap.yaml")
    wait_until(lambda: run.status == "running")
    [busy] = [worker for worker in workers(node) if worker["state"] == "running"]
    assert (busy["run"], busy["step"], busy["task"]) == (run.id, "sleep", f"{run.id}.0") and busy["seconds"] >= 0
    run.cancel()
    assert run.wait(15) == "cancelled"


def test_scale(node: Daemon, wait_until: Callable[..., Any]) -> None:
    assert ok(node.ctl("scale", "4", "-o", "json")).json["workers"] == 4
    wait_until(lambda: [worker["state"] for worker in workers(node)] == ["idle"] * 4, 10)
    ok(node.ctl("scale", "2"))
    wait_until(lambda: len(workers(node)) == 2, 10)


def test_drain_and_undrain(node: Daemon) -> None:
    ok(node.ctl("drain"))
    run = node.client.enqueue("time:sleep", 0)
    assert {"draining"} <= {reason["code"] for reason in ok(node.ctl("why", run.id, "-o", "json")).json["items"]}
    assert "drained" in ok(node.ctl("status")).stdout
    ok(node.ctl("undrain"))
    assert run.wait(10) in ("completed", "failed")  # python.allow may not admit it; it was started


def test_requests_at_once_are_all_answered(node: Daemon) -> None:
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda command: node.ctl(command), ["drain", "undrain"] * 3))
    assert [one.code for one in done] == [0] * 6, done
    ok(node.ctl("undrain"))


def test_reload(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(gracefulTimeout="5s")
    daemon.configure(gracefulTimeout="7s", nodeId="elsewhere")
    dry = ok(daemon.ctl("reload", "--dry-run", "-o", "json")).json
    assert {change["key"]: change["applies"] for change in dry["changes"]} == {
        "gracefulTimeout": "live",
        "nodeId": "restart",
    }
    daemon.configure(gracefulTimeout="7s")
    daemon.workflow("good.yaml", "name: good\nsteps:\n  - {name: a, run: [ls]}\n")
    done = ok(daemon.ctl("reload", "-o", "json")).json
    assert [(change["key"], change["new"]) for change in done["changes"]] == [("gracefulTimeout", 7.0)]
    assert ok(daemon.ctl("submit", "good", "--wait")).code == 0

    daemon.workflow("bad.yaml", "name: bad\nsteps:\n  - {name: a, rn: [ls]}\n")
    for args in (("reload", "--dry-run"), ("reload",)):
        problems = refused(daemon.ctl(*args, "-o", "json"), 2)
        assert any("bad.yaml" in problem["message"] and problem["line"] == 3 for problem in problems)
        plain = daemon.ctl(*args)
        assert plain.code == 2 and plain.stdout == "" and "bad.yaml" in plain.stderr
    assert ok(daemon.ctl("submit", "good", "--wait")).code == 0  # the old ones stay


def test_stop(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon()
    assert ok(daemon.ctl("stop", "-o", "json")).json == {"pid": daemon.pid, "stopped": True}
    assert daemon.wait() == 0
    for args in (("stop",), ("drain",), ("scale", "3"), ("reload",), ("reload", "--dry-run"), ("status",), ("top",)):
        [problem] = refused(daemon.ctl(*args, "-o", "json"), 3)
        assert "start it" in problem["message"]


def test_a_supervisor_that_is_halted_is_told_of(start_daemon: Callable[..., Daemon]) -> None:
    """Whoever waits for it learns within ten seconds what is wrong and what helps; and it can be stopped."""
    daemon = start_daemon()
    os.kill(daemon.pid, signal.SIGSTOP)
    begin = time.monotonic()
    [problem] = refused(daemon.ctl("reload", "-o", "json"), 3)
    print(f"told after {time.monotonic() - begin:.1f} s")
    assert time.monotonic() - begin < 12
    assert f"`kill -CONT {daemon.pid}` lets it go on" in problem["message"] and problem["code"] == "no_answer"
    assert "halted by a signal" in ok(daemon.ctl("status")).stdout
    ok(daemon.ctl("stop", "--timeout", "20"))
    assert daemon.wait() == 0


def test_without_a_daemon_work_is_accepted_and_starts_with_it(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(started=False)
    daemon.workflow("good.yaml", "name: good\nsteps:\n  - {name: a, run: [ls]}\n")
    run = ok(daemon.ctl("submit", "good")).stdout.strip()
    codes = [reason["code"] for reason in ok(daemon.ctl("why", run, "-o", "json")).json["items"]]
    assert codes[0] == "no_daemon"
    assert ok(daemon.ctl("doctor", "-o", "json")).json["items"]
    daemon.start()
    assert daemon.client.run(run).wait(10) == "completed"
    found = ok(daemon.ctl("doctor", "-o", "json")).json["items"]
    assert {"configuration", "daemon", "store", "disk", "stateDir", "clock", "timezones"} <= {
        one["check"] for one in found
    }
    assert not [one for one in found if one["status"] == "wrong"]


def test_doctor_finds_what_is_wrong(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(started=False)
    daemon.workflow("bad.yaml", "name: bad\n")
    daemon.state.mkdir()
    daemon.state.chmod(0o777)
    (daemon.state / "kubemin.db").write_bytes(b"not a database, but long enough to be looked at" * 100)
    done = daemon.ctl("doctor", "-o", "json")
    assert done.code == 1
    wrong = {one["check"] for one in done.json["items"] if one["status"] == "wrong"}
    assert {"workflows", "stateDir", "store"} <= wrong
    daemon.config.write_text("maxWorkers: many\n")
    done = daemon.ctl("doctor")
    assert done.code == 1 and "maxWorkers" in done.stdout
