"""A batch of short tasks: tickets on real packet sockets, results in the outbox's file; no processes."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from kubemin import clock
from kubemin.channel import BATCH_KIND, TICKET_KIND, PacketConnection, packet_pair, token_of, unpack_ticket
from kubemin.coordinator.link import Link
from kubemin.model.records import Claim, Outcome, Owner
from kubemin.model.states import TaskState
from kubemin.outbox import SIZE, Outbox, left_behind, path_of, read
from kubemin.worker.fleet.batch import BATCH_SECONDS, MOST_TASKS, Batch

OWNER = Owner("0123abcd", 3, 7)
RUN = "1m867asdv07j672g0000"


def claim(token: int, function: str = "m:f") -> Claim:
    return Claim(RUN, token, function, function, token, 1, 60.0, msgspec.Raw(b"{}"), quiet=True)


def outcome(token: int, seconds: float = 0.0, output: bytes | None = b"[1]") -> Outcome:
    now = clock.wall()
    raw = None if output is None else msgspec.Raw(output)
    end = now + int(seconds * clock.SECOND)
    return Outcome(RUN, token, token, TaskState.COMPLETED, output=raw, started=now, finished=end)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return path_of(str(tmp_path), OWNER)


class Worker:
    def __init__(self, folder: Path) -> None:
        self.write, self.tasks = packet_pair()
        self.reports, self.coordinators = packet_pair()
        self.batch = Batch(self.write, self.reports, Outbox(str(folder), OWNER))
        reader = PacketConnection(os.dup(self.tasks.fileno()))
        self.link = Link(OWNER, os.getpid(), PacketConnection(os.dup(self.write.fileno())), reader, self.coordinators)

    def receive(self) -> Claim | None:
        packet = self.tasks.try_recv()
        if packet is None:
            return None
        assert packet[0] == TICKET_KIND
        return self.batch.own(token_of(packet[1]))

    def learn(self, *functions: str) -> None:
        for function in functions:
            self.batch.ended(claim(1, function), outcome(1))
        self.batch.told()


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path)


# --- tickets ---


def test_who_receives_a_ticket_owns_the_task(worker: Worker) -> None:
    assert worker.batch.begin([claim(n) for n in range(1, 6)]) == []
    first = worker.receive()
    assert first is not None and first.token == 1
    assert [unpack_ticket(b"%b.%d@%d" % (RUN.encode(), n, n)) for n in (2,)] == [(RUN, 2, 2)]
    assert worker.link.receive_tickets() == [(RUN, n, n) for n in range(2, 6)]
    assert worker.receive() is None and worker.batch.waiting
    assert [one.token for one in worker.batch.taken_back()] == [2, 3, 4, 5]
    assert not worker.batch.waiting and worker.batch.limit == 1


def test_tickets_before_the_one_received_were_taken_back(worker: Worker) -> None:
    worker.batch.begin([claim(1), claim(2), claim(3)])
    assert worker.batch.own(3) is not None
    assert not worker.batch.waiting and worker.batch.own(2) is None


def test_what_the_channel_has_no_room_for_comes_back(worker: Worker) -> None:
    claims = [claim(n) for n in range(5000)]
    back = worker.batch.begin(claims)
    assert 0 < len(back) < 5000
    kept = worker.link.receive_tickets()
    assert [token for _, _, token in kept] + [one.token for one in back] == list(range(5000))


def test_the_coordinator_is_told_that_batches_are_run_and_not_each_time(worker: Worker) -> None:
    for n in range(1, 10, 2):
        worker.batch.begin([claim(n), claim(n + 1)])
    packets = []
    while (packet := worker.coordinators.try_recv()) is not None:
        packets.append(packet[0])
    assert packets == [BATCH_KIND]


# --- how many ---


def test_nothing_stands_behind_what_is_known_to_be_long(worker: Worker) -> None:
    worker.learn("m:short")
    short, unknown, long = claim(1, "m:short"), claim(2, "m:new"), claim(3, "m:long")
    assert worker.batch.fit([short, unknown, short]) == 3
    worker.batch.ended(long, outcome(3, 0.5))
    assert worker.batch.fit([long, short]) == 1 and worker.batch.fit([short, long, short]) == 2
    assert worker.batch.limit == 1


def test_as_many_as_take_a_few_milliseconds(worker: Worker) -> None:
    worker.batch.ended(claim(1), outcome(1, 0.002))
    worker.batch.told()
    assert worker.batch.limit == 4 and worker.batch.fit([claim(n) for n in range(9)]) == 4
    worker.learn("m:short")
    assert worker.batch.limit == MOST_TASKS


def test_a_batch_is_as_long_as_its_tasks_take_with_what_stands_around_them(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Functions that take nothing, with half a millisecond from one end to the next, as on a busy machine."""
    now = 1024.0
    monkeypatch.setattr(clock, "monotonic", lambda: now)

    def run(count: int, pace: float) -> int:
        nonlocal now
        worker.batch.begin([claim(n) for n in range(1, count + 1)])
        for n in range(1, count + 1):
            now += pace
            worker.batch.own(n)
            worker.batch.ended(claim(n), outcome(n))
        limit = worker.batch.limit
        worker.batch.told()
        assert worker.batch.limit == limit, "also after a pause"
        return limit

    worker.learn("m:f")
    assert worker.batch.limit == MOST_TASKS
    assert run(20, 2**-11) == 16
    worker.learn("m:f")
    assert worker.batch.limit == 16, "one task alone has no pace"
    assert run(16, 0.01) == 2, "two, so that it is seen when the machine is free again"
    assert run(2, 0.0001) == MOST_TASKS


