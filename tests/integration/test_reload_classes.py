"""Every setting, one by one, changed in a running daemon: live and rolling ones are seen to act after `reload`, those
that need a restart are told as such and stay as they were.

What each key does when it changes comes from the one table (`config/table.py`); a key without an entry here fails.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from support import Daemon, wait_until
from support.watching import slots

from kubemin.config.reload import read_result
from kubemin.config.table import KEYS, TABLE, Applies

Start = Callable[..., Daemon]
NEEDS_RESTART: dict[str, Any] = {
    "redisAddr": "127.0.0.1:1",
    "enableDistributed": False,
    "redisRequired": True,
    "nodeId": "another",
    "stateDir": "/tmp/kubemin-elsewhere",
    "runtimeDir": "/tmp/kubemin-elsewhere-run",
    "lock.ttl": "20s",
    "lock.renew": "4s",
    "leaderElection.backend": "redis",
    "leaderElection.namespace": "elsewhere",
    "leaderElection.name": "another-lock",
    "leaderElection.leaseDuration": "20s",
    "leaderElection.renewDeadline": "9s",
    "leaderElection.retryPeriod": "1s",
    "leaderElection.exitOnLostLeader": True,
    "kubeconfig": "/etc/kubeconfig",
    "redisPasswordFile": "/etc/hostname",
    "httpAddr": "127.0.0.1:1",
    "log.format": "json",
}
# Seen in a fleet (tests/fleet/test_reload_fleet.py), or by tests of their own.
ELSEWHERE = {"durability", "retention.outputBytes", "signingKeyFile"}


def nested(name: str, value: Any, into: dict[str, Any] | None = None) -> dict[str, Any]:
    """`lock.ttl` -> {"lock": {"ttl": …}}, beside what is in `into`."""
    first, _, rest = name.partition(".")
    settings = dict(into or {})
    settings[first] = {**settings.get(first, {}), rest: value} if rest else value
    return settings


def test_every_setting_is_looked_at() -> None:
    seen = set(NEEDS_RESTART) | set(ACTS) | ELSEWHERE
    assert seen == set(KEYS)
    assert {key.name for key in TABLE if key.applies is Applies.RESTART} == set(NEEDS_RESTART)


def test_what_needs_a_restart_says_so_and_stays(daemon: Daemon) -> None:
    before = json.loads(daemon.config.read_text())
    started = read_result(str(daemon.run)).settings
    for name, value in NEEDS_RESTART.items():
        if name in ("stateDir", "runtimeDir"):
            continue  # where the daemon is looked for
        daemon.config.write_text(json.dumps(nested(name, value, before)))
        told = daemon.ctl("reload", "--dry-run", "-o", "json").json
        assert [(item["key"], item["applies"]) for item in told["changes"]] == [(name, "restart")], name
    places = {"stateDir", "runtimeDir", "redisRequired", "enableDistributed"}
    changed = before
    for name, value in NEEDS_RESTART.items():
        changed = changed if name in places else nested(name, value, changed)
    daemon.config.write_text(json.dumps(changed))
    done = daemon.ctl("reload", "-o", "json")
    assert done.code == 0, done
    after = read_result(str(daemon.run)).settings
    for name in NEEDS_RESTART:
        assert KEYS[name].of(after) == KEYS[name].of(started), name
    listed = {item["key"] for item in done.json["changes"] if item["applies"] == "restart"}
    assert listed == set(NEEDS_RESTART) - places


# --- what is seen to act ----------------------------------------------------------------------------------------------


def reload(daemon: Daemon, base: dict[str, Any], name: str, value: Any) -> None:
    daemon.configure(**nested(name, value, base))
    done = daemon.ctl("reload", "-o", "json")
    assert done.code == 0, done
    assert [(item["key"], item["applies"]) for item in done.json["changes"]] == [(name, KEYS[name].applies.value)]
    wait_until(lambda: len({record.generation for record in slots(daemon)}) == 1, 20, what="all workers replaced")


def step(daemon: Daemon, line: str, **more: Any) -> str:
    """The end of a run of one shell step."""
    path = daemon.home / "one.yaml"
    path.write_text(json.dumps({"name": "one", "steps": [{"name": "a", "shell": line, **more}]}))
    return daemon.client.submit(path).wait(30)


def output_of(daemon: Daemon) -> str:
    run = daemon.client.runs(limit=1)[0].id
    [task] = daemon.client.reader().run(run).tasks
    return str(task.stdout_tail)


def max_workers(daemon: Daemon, change: Callable[[Any], None]) -> None:
    change(3)
    wait_until(lambda: len(daemon.ctl("status", "-o", "json").json["workers"]) == 3, 10)


def queues(daemon: Daemon, change: Callable[[Any], None]) -> None:
    run = daemon.client.options(queue="etl").enqueue("math:sqrt", 4)
    change(["default", "etl"])
    assert run.wait(10) == "completed"


def workflows_dir(daemon: Daemon, change: Callable[[Any], None]) -> None:
    folder = daemon.home / "other"
    folder.mkdir()
    (folder / "w.yaml").write_text("name: moved\nsteps: [{name: a, run: [true]}]\n".replace("true", "'true'"))
    change(str(folder))
    assert daemon.client.submit("moved").wait(10) == "completed"


def graceful_timeout(daemon: Daemon, change: Callable[[Any], None]) -> None:
    change("77s")
    daemon.stop(signal.SIGTERM)
    assert "grace=77" in daemon.log


def task_timeout(daemon: Daemon, change: Callable[[Any], None]) -> None:
    change("500ms")
    assert step(daemon, "sleep 30") == "failed" and daemon.client.runs(limit=1)[0].cause == "timeout"


def retention(daemon: Daemon, change: Callable[[Any], None]) -> None:
    assert daemon.client.enqueue("math:sqrt", 4).wait(10) == "completed"
    assert daemon.client.runs()
    change(0)
    wait_until(lambda: not daemon.client.runs(), 10, what="the run to be dropped")


def on_failure(daemon: Daemon, change: Callable[[Any], None]) -> None:
    mark = daemon.home / "told"
    change(["touch", str(mark)])
    assert step(daemon, "exit 1") == "failed"
    wait_until(mark.exists, 10)


def log_level(daemon: Daemon, change: Callable[[Any], None]) -> None:
    step(daemon, "true")
    assert "executing task" not in daemon.log
    change("info")
    step(daemon, "true")
    daemon.wait_log("executing task")


def user(daemon: Daemon, change: Callable[[Any], None]) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    daemon.home.chmod(0o755)
    change("nobody")
    assert step(daemon, "id -un") == "completed" and output_of(daemon).strip() == "nobody"


def python_path(daemon: Daemon, change: Callable[[Any], None]) -> None:
    folder = daemon.home / "modules"
    folder.mkdir()
    (folder / "extra.py").write_text("def one():\n    return 1\n")
    assert daemon.client.enqueue("extra:one").wait(10) == "failed"
    change([str(folder)])
    assert daemon.client.enqueue("extra:one").wait(10) == "completed"


def python_allow(daemon: Daemon, change: Callable[[Any], None]) -> None:
    assert daemon.client.enqueue("operator:neg", 1).wait(10) == "failed"
    change(["operator:*"])
    assert daemon.client.enqueue("operator:neg", 1).wait(10) == "completed"


def recycled(daemon: Daemon, change: Callable[[Any], None]) -> None:
    change(None)
    for _ in range(3):
        step(daemon, "true")
    daemon.wait_log("worker is replaced")
    assert "recycle.max" in daemon.log


def secrets_dir(daemon: Daemon, change: Callable[[Any], None]) -> None:
    folder = daemon.home / "secrets"
    folder.mkdir(mode=0o700)
    (folder / "word").write_text("open sesame")
    change(str(folder))
    assert step(daemon, 'test "$W" = "open sesame"', env={"W": {"secret": "word"}}) == "completed"


def lines_per_second(daemon: Daemon, change: Callable[[Any], None]) -> None:
    change(1)
    assert step(daemon, "seq 200") == "completed"
    daemon.wait_log("lines", 5)
    shown = [line for line in daemon.log.splitlines() if "stdout| " in line]
    assert len(shown) < 50


ACTS: dict[str, tuple[Callable[..., None], dict[str, Any]]] = {
    "maxWorkers": (max_workers, {}),
    "queues": (queues, {}),
    "workflowsDir": (workflows_dir, {}),
    "gracefulTimeout": (graceful_timeout, {}),
    "taskTimeout": (task_timeout, {}),
    "retention.days": (retention, {"retention": {"min": "0s"}}),
    "retention.runs": (retention, {"retention": {"min": "0s"}}),
    "retention.min": (retention, {"retention": {"days": 0}}),
    "onFailure": (on_failure, {}),
    "log.level": (log_level, {"log": {"level": "warning", "format": "text"}}),
    "user": (user, {}),
    "python.path": (python_path, {}),
    "python.allow": (python_allow, {}),
    "recycle.maxTasks": (recycled, {}),
    "recycle.maxMemory": (recycled, {}),
    "secretsDir": (secrets_dir, {}),
    "output.linesPerSecond": (lines_per_second, {}),
}


@pytest.mark.parametrize("name", ACTS)
def test_it_acts_after_a_reload(start_daemon: Start, name: str) -> None:
    look, base = ACTS[name]
    base = {"python": {"allow": ["math:*", "extra:*"]}, **base}
    daemon = start_daemon(**base)
    limits = {"recycle.maxTasks": 1, "recycle.maxMemory": "16Mi"}
    look(daemon, lambda value: reload(daemon, base, name, limits.get(name, value)))
