"""Files of steps and workers that were killed: none is there after the next start, and none after the end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from support import Daemon, wait_until

SLEEP = "name: sleep\nmode: DAG\nsteps:\n" + "".join(
    f"  - {{name: s{n}, shell: 'touch $KUBEMIN_TMP/kept; sleep 1000'}}\n" for n in range(3)
)


def folders(daemon: Daemon) -> list[str]:
    place = daemon.state / "tmp"
    return sorted(os.listdir(place)) if place.exists() else []


def slots(daemon: Daemon) -> set[str]:
    return {name.split("-")[2] for name in folders(daemon)}


def passing(daemon: Daemon) -> list[Path]:
    return [path for pattern in ("*.kept", "*.tmp", "output-*") for path in daemon.run.glob(pattern)]


def test_folders_of_killed_steps_are_taken_away(start_daemon: Callable[..., Daemon]) -> None:
    """Also those of workers that a smaller pool does not have any more."""
    daemon = start_daemon(maxWorkers=3, gracefulTimeout="0s")
    path = daemon.workflow("sleep.yaml", SLEEP)
    run = daemon.client.submit(path)
    wait_until(lambda: slots(daemon) == {"0", "1", "2"}, 10)
    before = folders(daemon)
    daemon.configure(maxWorkers=1, gracefulTimeout="0s")
    daemon.kill9(everything=True)
    (daemon.run / "output-1-1").touch()
    daemon.start()
    wait_until(lambda: slots(daemon) == {"0"}, 10)
    assert not set(before) & set(folders(daemon))
    assert not (daemon.run / "output-1-1").exists()
    assert daemon.client.cancel(run.id)
    assert run.wait(10) == "cancelled"


def test_nothing_passing_is_left_by_a_daemon_that_ended(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(maxWorkers=1, gracefulTimeout="0s")
    daemon.client.submit(daemon.workflow("sleep.yaml", SLEEP))
    [folder] = wait_until(lambda: folders(daemon), 10)
    lost = daemon.state / "tmp" / folder.replace("-0-", "-7-")  # of a slot that is not there any more
    (lost / "tmp").mkdir(parents=True)
    assert daemon.ctl("reload").code == 0
    assert daemon.stop() == 0
    assert folders(daemon) == [] and passing(daemon) == []
