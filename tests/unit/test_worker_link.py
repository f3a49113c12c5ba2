"""A worker's link: what is handed, reported, taken back; real packet sockets, no processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import msgspec
import pytest

from kubemin import clock
from kubemin.channel import (
    ACK_KIND,
    CANCEL_KIND,
    HELLO_KIND,
    MODE_KIND,
    REPORT,
    TASK_KIND,
    PacketConnection,
    WorkerMode,
    pack_report,
    packet_pair,
    unpack_ack,
    unpack_cancel,
    unpack_mode,
    unpack_task,
)
from kubemin.coordinator.control import Died
from kubemin.coordinator.deaths import blame_for
from kubemin.coordinator.link import KILL_AFTER_PYTHON, STALL_SECONDS, Link
from kubemin.model.estimates import WINDOW_SECONDS, WINDOW_TASKS, Estimates
from kubemin.model.records import Claim, Outcome, Owner
from kubemin.model.states import Cause, TaskState

RUN = "1m867asdv07j672g0000"


def claim(token: int, *, quiet: bool = True, work: bytes = b'{"python":"m:f"}') -> Claim:
    return Claim(RUN, token, "m:f", "m:f" if quiet else "w", token, 1, 60.0, msgspec.Raw(work), quiet=quiet)


def outcome(token: int, seconds: float = 0.0) -> Outcome:
    now = clock.wall()
    return Outcome(RUN, token, token, TaskState.COMPLETED, started=now, finished=now + int(seconds * clock.SECOND))


class Worker:
    """The worker's ends, driven by the test."""

    def __init__(self) -> None:
        writer, self.tasks = packet_pair()
        reports, self.reports = packet_pair()
        self.link = Link(Owner("i", 0, 1), os.getpid(), writer, PacketConnection(os.dup(self.tasks.fileno())), reports)
        self.sequence = 0

    def take(self) -> tuple[int, Claim]:
        packet = self.tasks.try_recv()
        assert packet is not None and packet[0] == TASK_KIND
        return unpack_task(packet[1])

    def report(self, token: int, seconds: float = 0.0) -> None:
        self.sequence += 1
        assert self.reports.try_send(REPORT, pack_report(self.sequence, outcome(token, seconds)))


@pytest.fixture
def worker() -> Iterator[Worker]:
    it = Worker()
    yield it
    it.link.close()
    it.tasks.close()
    it.reports.close()


def test_a_task_is_received_by_one_side_only(worker: Worker) -> None:
    worker.link.hand([claim(1), claim(2), claim(3)])
    assert worker.take()[1].token == 1
    assert worker.link.take_back() == [(RUN, 2, 2), (RUN, 3, 3)]
    assert worker.tasks.try_recv() is None
    assert list(worker.link.held) == [1]


def test_what_the_channel_has_no_room_for_is_kept_and_taken_back(worker: Worker) -> None:
    claims = [claim(n, work=b'"' + b"x" * 30_000 + b'"') for n in range(1, 200)]
    worker.link.hand(claims)
    assert worker.link.unsent and worker.link.room() == 0
    assert [token for _, _, token in worker.link.take_back()] == list(range(1, 200))
    assert not worker.link.held and not worker.link.unsent


def test_a_report_settles_what_was_held_and_is_acknowledged_by_the_next_task(worker: Worker) -> None:
    worker.link.hand([claim(1)])
    worker.take()
    worker.report(1)
    assert [o.token for o in worker.link.read_reports(Estimates())] == [1]
    assert not worker.link.held
    worker.link.hand([claim(2)])
    assert worker.take()[0] == 1
    worker.link.acknowledge()
    assert worker.tasks.try_recv() is None  # said already


def test_an_acknowledgement_goes_alone_when_there_is_no_task(worker: Worker) -> None:
    worker.link.hand([claim(1)])
    worker.take()
    worker.report(1)
    worker.link.read_reports(Estimates())
    worker.link.acknowledge()
    packet = worker.tasks.try_recv()
    assert packet is not None and packet[0] == ACK_KIND and unpack_ack(packet[1]) == 1


def test_taking_back_repeats_a_hello_it_met(worker: Worker) -> None:
    worker.link.hello()
    worker.link.hand([claim(1)])
    assert worker.link.take_back() == [(RUN, 1, 1)]
    packet = worker.tasks.try_recv()
    assert packet is not None and packet[0] == HELLO_KIND


def test_taking_back_repeats_the_mode_it_met(worker: Worker) -> None:
    worker.link.tell_mode(WorkerMode(distributed=True))
    worker.link.hand([claim(1)])
    assert worker.link.take_back() == [(RUN, 1, 1)]
    packet = worker.tasks.try_recv()
    assert packet is not None and packet[0] == MODE_KIND and unpack_mode(packet[1]) == WorkerMode(distributed=True)


