"""Whom the coordinator kills because it ended its step and reports nothing: a real server that goes away and comes
back, a worker played by the test, time that goes on when the test says so."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from driving import accept, single, take
from support.redis_server import Server, running

from kubemin import clock
from kubemin.channel import packet_pair
from kubemin.coordinator.fleet.locks import Locks
from kubemin.coordinator.fleet.workers import FleetPool
from kubemin.coordinator.link import Link
from kubemin.errors import StoreUnavailable
from kubemin.model.records import Owner
from kubemin.scoreboard import Scoreboard, SlotState
from kubemin.store.redis.node import NodeStore

OWNER = Owner("test", 0, 1)
TTL = 15.0
TURN = 1.0  # seconds between two turns of the coordinator's loop


class Scene:
    """A worker that has ended its step; the claim is still in its slot's record."""

    def __init__(self, server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = clock.monotonic()
        monkeypatch.setattr(clock, "monotonic", lambda: self.now)
        self.server = server
        self.store = NodeStore(server.address, instance="test", node="node-a")
        self.store.client.timeout = 0.1
        self.store.client.execute("FLUSHALL")
        board = Scoreboard.create(str(folder / "scoreboard"))
        self.ends = packet_pair() + packet_pair()
        pool = FleetPool("test", select.epoll())
        pool.attach(OWNER.slot, OWNER.incarnation, os.getpid(), [os.dup(end.fileno()) for end in self.ends[:3]])
        self.killed: list[str] = []
        self.locks = Locks(self.store, board, pool, TTL, TTL / 3, self._kill)
        accept(self.store, single())
        (self.claim,) = take(self.store, 1, OWNER)
        self.writer = board.slot_writer(OWNER.slot)
        self.writer.state(SlotState.IDLE, pid=os.getpid(), incarnation=OWNER.incarnation)
        self.writer.running(self.claim.run, self.claim.idx, self.claim.token, "label", 1.0, 0.0)
        self.writer.reporting()

    def _kill(self, _link: Link, _token: int, reason: str) -> None:
        self.killed.append(reason)

    def turns(self, seconds: float) -> int:
        """The loop, for so long; how many turns Redis did not answer."""
        failures = 0
        for _ in range(round(seconds / TURN)):
            self.now += TURN
            try:
                self.locks.turn()
            except StoreUnavailable:
                failures += 1
        return failures

    def outage(self, seconds: float) -> None:
        self.server.process.send_signal(signal.SIGSTOP)
        try:
            assert self.turns(seconds) > 1
        finally:
            self.server.process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running("redis") as started:
        yield started


@pytest.fixture
def scene(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    it = Scene(server, tmp_path, monkeypatch)
    yield it
    it.store.close()


def test_who_reports_nothing_for_the_life_of_a_lock_is_killed(scene: Scene) -> None:
    scene.turns(TTL - 1)
    assert not scene.killed
    scene.turns(TTL / 2)
    assert scene.killed


def test_who_still_runs_its_step_is_not_silent(scene: Scene) -> None:
    scene.writer.running(scene.claim.run, scene.claim.idx, scene.claim.token, "label", 1.0, 0.0)
    scene.turns(3 * TTL)
    assert not scene.killed


def test_the_time_without_redis_does_not_count(scene: Scene) -> None:
    """Nobody could report then. From the return of Redis the worker has the whole time again."""
    scene.turns(TTL / 2)
    scene.outage(2 * TTL)
    scene.turns(TTL - 1)
    assert not scene.killed
    scene.turns(TTL)
    assert scene.killed
