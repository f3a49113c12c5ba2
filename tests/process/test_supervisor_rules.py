"""The supervisor's rules that need no process: who is replaced next, how long a slot waits, what a link keeps."""

from __future__ import annotations

import os
import resource
import socket
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubemin.channel import packet_pair
from kubemin.config import ReloadResult, Settings, diff
from kubemin.errors import StoreUnavailable
from kubemin.supervisor.link import Link
from kubemin.supervisor.notify import Notifier
from kubemin.supervisor.reload import _told
from kubemin.supervisor.rolling import BUSY_SECONDS, View, next_to_replace
from kubemin.supervisor.signals import HANDLED, SignalBox
from kubemin.supervisor.slots import FIRST_PATIENCE, FREE_DEATHS, LONGEST_PATIENCE, LONGEST_PAUSE, Slot
from kubemin.supervisor.statelock import StateLock

NOW = 1000.0


def view(slot: int, **changes: object) -> View:
    return View(slot, there=True, old=True)._replace(**changes)


def test_idle_ones_first() -> None:
    assert next_to_replace([view(0, running=True, started=5.0), view(1)], NOW) == 1


def test_one_at_a_time() -> None:
    for busy in (view(0, told_at=NOW), view(0, starting=True, old=False), View(0, there=False)):
        assert next_to_replace([busy, view(1)], NOW) is None


def test_busy_one_that_was_told_does_not_hold_up_idle_ones() -> None:
    told = view(0, running=True, told_at=NOW)
    assert next_to_replace([told, view(1)], NOW) == 1


def test_busy_ones_follow_each_other_slowly() -> None:
    told = view(0, running=True, told_at=NOW)
    other = view(1, running=True, started=7.0)
    assert next_to_replace([told, other], NOW + BUSY_SECONDS - 0.1) is None
    assert next_to_replace([told, other], NOW + BUSY_SECONDS) == 1


def test_youngest_task_first() -> None:
    assert next_to_replace([view(n, running=True, started=float(n)) for n in range(3)], NOW) == 2


def test_nothing_to_do() -> None:
    assert next_to_replace([view(0, old=False), view(1, old=False)], NOW) is None
    assert next_to_replace([], NOW) is None


@given(
    st.lists(
        st.builds(
            View,
            slot=st.integers(0, 9),
            there=st.booleans(),
            starting=st.booleans(),
            old=st.booleans(),
            told_at=st.none() | st.floats(0, NOW),
            running=st.booleans(),
            started=st.floats(0, NOW),
        ),
        unique_by=lambda v: v.slot,
    )
)
def test_at_most_one_idle_worker_is_on_its_way(views: list[View]) -> None:
    chosen = next_to_replace(views, NOW)
    if chosen is not None:
        picked = next(v for v in views if v.slot == chosen)
        assert picked.old and picked.there and picked.told_at is None
        assert all(v.there and not v.starting and (v.told_at is None or v.running) for v in views)


def test_pauses_of_a_slot_that_dies_young() -> None:
    slot = Slot(0)
    pauses = [slot.ended(NOW, young=True) for _ in range(20)]
    assert pauses[:FREE_DEATHS] == [0.0] * FREE_DEATHS
    assert 0 < pauses[FREE_DEATHS] <= 0.1
    assert 0.75 * LONGEST_PAUSE <= pauses[-1] <= LONGEST_PAUSE
    assert slot.ended(NOW, young=False) == 0.0
    assert slot.ended(NOW, young=True) == 0.0


def test_outcome_of_a_reload_is_written_for_people() -> None:
    old = Settings(redis_addr="redis://me:secret@db:1/0", graceful_timeout=30.0)
    new = msgspec.structs.replace(old, redis_addr="", graceful_timeout=90.0, queues=("default", "etl"))
    result = ReloadResult(True, new, changes=tuple(diff(old, new)))
    decoded = msgspec.json.decode(msgspec.json.encode(result), type=ReloadResult)
    text = _told(decoded)
    assert "gracefulTimeout: 30s -> 1m30s (live)" in text and "queues: default -> default,etl" in text
    assert "secret" not in text
    assert _told(ReloadResult(True, new)) == "reloaded; no setting changed"


def test_link_keeps_order_and_never_waits() -> None:
    ours, theirs = packet_pair()
    link, sent = Link(ours), []
    count = 0
    while not link.waiting:
        link.send({"n": count}, out=lambda n=count: sent.append(n))  # type: ignore[misc]
        count += 1
    for n in range(count, count + 100):
        link.send({"n": n}, out=lambda n=n: sent.append(n))  # type: ignore[misc]
    assert link.unread() and len(sent) == count - 1
    received = []
    while len(received) < count + 100:
        message = theirs.recv_with_fds()
        if message is None:
            link.flush()
        else:
            received.append(message[0]["n"])
    assert received == sent == list(range(count + 100))
    assert not link.unread() and not link.waiting
    theirs.close()
    link.send({"n": 0})
    assert link.broken and not link.waiting and link.receive() == []


def test_notifier_keeps_what_must_arrive(tmp_path: Path) -> None:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    manager.bind(str(tmp_path / "notify"))
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid())}
    notify = Notifier(environ)
    assert environ == {} and notify.watchdog_seconds == 1.0
    for n in range(10_000):
        notify.status(f"line {n}")
    notify.ready()
    assert notify.next_due() < 1
    while True:
        try:
            manager.recv(4096)
        except BlockingIOError:
            break
    notify.feed()
    assert manager.recv(4096) == b"READY=1"
    assert manager.recv(4096) == b"WATCHDOG=1"
    manager.close()
    os.unlink(tmp_path / "notify")
    notify.stopping()
    notify.feed()
    notify.close()
    notify.ready()


@pytest.mark.parametrize("environ", [{}, {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "x"}])
def test_no_manager(environ: dict[str, str]) -> None:
    notify = Notifier(environ)
    notify.ready()
    notify.feed()
    assert not notify.active and notify.watchdog_seconds == 0


def test_signals_are_kept_once_however_many_come() -> None:
    box = SignalBox()
    box.install()
    try:
        for _ in range(100_000):
            os.kill(os.getpid(), HANDLED[0])
        os.kill(os.getpid(), HANDLED[1])
        assert box.take() == {HANDLED[0], HANDLED[1]}
        assert box.take() == set()
    finally:
        box.uninstall()


def test_the_next_life_has_more_patience_while_steps_go_on_leaving_things() -> None:
    slot = Slot(0)
    assert slot.patience == 0.0
    found = []
    for n in range(10):
        slot.was_soiled(NOW + n)
        found.append(slot.patience)
    assert found[:3] == [FIRST_PATIENCE, 2 * FIRST_PATIENCE, 4 * FIRST_PATIENCE]
    assert found[-1] == LONGEST_PATIENCE
    slot.was_soiled(NOW + 10 * LONGEST_PATIENCE)
    assert slot.patience == FIRST_PATIENCE


def test_a_full_disk_is_told_where_the_lock_is_taken(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(StoreUnavailable, match=f"cannot write {tmp_path}/lock: "):
            StateLock.take(str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    StateLock.take(str(tmp_path)).release()
