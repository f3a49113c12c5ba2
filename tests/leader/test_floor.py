"""The store's highest epoch, asked by a thread that may be given up: nobody else uses its connection then."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.redis_server import Server
from support.waiting import wait_until

from kubemin.config import Settings
from kubemin.coordinator.fleet.election import StoreLine
from kubemin.leader.lease.base import Unanswered


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(tcp=False) as one:
        yield one


def sockets() -> set[str]:
    """Open in this process; those of earlier tests may be closed at any time."""
    found = set()
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(str(fd.readlink()))
    return {name for name in found if name.startswith("socket:")}


def test_a_call_that_hangs_keeps_its_connection_to_itself(server: Server) -> None:
    floor = StoreLine(Settings(redis_addr=server.address)).highest_epoch
    assert (floor(), floor()) == (0, 0)
    before = sockets()
    server.pause()
    answers: list[int] = []
    calls = [threading.Thread(target=lambda: answers.append(floor())) for _ in range(2)]
    for call in calls:
        call.start()
    try:
        wait_until(lambda: len(sockets() - before) == 1, 4, what="a connection for the second call")
    finally:
        server.resume()
    for call in calls:
        call.join(10)
    assert answers == [0, 0]


def test_a_server_that_is_away_does_not_say(server: Server) -> None:
    floor = StoreLine(Settings(redis_addr=server.address)).highest_epoch
    server.stop()
    with pytest.raises(Unanswered):
        floor()
    server.start()

    def answers() -> bool:
        try:
            return floor() == 0
        except Unanswered:
            return False

    wait_until(answers, 15)
