"""The supervisor's control: stop, reload, size, drain, with real forks and signals."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from supervised import Supervised
from support.processes import alive, descendants
from support.waiting import wait_until

from kubemin.errors import Unreachable
from kubemin.supervisor import pidfile, wanted

Start = Callable[..., Supervised]


# --- stop -------------------------------------------------------------------------------------------------------------


def test_term_lets_a_step_end(start: Start) -> None:
    after = []
    while not after or (min(after) > 0.1 and len(after) < 4):  # the machine may be busy
        daemon = start(graceful_timeout=60.0)
        daemon.task(1, 5, until="done")
        daemon.send(signal.SIGTERM)
        wait_until(lambda: sorted(daemon.workers()) == [1], what="idle workers to go at once")  # noqa: B023
        daemon.let("done")
        assert daemon.wait() == 0
        after.append(time.monotonic() - daemon.wait_told("ran", token=5)["at"])
        assert [m["reason"] for m in daemon.told("died")] == [None] * 3
    print(f"gone {', '.join(f'{s * 1000:.0f}' for s in after)} ms after the step's end")
    assert min(after) < 0.1


def test_end_of_the_grace_period_interrupts(start: Start) -> None:
    daemon = start(graceful_timeout=0.5)
    daemon.task(0, 5, seconds=60)
    begin = time.monotonic()
    assert daemon.stop() == 0
    assert 0.4 < time.monotonic() - begin < 3
    assert daemon.told("ran") == []
    assert daemon.told("finish")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_int_has_no_grace(supervised: Supervised, number: signal.Signals) -> None:
    supervised.task(0, 5, seconds=60)
    begin = time.monotonic()
    assert supervised.stop(number) == 0
    assert time.monotonic() - begin < 2


def test_second_term_ends_the_grace(start: Start) -> None:
    daemon = start(graceful_timeout=60.0)
    daemon.task(0, 5, seconds=60)
    daemon.send(signal.SIGTERM)
    wait_until(lambda: daemon.header.stopping)
    begin = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - begin < 2


def test_what_does_not_end_is_killed_for_the_drain(start: Start) -> None:
    """The worker blocks INT: after ten more seconds it is killed, and the coordinator hears why."""
    daemon = start()
    daemon.task(0, 5, seconds=60, stubborn=True)
    assert daemon.stop(signal.SIGINT) == 0
    died = [m for m in daemon.told("died") if m["slot"] == 0]
    assert (died[0]["reason"], died[0]["record"]["token"]) == ("drain", 5)


def test_coordinator_that_dies_during_the_stop_is_replaced(supervised: Supervised) -> None:
    supervised.task(0, 5, seconds=1)
    supervised.send(signal.SIGTERM)
    wait_until(lambda: supervised.header.stopping)
    first = supervised.coordinator
    os.kill(first, signal.SIGKILL)
    assert supervised.wait() == 0
    last = supervised.told("coordinator")[-1]["by"]
    assert last != first
    kinds = [m["type"] for m in supervised.told(by=last)]
    assert kinds[-1] == "finish" and "stop" in kinds


def test_stop_extends_the_service_managers_patience(start: Start) -> None:
    daemon = start(graceful_timeout=30.0)
    daemon.task(0, 5, seconds=60)
    daemon.send(signal.SIGTERM)
    wait_until(lambda: daemon.notify._take() and any("EXTEND_TIMEOUT_USEC" in m for m in daemon.notify.seen))


# --- reload -----------------------------------------------------------------------------------------------------------


def test_reload_replaces_all_workers_without_losing_capacity(supervised: Supervised) -> None:
    before = supervised.workers()
    low, looks = [3], [0]
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            begin = time.monotonic()
            seen = len(supervised.workers())
            if time.monotonic() - begin < 0.02:  # else it is no one moment that was seen
                low[0], looks[0] = min(low[0], seen), looks[0] + 1

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        request = supervised.request(signal.SIGHUP)
        ok, text = supervised.outcome(request)
        assert ok, text
        wait_until(lambda: "all workers were replaced" in supervised.log)
        wait_until(lambda: sorted(supervised.workers()) == [0, 1, 2], what="the canary to go")
    finally:
        done.set()
        watcher.join()
    print(f"fewest workers during the reload: {low[0]} of 3")
    assert low[0] >= 2 and looks[0] > 10
    after = supervised.workers()
    assert not set(before.values()) & set(after.values())
    assert all(supervised.slot(n).generation == 2 for n in range(3))
    assert supervised.header.generation == 2 and supervised.header.reload_ok
    supervised.wait_told("reload")
    assert any(m.startswith("RELOADING=1\nMONOTONIC_USEC=") for m in supervised.notify._take() + supervised.notify.seen)


def test_reload_cuts_no_step_short(supervised: Supervised) -> None:
    supervised.task(1, 5, until="done")
    busy = supervised.slot(1).pid
    assert supervised.outcome(supervised.request(signal.SIGHUP))[0]
    wait_until(lambda: supervised.slot(0).generation == 2 and supervised.slot(2).generation == 2)
    assert supervised.slot(1).pid == busy and supervised.slot(1).token == 5
    supervised.let("done")
    supervised.wait_told("ran", token=5)
    wait_until(lambda: supervised.slot(1).generation == 2)


def test_a_canary_in_a_slot_of_a_pool_that_grew_is_forked_once(supervised: Supervised) -> None:
    """While a busy worker keeps the reload from its end, the slot of the canary becomes one of the pool's."""
    supervised.task(1, 5, until="done")
    assert supervised.outcome(supervised.request(signal.SIGHUP))[0]
    assert supervised.outcome(supervised.request(signal.SIGTTIN, workers=4))[0]
    canary = wait_until(lambda: supervised.workers().get(3), what="the canary")
    os.kill(canary, signal.SIGKILL)
    wait_until(lambda: supervised.workers().get(3, canary) != canary, what="its successor")
    supervised.let("done")
    wait_until(lambda: "all workers were replaced" in supervised.log)
    wait_until(lambda: len(descendants(supervised.pid)) == 4 + 1, what="four workers and a coordinator")
    assert len(supervised.told("worker", slot=3)) == 2


