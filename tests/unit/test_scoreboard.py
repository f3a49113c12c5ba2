"""The scoreboard: records survive the trip, torn ones are never believed, writing is cheap."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubemin import scoreboard
from kubemin.clock import boottime
from kubemin.errors import StoreUnavailable, Unreachable
from kubemin.scoreboard import EMPTY, Scoreboard, SlotRecord, SlotState

RUN = "0123456789abcdefghij"


@pytest.fixture
def board(tmp_path: Path) -> Scoreboard:
    return Scoreboard.create(str(tmp_path / "scoreboard"), slots=8)


def test_fresh_board_is_empty(board: Scoreboard) -> None:
    header, coordinator = board.read_header(), board.read_coordinator()
    assert header is not None and header.supervisor_pid == 0
    assert coordinator is not None and not coordinator.ready
    assert [board.read_slot(n) for n in range(8)] == [EMPTY] * 8


def test_a_slots_life(board: Scoreboard) -> None:
    writer = board.slot_writer(2)
    writer.state(SlotState.STARTING, pid=7, incarnation=3, generation=2)
    worker = board.slot_writer(2)  # the worker's own pen goes on from there
    worker.idle(0)
    worker.running(RUN, 4, 99, "nightly/extract", 10.0, 20.0, within=True)
    worker.progress(0.5)
    record = board.read_slot(2)
    assert record is not None
    assert record.tick > 0
    assert record == SlotRecord(
        7, 3, 2, SlotState.RUNNING, RUN, 4, 99, "nightly/extract", 10.0, 20.0, record.tick, 0, 0.5, True
    )
    assert board.deadline(2) == 20.0
    worker.reporting()
    record = board.read_slot(2)
    assert record is not None
    assert (record.state, record.run, record.token) == (SlotState.REPORTING, RUN, 99)
    worker.idle(1)
    record = board.read_slot(2)
    assert record is not None
    assert (record.state, record.run, record.token, record.done, record.deadline) == (SlotState.IDLE, "", 0, 1, 0.0)
    worker.clear()
    record = board.read_slot(2)
    assert record is not None
    assert (record.state, record.pid, record.incarnation, record.done) == (SlotState.DEAD, 0, 0, 0)


@given(
    label=st.text(max_size=300),
    idx=st.integers(0, 2**31 - 1),
    token=st.integers(0, 2**64 - 1),
    deadline=st.floats(0, 1e12),
)
def test_any_task_survives_the_trip(label: str, idx: int, token: int, deadline: float) -> None:
    board = _shared()
    board.slot_writer(0).running(RUN, idx, token, label, 1.0, deadline)
    record = board.read_slot(0)
    assert record is not None
    assert (record.run, record.idx, record.token, record.deadline) == (RUN, idx, token, deadline)
    wanted = label.encode()[:240].rstrip(b"\0").decode(errors="ignore")
    assert record.label == wanted


_board: list[Scoreboard] = []


def _shared() -> Scoreboard:
    if not _board:
        _board.append(Scoreboard.create(f"/dev/shm/kubemin-test-{os.getpid()}", slots=1))
        os.unlink(_board[0].path)
    return _board[0]


def test_torn_record_is_unknown(board: Scoreboard) -> None:
    board.slot_writer(1).running(RUN, 1, 1, "x", 1.0, 2.0)
    with Path(board.path).open("r+b") as file:
        file.seek(32768 + 512 + 40)
        file.write(b"\xff")
    assert board.read_slot(1) is None
    board.slot_writer(1).idle(0)
    record = board.read_slot(1)
    assert record is not None and record.state is SlotState.IDLE


def test_reader_never_believes_half_a_record(board: Scoreboard) -> None:
    """A child writes as fast as it can; whatever the reader accepts is consistent in itself."""
    child = os.fork()
    if child == 0:
        writer = board.slot_writer(0)
        n = 0
        while True:
            n += 1
            writer.running(RUN, n % 1000, n, f"label-{n}", float(n), float(n))
    try:
        seen, end = 0, time.monotonic() + 1
        while time.monotonic() < end:
            record = board.read_slot(0)
            if record is not None and record.token:
                seen += 1
                assert record.label == f"label-{record.token}"
                assert record.deadline == record.started == float(record.token)
        assert seen > 100
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_header_and_coordinator(board: Scoreboard) -> None:
    board.write_header(instance="i", node="n", generation=2)
    board.write_header(request="r1", outcome="ok")
    board.write_coordinator(pid=5, finished=10)
    reader = Scoreboard.open(board.path)
    header, coordinator = reader.read_header(), reader.read_coordinator()
    assert header is not None and coordinator is not None
    assert (header.instance, header.generation, header.request) == ("i", 2, "r1")
    successor = Scoreboard(board._map, board.slots, board.path)
    successor.write_coordinator(pid=6)
    coordinator = reader.read_coordinator()
    assert coordinator is not None and (coordinator.pid, coordinator.finished) == (6, 10)


def test_long_texts_are_cut(board: Scoreboard) -> None:
    board.write_header(outcome="\U0001f600" * 5000, reload_text="\0" * 5000, request="é" * 5000)
    header = board.read_header()
    assert header is not None and header.outcome == "\U0001f600" * 1000


def test_reader_cannot_write(board: Scoreboard) -> None:
    with pytest.raises(TypeError):
        Scoreboard.open(board.path).slot_writer(0).idle(1)


def test_new_board_replaces_the_old_one(board: Scoreboard) -> None:
    board.write_header(instance="old")
    old = Scoreboard.open(board.path)
    Scoreboard.create(board.path, slots=8).write_header(instance="new")
    assert (old.read_header() or pytest.fail()).instance == "old"
    assert (Scoreboard.open(board.path).read_header() or pytest.fail()).instance == "new"


def test_what_is_no_scoreboard(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="not running"):
        Scoreboard.open(str(tmp_path / "none"))
    for junk in (b"", b"x" * 100, b"x" * 100_000):
        (tmp_path / "junk").write_bytes(junk)
        with pytest.raises(Unreachable, match="not a scoreboard"):
            Scoreboard.open(str(tmp_path / "junk"))
    with pytest.raises(StoreUnavailable, match="cannot make the scoreboard"):
        Scoreboard.create(str(tmp_path / "no" / "folder"))


@pytest.mark.parametrize(("version", "said"), [(0, "an older version"), (2, "a newer version")])
def test_a_daemon_of_another_version(board: Scoreboard, version: int, said: str) -> None:
    with open(board.path, "r+b") as file:
        file.seek(4)
        file.write(bytes([version]))
    with pytest.raises(Unreachable, match=said):
        Scoreboard.open(board.path)


def test_another_layout_has_another_version() -> None:
    """Whoever changes it writes the next number into the magic, and here."""
    assert scoreboard._MAGIC[4] == 1
    assert (scoreboard._BODY.format, scoreboard._SLOT_SIZE) == ("<QdQQdddIIIiB?20s240s", 512)
    assert (scoreboard._HEADER_AT, scoreboard._COORDINATOR_AT, scoreboard._SLOTS_AT) == (64, 16384, 32768)
    assert [state.value for state in SlotState] == ["dead", "starting", "idle", "running", "reporting", "stopping"]


def test_slot_out_of_range(board: Scoreboard) -> None:
    with pytest.raises(IndexError):
        board.read_slot(8)


def test_hot_calls_are_cheap(board: Scoreboard) -> None:
    """≤ 2.5 µs each; the best of several rounds, so that a busy machine does not decide."""
    writer, best = board.slot_writer(0), 1.0
    for _ in range(20):
        begin = time.perf_counter()
        for n in range(1000):
            writer.running(RUN, 1, n, "workflow/step", 1.0, 2.0)
            writer.idle(n)
        best = min(best, time.perf_counter() - begin)
    print(f"running + idle: {best * 1000:.2f} µs")
    assert best / 2000 < 2.5e-6


def test_boottime_moves() -> None:
    assert boottime() <= boottime()
