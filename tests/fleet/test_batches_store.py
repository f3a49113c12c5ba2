"""What the coordinator does about a stalled batch, step by step: a real server, real packets, a worker played by the
test."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest
from driving import accept, outcome, single, take
from support.redis_server import Server, running

from kubemin import clock
from kubemin.channel import TICKET, PacketConnection, pack_ticket, packet_pair
from kubemin.coordinator.fleet.batches import LOOK_SECONDS, Batches
from kubemin.coordinator.fleet.workers import FleetPool
from kubemin.coordinator.pending import Pending
from kubemin.model.records import Claim, Owner
from kubemin.outbox import Outbox, path_of
from kubemin.scoreboard import Scoreboard, SlotState
from kubemin.store.redis.node import NodeStore

OWNER, OTHER = Owner("test", 0, 1), Owner("test", 1, 2)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running("redis") as started:
        yield started


class Scene:
    """Four tasks in the hands of one worker: the first has ended, the second runs, two wait."""

    def __init__(self, store: NodeStore, folder: Path) -> None:
        self.store, self.folder = store, str(folder)
        self.board = Scoreboard.create(str(folder / "scoreboard"))
        self.tickets, self.tasks = packet_pair()
        self.reports, coordinators = packet_pair()
        self.pool = FleetPool("test", select.epoll())
        ends = (self.tickets.fileno(), self.tasks.fileno(), coordinators.fileno())
        self.pool.attach(OWNER.slot, OWNER.incarnation, os.getpid(), [os.dup(fd) for fd in ends])
        self.batches = Batches(store, self.board, self.pool, self.folder)
        self.runs = accept(store, *(single() for _ in range(4)))
        self.ended, self.running, *self.waiting = self.claims = take(store, 4, OWNER)
        Outbox(self.folder, OWNER).add(outcome(self.ended))
        for claim in self.waiting:
            assert self.tickets.try_send(TICKET, pack_ticket(claim.run, claim.idx, claim.token))
        self.writer = self.board.slot_writer(OWNER.slot)
        self.writer.state(SlotState.IDLE, pid=os.getpid(), incarnation=OWNER.incarnation)
        self.note(self.running)

    def note(self, claim: Claim) -> None:
        self.writer.running(claim.run, claim.idx, claim.token, "label", 1.0, 0.0)

    def look(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = clock.monotonic() + LOOK_SECONDS
        monkeypatch.setattr(clock, "monotonic", lambda: now)
        self.batches.turn()

    def held(self) -> list[str]:
        return [run for _, run, _, _ in self.store.held(OWNER)]


@pytest.fixture
def scene(server: Server, tmp_path: Path) -> Iterator[Scene]:
    store = NodeStore(server.address, instance="test", node="node-a")
    store.client.execute("FLUSHALL")
    yield Scene(store, tmp_path)
    store.close()


def test_of_a_stalled_batch_ends_are_told_and_the_rest_goes_back(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.look(monkeypatch)
    assert len(scene.held()) == 4  # one look says nothing
    scene.look(monkeypatch)
    assert scene.held() == [scene.running.run]
    assert scene.store.states(scene.runs)[scene.ended.run] == "completed"
    again = take(scene.store, 9, OTHER)
    assert [claim.run for claim in again] == [claim.run for claim in scene.waiting]
    assert all(claim.attempt == 1 for claim in again)


def test_a_batch_that_goes_on_is_left_alone(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.look(monkeypatch)
    scene.note(scene.waiting[0])
    scene.look(monkeypatch)
    scene.writer.reporting()
    scene.look(monkeypatch)
    scene.look(monkeypatch)
    assert len(scene.held()) == 4


def test_what_a_dead_predecessor_received_goes_back_too(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = PacketConnection(os.dup(scene.tasks.fileno()))
    while reader.try_recv() is not None:  # its tickets, which it took with it
        pass
    scene.look(monkeypatch)
    scene.look(monkeypatch)
    assert scene.held() == [scene.running.run]


def test_when_not_all_ends_can_be_read_only_what_was_received_goes_back(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(path_of(scene.folder, OWNER), "r+b") as file:
        file.seek(60)
        file.write(b"????")
    scene.look(monkeypatch)
    scene.look(monkeypatch)
    assert set(scene.held()) == {scene.ended.run, scene.running.run}


def test_ends_of_a_dead_worker_count_before_its_death(scene: Scene) -> None:
    pending = Pending(deaths=[(OWNER, None)])
    scene.batches.bring(pending)
    pending.apply(scene.store)
    scene.batches.forget([OWNER])
    assert scene.store.states(scene.runs)[scene.ended.run] == "completed"
    assert sorted(claim.run for claim in take(scene.store, 9, OTHER)) == sorted(scene.runs[1:])
    assert not os.path.exists(path_of(scene.folder, OWNER))


def test_ends_that_an_earlier_daemon_left_are_delivered(scene: Scene) -> None:
    scene.batches.deliver_left_behind([OWNER])
    assert len(scene.held()) == 4
    scene.writer.state(SlotState.DEAD)
    scene.batches.deliver_left_behind([])
    assert scene.ended.run not in scene.held() and len(scene.held()) == 3
    assert not os.path.exists(path_of(scene.folder, OWNER))


def test_the_outbox_of_a_worker_that_was_forked_while_this_node_joined_is_left_alone(scene: Scene) -> None:
    """It is there before the coordinator has read of the fork: removed, its ends would be lost with the worker."""
    scene.batches.deliver_left_behind([])
    assert len(scene.held()) == 4
    assert os.path.exists(path_of(scene.folder, OWNER))


def test_a_task_that_was_given_back_is_told_in_one_call(scene: Scene) -> None:
    """Whoever claims it knows what it is called."""
    scene.store.give_back(OWNER, [(claim.run, claim.idx, claim.token) for claim in scene.waiting])
    claims = take(scene.store, 2, OTHER)
    scene.store.changes()
    calls: list[float] = []
    scene.store.client.observe = calls.append
    scene.store.finish(OTHER, [outcome(claim) for claim in claims])
    assert len(calls) == 1
    ends = [(change.run, change.workflow, change.state) for change in scene.store.changes()]
    assert ends == [(claim.run, claim.step, "completed") for claim in claims]