def test_reload_takes_over_settings(supervised: Supervised) -> None:
    supervised.check(settings={"max_workers": 5})
    assert supervised.outcome(supervised.request(signal.SIGHUP))[0]
    wait_until(lambda: sorted(supervised.workers()) == [0, 1, 2, 3, 4])


def test_invalid_configuration_changes_nothing(supervised: Supervised) -> None:
    before = supervised.workers()
    supervised.check(problems=["is 0; use 1 to 1024"])
    ok, text = supervised.outcome(supervised.request(signal.SIGHUP))
    assert not ok and "is 0; use 1 to 1024" in text
    assert (supervised.header.generation, supervised.workers()) == (1, before)
    assert supervised.told("reload")[1:] == [], "only the one of the start"


def test_check_that_crashes_changes_nothing(supervised: Supervised) -> None:
    supervised.check(crash=True)
    ok, text = supervised.outcome(supervised.request(signal.SIGHUP))
    assert not ok and "exit code 9" in text
    assert supervised.header.generation == 1


def test_canary_that_cannot_start_keeps_the_old_generation(supervised: Supervised) -> None:
    before = supervised.workers()
    kept = (supervised.home / "run" / "settings.json").read_bytes()
    supervised.plan(die_generation=[2])
    ok, text = supervised.outcome(supervised.request(signal.SIGHUP))
    assert not ok and "exit code 7" in text and "the old ones stay" in text
    assert (supervised.header.generation, supervised.workers()) == (1, before)
    assert (supervised.home / "run" / "settings.json").read_bytes() == kept
    supervised.plan()
    assert supervised.outcome(supervised.request(signal.SIGHUP))[0]


def test_storm_of_hups_is_a_few_reloads(supervised: Supervised) -> None:
    supervised.check(seconds=0.2)
    for _ in range(1000):
        supervised.send(signal.SIGHUP)
    request = supervised.request(signal.SIGHUP)
    assert supervised.outcome(request)[0]
    checks = len(supervised.told("check"))
    print(f"1001 HUPs: {checks} checks")
    assert checks <= 5
    wait_until(lambda: sorted(supervised.workers()) == [0, 1, 2])


def test_hup_while_stopping_is_refused(supervised: Supervised) -> None:
    supervised.task(0, 5, seconds=1)
    supervised.send(signal.SIGTERM)
    wait_until(lambda: supervised.header.stopping)
    ok, text = supervised.outcome(supervised.request(signal.SIGHUP))
    assert (ok, text) == (False, "the daemon is stopping")
    assert supervised.wait() == 0


