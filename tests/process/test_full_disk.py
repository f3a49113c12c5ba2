"""A daemon whose disk is full waits for room, says so once, and works as soon as there is some. It is a real disk."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Daemon, wait_until
from support.redis_server import Server

SIZE = "4m"
WAITING = "waiting for room on the disk"


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """Not started; its state directory is a small file system of its own."""
    daemon = Daemon(maxWorkers=1)
    daemon.state.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0750", "tmpfs", str(daemon.state)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        daemon.close()
        pytest.skip(f"needs the right to mount a tmpfs: {done.stderr.strip()}")
    try:
        yield daemon
    finally:
        if daemon.running:
            daemon.stop()
        subprocess.run(["umount", "--lazy", str(daemon.state)], check=True)
        daemon.close()


def fill(folder: Path) -> Path:
    """Until nothing more goes in; the file that takes the room."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        for chunk in (1 << 16, 1):
            try:
                while True:
                    file.write(bytes(chunk))
            except OSError:
                continue
    return path


def starts(daemon: Daemon) -> int:
    return daemon.log.count("coordinator started")


@pytest.mark.parametrize("before", ["the first start", "a restart"])
def test_a_daemon_waits_for_room_on_its_disk(daemon: Daemon, before: str) -> None:
    accepted = 0
    if before == "a restart":
        daemon.start()
        daemon.client.enqueue("time:sleep", 0)
        daemon.stop()
        accepted = 1
    waits_for_room(daemon)
    assert len(daemon.client.runs()) == accepted


def test_so_does_a_node_of_a_fleet(daemon: Daemon) -> None:
    with Server() as server:
        daemon.configure(maxWorkers=1, redisAddr=server.address)
        waits_for_room(daemon)
        assert daemon.client.runs() == [] and "Redis cannot be used" not in daemon.log
        assert daemon.stop() == 0


def waits_for_room(daemon: Daemon) -> None:
    filler = fill(daemon.state)
    daemon.start(ready=False)
    first = starts(daemon)
    wait_until(lambda: starts(daemon) >= first + 3, what="three tries", timeout=20)
    assert "coordinator died" not in daemon.log, "its end is no death, of which five end the daemon"
    assert daemon.log.count(WAITING) == 1 and "no space left on the device" in daemon.log
    wait_until(lambda: "no space left" in daemon.notify.heard(), what="the reason in the unit's status")
    shown = daemon.ctl("status")
    assert shown.code == 0 and "no space left" in shown.stdout, shown

    assert daemon.stop(timeout=10) == 0  # which can be done meanwhile, and is no failure
    daemon.start(ready=False)
    wait_until(lambda: daemon.log.count(WAITING) == 2, what="the second start to wait")
    filler.unlink()
    daemon.wait_ready()
    assert "problem" not in daemon.ctl("status").stdout