def test_a_broken_report_is_dropped_and_the_next_one_counts(worker: Worker) -> None:
    worker.link.hand([claim(1)])
    worker.reports.try_send(REPORT, b"no json")
    worker.report(1)
    assert [o.token for o in worker.link.read_reports(Estimates())] == [1]


def test_stalled_only_when_something_stands_behind(worker: Worker) -> None:
    worker.link.hand([claim(1)])
    late = clock.monotonic() + 10 * STALL_SECONDS
    assert not worker.link.stalled(late)
    worker.link.hand([claim(2)])
    assert worker.link.stalled(late) and not worker.link.stalled(clock.monotonic() - 1)


def test_stop_is_told_once_and_overdue_after_its_grace(worker: Worker) -> None:
    worker.link.hand([claim(1)])
    worker.link.stop(1, Cause.CANCELLED)
    worker.link.stop(1, Cause.CANCELLED)
    packet = worker.reports.try_recv()
    assert packet is not None and packet[0] == CANCEL_KIND and unpack_cancel(packet[1]) == (1, Cause.CANCELLED)
    assert worker.reports.try_recv() is None
    now = clock.monotonic()
    assert not list(worker.link.overdue(now))
    assert list(worker.link.overdue(now + KILL_AFTER_PYTHON + 1)) == [1]
    assert not list(worker.link.overdue(now + KILL_AFTER_PYTHON + 1.5))


def test_short_tasks_get_a_window_long_and_unknown_ones_go_alone() -> None:
    estimates = Estimates()
    assert estimates.window("m:f") == 1
    estimates.record("m:f", 0.00002)
    assert estimates.window("m:f") == WINDOW_TASKS
    for _ in range(60):
        estimates.record("m:f", 0.002)
    assert estimates.window("m:f") == int(WINDOW_SECONDS / 0.002)
    for _ in range(60):
        estimates.record("m:f", 3.0)
    assert estimates.window("m:f") == 1


def died(status: int, reason: str | None = None, record: dict[str, object] | None = None) -> Died:
    return Died(slot=0, incarnation=1, pid=1, status=status, reason=reason, record=record)


RUNNING = {"run": RUN, "idx": 1, "token": 1, "state": "running"}


@pytest.mark.parametrize(
    ("status", "reason", "state", "cause"),
    [
        (signal.SIGKILL, None, None, Cause.WORKER_LOST),
        (signal.SIGTERM, None, None, Cause.WORKER_LOST),
        (signal.SIGSEGV, None, TaskState.FAILED, Cause.SIGNAL),
        (signal.SIGABRT, None, TaskState.FAILED, Cause.SIGNAL),
        (0, None, TaskState.FAILED, Cause.EXIT),
        (7 << 8, None, TaskState.FAILED, Cause.EXIT),
        (signal.SIGKILL, "deadline", TaskState.TIMEOUT, Cause.TIMEOUT),
        (signal.SIGKILL, "cancelled", TaskState.CANCELLED, Cause.CANCELLED),
        (signal.SIGKILL, "drain", None, Cause.DRAIN),
    ],
)
def test_what_a_death_means(
    worker: Worker, status: int, reason: str | None, state: TaskState | None, cause: Cause
) -> None:
    worker.link.hand([claim(1)])
    worker.take()
    blame = blame_for(died(status, reason, RUNNING), worker.link)
    assert blame is not None
    assert (blame.token, blame.state, blame.cause) == (1, state, cause)


def test_nobody_is_blamed_when_the_worker_had_begun_nothing(worker: Worker) -> None:
    worker.link.hand([claim(1)])
    worker.link.take_back()
    assert blame_for(died(9, None, RUNNING | {"token": 99}), worker.link) is None
    assert blame_for(died(9, None, RUNNING | {"state": "idle"}), worker.link) is None


def test_a_worker_that_took_a_task_and_did_not_begin_it_is_blamed_for_nothing(worker: Worker) -> None:
    worker.link.hand([claim(1)])
    worker.take()
    assert blame_for(died(9, None, {"run": "", "idx": 0, "token": 0, "state": "idle"}), worker.link) is None


def test_a_torn_record_blames_the_one_task_that_was_in_its_hands(worker: Worker) -> None:
    worker.link.hand([claim(1), claim(2)])
    worker.take()
    worker.link.take_back()
    blame = blame_for(died(9), worker.link)
    assert blame is not None and blame.token == 1