# --- results ---


def test_results_are_due_at_the_end_and_stand_in_the_outbox_until_then(
    worker: Worker, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = clock.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: now)  # a loaded machine would make it too long a batch
    worker.batch.begin([claim(1), claim(2)])
    for n in (1, 2):
        one = worker.receive()
        assert one is not None
        worker.batch.ended(one, outcome(n))
        assert worker.batch.due is (n == 2)
    assert [each.token for each in read(path)[0]] == [1]  # the last one is told at once
    worker.batch.told()
    assert not worker.batch.due and read(path) == ([], True)


def test_results_are_read_as_they_were_written(path: str, tmp_path: Path) -> None:
    outbox = Outbox(str(tmp_path), OWNER)
    given = [outcome(1), outcome(2, output=b"null"), outcome(3, output=None)]
    assert all(outbox.add(each) for each in given)
    found, whole = read(path)
    assert whole and [each.token for each in found] == [1, 2, 3]
    assert [each.output if each.output is None else bytes(each.output) for each in found] == [b"[1]", b"null", None]
    assert found[0].started == given[0].started and found[0].state is TaskState.COMPLETED
    assert list(left_behind(str(tmp_path))) == [(path, OWNER)]


def test_a_result_too_large_is_refused_and_the_others_stay(path: str, tmp_path: Path) -> None:
    outbox = Outbox(str(tmp_path), OWNER)
    assert outbox.add(outcome(1))
    assert not outbox.add(outcome(2, output=b'"' + b"x" * SIZE + b'"'))
    assert [each.token for each in read(path)[0]] == [1]


def test_torn_results_and_those_of_an_older_batch_are_not_taken(path: str, tmp_path: Path) -> None:
    outbox = Outbox(str(tmp_path), OWNER)
    for n in (1, 2, 3):
        outbox.add(outcome(n))
    outbox.clear()
    outbox.add(outcome(4))
    assert [each.token for each in read(path)[0]] == [4]
    with open(path, "r+b") as file:
        file.write(b"\2\0\0\0\0\0\0\0\3")  # a header that says three: the second is of the batch before
    found, whole = read(path)
    assert [each.token for each in found] == [4] and not whole
    with open(path, "r+b") as file:
        file.seek(40)
        file.write(b"????")
    assert read(path) == ([], False)
    assert read(path + "nowhere") == ([], False)


def test_a_batch_is_over_after_its_time(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    worker.batch.begin([claim(1), claim(2)])
    assert not worker.batch.over
    later = clock.monotonic() + BATCH_SECONDS + 0.001
    monkeypatch.setattr(clock, "monotonic", lambda: later)
    worker.batch.ended(claim(1), outcome(1))
    assert worker.batch.over and worker.batch.due