def test_term_during_a_reload(supervised: Supervised) -> None:
    supervised.check(seconds=30)
    request = supervised.request(signal.SIGHUP)
    supervised.wait_told("check")
    tree = descendants(supervised.pid)
    assert supervised.stop() == 0
    assert not any(map(alive, tree))
    assert supervised.header.request == request and not supervised.header.outcome_ok


def test_worker_that_recycles_itself_is_replaced_at_once(supervised: Supervised) -> None:
    for token in range(1, 6):
        old = supervised.slot(0).pid
        supervised.wait_told("worker", pid=old)
        supervised.order(slot=0, token=token, quit=0)
        wait_until(lambda: (r := supervised.slot(0)).state == "idle" and r.pid != old and r, 2)  # noqa: B023


# --- size and drain ---------------------------------------------------------------------------------------------------


def test_scale_up_and_down(supervised: Supervised) -> None:
    assert supervised.outcome(supervised.request(signal.SIGTTIN, workers=6)) == (True, "6 workers")
    wait_until(lambda: sorted(supervised.workers()) == [0, 1, 2, 3, 4, 5])
    assert supervised.outcome(supervised.request(signal.SIGTTOU, workers=2)) == (True, "2 workers")
    wait_until(lambda: sorted(supervised.workers()) == [0, 1])
    assert supervised.header.max_workers == 2
    ok, text = supervised.outcome(supervised.request(signal.SIGTTOU, workers=0))
    assert not ok and "1 to 1024" in text


def test_plain_ttin_and_ttou(supervised: Supervised) -> None:
    supervised.send(signal.SIGTTIN)
    wait_until(lambda: len(supervised.workers()) == 4)
    supervised.send(signal.SIGTTOU)
    wait_until(lambda: len(supervised.workers()) == 3)


def test_smaller_while_all_are_busy(supervised: Supervised) -> None:
    for n in range(3):
        supervised.task(n, 10 + n, seconds=1)
    supervised.request(signal.SIGTTOU, workers=1)
    for n in range(3):
        supervised.wait_told("ran", token=10 + n)
    wait_until(lambda: sorted(supervised.workers()) == [0])


def test_drain(supervised: Supervised) -> None:
    assert supervised.outcome(supervised.request(signal.SIGUSR2, drained=True)) == (True, "drained")
    assert supervised.header.drained
    assert supervised.wait_told("drain")["on"] is True
    first = supervised.coordinator
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: len(supervised.told("drain", on=True)) == 2, what="a new coordinator to be told")
    supervised.send(signal.SIGUSR2)
    wait_until(lambda: not supervised.header.drained)
    assert supervised.wait_told("drain", on=False)["by"] != first
    assert len(supervised.workers()) == 3


# --- pid file, wanted.json --------------------------------------------------------------------------------------------


def test_pid_file_never_names_a_stranger(tmp_path: Path) -> None:
    path = str(tmp_path / "pid")
    assert pidfile.read_live(path) is None
    pidfile.write(path)
    assert pidfile.read_live(path) == os.getpid()
    start = int(Path(path).read_text().split()[1])
    with subprocess.Popen(["sleep", "60"]) as stranger:
        Path(path).write_text(f"{stranger.pid} {start}\n")  # the pid was used again
        assert pidfile.read_live(path) is None
        with pytest.raises(Unreachable, match="not running"):
            pidfile.send(path, signal.SIGKILL)
        pidfile.remove(path)
        assert Path(path).exists(), "it is not ours to remove"
        assert stranger.poll() is None
        stranger.kill()
    for junk in ("", "x", "1", "-5 3\n", "99999999 1\n"):
        Path(path).write_text(junk)
        assert pidfile.read_live(path) is None


def test_pid_file_of_a_zombie_is_stale(tmp_path: Path) -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    start = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
    (tmp_path / "pid").write_text(f"{child.pid} {start}\n")
    assert pidfile.read_live(str(tmp_path / "pid")) is None
    child.wait()


def test_wanted_survives_junk(tmp_path: Path) -> None:
    assert wanted.read(str(tmp_path)) is None
    wanted.write(str(tmp_path), wanted.Wanted("r", 4, True))
    assert wanted.read(str(tmp_path)) == wanted.Wanted("r", 4, True)
    for junk in (b"", b"{", b'{"workers": "x"}', b"\xff" * 100_000):
        (tmp_path / "wanted.json").write_bytes(junk)
        assert wanted.read(str(tmp_path)) is None
