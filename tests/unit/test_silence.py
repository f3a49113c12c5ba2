"""When silence is a hang: of a process that could have given a sign, by its own time, and beyond what it said."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from support import wait_until

from kubemin.clock import boottime
from kubemin.config import Settings
from kubemin.coordinator.exposition import Exposition
from kubemin.coordinator.history import begin_tally
from kubemin.processes import Process
from kubemin.pulse import WORK
from kubemin.scoreboard import CoordinatorRecord, Scoreboard
from kubemin.supervisor.silence import HUNG_SECONDS, Silence

LOOK = 0.25
OVER = -1.0  # a sign that was due a second ago


@pytest.fixture
def board(tmp_path: Path) -> Scoreboard:
    return Scoreboard.create(str(tmp_path / "scoreboard"), slots=2)


def looks(states: str, cpu: Iterator[float] | None = None) -> Iterator[Process]:
    """The process at one look after the other, in these states; `cpu` is what it has used by then."""
    used = cpu or iter([0.0] * len(states))
    return (Process(1, 0, 0, state, next(used)) for state in states)


def hangs_at(board: Scoreboard, seen: Iterator[Process], apart: float = LOOK) -> float | None:
    """When it is taken for one that hangs, in seconds since the first look."""
    silence = Silence(board.pulse, lambda _: next(seen, None))
    for n in range(200):
        if silence.is_hang(1, n * apart):
            return n * apart
    return None


def test_the_pulse_is_beside_the_coordinators_record(board: Scoreboard) -> None:
    board.pulse.beat(30.0)
    due = board.pulse.due
    assert due - boottime() == pytest.approx(30.0, abs=1.0)
    board.write_coordinator(pid=7, error="x" * 1000)
    assert board.pulse.due == due
    board.pulse.beat()
    assert board.read_coordinator() == CoordinatorRecord(pid=7, error="x" * 1000)
    assert Scoreboard.open(board.path).pulse.due - boottime() == pytest.approx(WORK, abs=1.0)


def test_no_reader_sees_half_a_sign(board: Scoreboard) -> None:
    pid = os.fork()
    if pid == 0:
        while True:
            board.pulse.beat(30.0)
    try:
        wait_until(lambda: board.pulse.due)
        assert all(board.pulse.due > boottime() for _ in range(1_000_000))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_one_that_sleeps_hangs_by_the_clock(board: Scoreboard) -> None:
    board.pulse.beat(OVER)
    assert hangs_at(board, looks("S" * 100)) == HUNG_SECONDS


def test_one_that_computes_hangs_by_its_own_time(board: Scoreboard) -> None:
    board.pulse.beat(OVER)
    assert hangs_at(board, looks("R" * 100, count(5.0, 0.25))) == HUNG_SECONDS
    assert hangs_at(board, looks("R" * 100, count(5.0, 0.01))) is None, "others use the processor"


@pytest.mark.parametrize("state", ["D", "T", "t"])
def test_a_disk_a_signal_and_a_debugger_are_no_hang(board: Scoreboard, state: str) -> None:
    board.pulse.beat(OVER)
    assert hangs_at(board, looks(state * 100)) is None


def test_nobody_is_judged_before_the_time_that_it_asked_for(board: Scoreboard) -> None:
    board.pulse.beat(30.0)
    assert hangs_at(board, looks("S" * 100)) is None


def test_a_sign_begins_anew(board: Scoreboard) -> None:
    board.pulse.beat(OVER)
    silence = Silence(board.pulse, lambda _: Process(1, 0, 0, "S"))
    almost = int(HUNG_SECONDS / LOOK)
    assert not any(silence.is_hang(1, n * LOOK) for n in range(almost))
    board.pulse.beat(OVER)
    assert not any(silence.is_hang(1, n * LOOK) for n in range(almost, 2 * almost))
    assert silence.is_hang(1, 2 * almost * LOOK)


def test_a_machine_that_stood_still_is_no_hang(board: Scoreboard) -> None:
    """However long: the supervisor did not look either, and its first look afterwards counts half a second."""
    board.pulse.beat(OVER)
    silence = Silence(board.pulse, lambda _: Process(1, 0, 0, "S"))
    assert not silence.is_hang(1, 0.0)
    assert not silence.is_hang(1, 3600.0)


def test_health_says_that_the_loop_hangs(board: Scoreboard) -> None:
    board.write_header(supervisor_pid=os.getppid(), ready=True)
    settings = Settings()
    shown = Exposition(settings, board, begin_tally(settings, None), NotImplemented)
    board.pulse.beat()
    assert shown.answer("/healthz").status == 200
    board.pulse.beat(-5.0)
    assert (shown.answer("/healthz").status, shown.answer("/healthz").body) == (
        503,
        b"the coordinator's sign of life is 5 s late\n",
    )
