"""What runs in the supervisor before the first fork: all of it happens, and nothing of it is left."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubemin.config import Settings
from kubemin.config.load import load_settings
from kubemin.scoreboard import Scoreboard, SlotState
from kubemin.worker.fleet import rehearsal as in_fleet
from kubemin.worker.rehearsal import rehearse


def settings_of(folder: Path, **more: str) -> Settings:
    config = folder / "kubemin.yaml"
    lines = {"stateDir": f"{folder}/state", "runtimeDir": f"{folder}/run"} | more
    config.write_text("".join(f"{name}: {value}\n" for name, value in lines.items()))
    (folder / "run").mkdir()
    return load_settings(str(config), {}, {})


def descriptors() -> dict[str, str]:
    folder = "/proc/self/fd"
    return {name: os.readlink(f"{folder}/{name}") for name in os.listdir(folder) if os.path.lexists(f"{folder}/{name}")}


def process_state(wakeup: int) -> tuple[object, ...]:
    """What is the process' own: a supervisor that lost its wake-up would sleep through its signals."""
    handlers = [signal.getsignal(number) for number in range(1, signal.NSIG)]
    title = Path("/proc/self/cmdline").read_bytes()
    umask = os.umask(0)
    os.umask(umask)
    return signal.set_wakeup_fd(wakeup), handlers, title, umask, dict(os.environ), os.getcwd(), threading.enumerate()


@pytest.fixture
def own() -> Iterator[int]:
    """A descriptor that signals wake."""
    far, near = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = signal.set_wakeup_fd(near)
    yield near
    signal.set_wakeup_fd(before)
    os.close(near)
    os.close(far)


@pytest.mark.parametrize("more", [{}, {"redisAddr": "127.0.0.1:1"}, {"redisAddr": "redis+cluster://127.0.0.1:1"}])
def test_nothing_is_left(
    own: int, tmp_path: Path, more: dict[str, str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    def counted(*parts: object) -> int:
        counts.append(original(*parts))  # type: ignore[arg-type]
        return counts[-1]

    original = in_fleet.rehearse_in_fleet
    monkeypatch.setattr(in_fleet, "rehearse_in_fleet", counted)
    settings = settings_of(tmp_path, **more)
    board = Scoreboard.create(str(tmp_path / "run" / "scoreboard"))
    gc.collect()
    before = descriptors()
    kept = process_state(own)
    rehearse(settings, board)
    assert process_state(own) == kept
    gc.collect()  # as the supervisor does next
    after = descriptors()
    assert after.keys() == before.keys()
    assert [count >= in_fleet.TASKS for count in counts] == [True] * bool(more), counts
    left = [os.path.join(folder, name) for folder, _, names in os.walk(tmp_path / "run") for name in names]
    assert left == [str(tmp_path / "run" / "scoreboard")]
    record = board.read_slot(board.slots - 1)
    assert record is not None and record.state is SlotState.DEAD and not record.done
    assert capfd.readouterr() == ("", "")
    board.close()


def test_an_address_that_admits_no_worker_is_left_to_them(tmp_path: Path) -> None:
    """Each says what is wrong with it; the supervisor says it once more, as it ends."""
    settings = settings_of(tmp_path, redisAddr="127.0.0.1:1", redisPasswordFile=str(tmp_path / "gone"))
    board = Scoreboard.create(str(tmp_path / "run" / "scoreboard"))
    rehearse(settings, board)
    board.close()
