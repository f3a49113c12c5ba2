"""Live settings that act in a fleet: what is changed in a running daemon holds after `reload`, without a restart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nodes import Fleet
from support import Daemon, wait_until

LOUD = "name: loud\nsteps:\n  - {name: a, shell: echo hello}\n"


def reload(daemon: Daemon, **changes: Any) -> None:
    daemon.configure(**json.loads(daemon.config.read_text()) | changes)
    done = daemon.ctl("reload", "-o", "json")
    assert done.code == 0, done
    assert {item["applies"] for item in done.json["changes"]} == {"live"}


def loud(daemon: Daemon) -> str:
    """What is kept of the output of a step that says hello."""
    path = Path(daemon.home) / "loud.yaml"
    path.write_text(LOUD)
    run = daemon.client.submit(path)
    assert run.wait(20) == "completed"
    [task] = daemon.client.reader().run(run.id).tasks
    return str(task.stdout_tail)


def test_retention_durability_and_kept_output(fleet: Fleet) -> None:
    daemon = fleet.node(retention={"min": "0s"})
    fleet.wait_leader()
    assert loud(daemon) == "hello\n"
    reload(daemon, retention={"min": "0s", "outputBytes": 0})
    wait_until(lambda: loud(daemon) == "", 20, what="a worker that keeps no output")
    reload(daemon, retention={"min": "0s", "outputBytes": 0, "runs": 0})
    wait_until(lambda: not daemon.client.runs(), 15, what="the runs to be dropped")
    reload(daemon, durability="replica")
    done = daemon.ctl("submit", "-f", str(daemon.home / "loud.yaml"))
    assert done.code == 3 and "replica" in done.stderr


def test_a_node_joins_before_its_files_are_read(fleet: Fleet) -> None:
    """As it does where they are large: it waits for them, and is ready when they are published."""
    daemon = fleet.node(started=False)
    daemon.workflow(
        "large.yaml", "name: large\nsteps:\n" + "".join(f"  - {{name: s{n}, shell: ':'}}\n" for n in range(5000))
    )
    daemon.workflow("small.yaml", "name: small\nsteps:\n  - {name: a, shell: echo hello}\n")
    daemon.start()
    assert daemon.client.submit("small").wait(20) == "completed"
    assert " error " not in daemon.log
