"""The supervisor with real forks and signals: starts, deaths, deadlines, the coordinator, orphans."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from supervised import Supervised
from support.processes import alive, descendants
from support.waiting import wait_until

from kubemin.steps.environment import instance_marker

Start = Callable[..., Supervised]


def title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()


def sockets(pid: int) -> list[str]:
    targets = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    return [target for target in targets if target.startswith("socket:")]


# --- start ------------------------------------------------------------------------------------------------------------


def test_ready_means_all_there(supervised: Supervised) -> None:
    assert sorted(supervised.workers()) == [0, 1, 2]
    header = supervised.header
    assert (header.ready, header.generation, header.max_workers, header.node) == (True, 1, 3, "here")
    assert title(supervised.pid) == "kubemin: supervisor [here local gen 1]"
    assert title(supervised.coordinator) == "kubemin: coordinator"
    assert (supervised.home / "run" / "kubemin.pid").read_text().split()[0] == str(supervised.pid)


def test_clean_stop_leaves_nothing(supervised: Supervised) -> None:
    tree = descendants(supervised.pid)
    assert supervised.stop() == 0
    assert not any(map(alive, tree))
    assert not (supervised.home / "run" / "kubemin.pid").exists()
    assert [m["type"] for m in supervised.told()][-5:] == ["stop", "died", "died", "died", "finish"]
    assert "STOPPING=1" in supervised.notify._take() + supervised.notify.seen


def test_term_while_starting(start: Start) -> None:
    daemon = start(ready=False, max_workers=40)
    wait_until(lambda: (daemon.home / "run" / "kubemin.pid").exists())
    assert daemon.stop() == 0


def test_workers_that_cannot_start_stop_the_daemon(start: Start) -> None:
    daemon = start(ready=False, plan={"die": [0, 1, 2]})
    assert daemon.wait() == 1
    assert "workers cannot start" in daemon.log and "exit code 7" in daemon.log


def test_one_worker_that_dies_young_is_restarted_with_pauses(start: Start) -> None:
    daemon = start(ready=False, plan={"die": [1]})
    wait_until(lambda: sorted(daemon.workers()) == [0, 2])
    wait_until(lambda: daemon.log.count("worker died young") >= 3)
    daemon.plan()
    daemon.wait_for_notify("READY=1")


def test_coordinator_with_unusable_store_stops_the_daemon(start: Start) -> None:
    daemon = start(ready=False, plan={"coordinator_exit": 3})
    assert daemon.wait() == 3
    assert "cannot use the store" in daemon.log


def test_coordinator_that_cannot_start_stops_the_daemon(start: Start) -> None:
    daemon = start(ready=False, plan={"coordinator_exit": 9})
    assert daemon.wait() == 1
    assert "the coordinator cannot start" in daemon.log


def test_second_daemon_is_refused(supervised: Supervised) -> None:
    second = Supervised()
    try:
        os.symlink(supervised.home / "state", second.home / "state")
        assert second.start(ready=False).wait() == 5
        assert f"in use by the daemon with pid {supervised.pid}" in second.log
    finally:
        second.close()
    assert sorted(supervised.workers()) == [0, 1, 2]


def test_start_waits_for_a_client_that_writes(start: Start, tmp_path: Path) -> None:
    daemon = Supervised()
    try:
        (daemon.home / "state").mkdir()
        hold = "import fcntl,sys; f=open(sys.argv[1],'w'); fcntl.flock(f,2); print(flush=True); sys.stdin.read()"
        client = subprocess.Popen(
            [sys.executable, "-c", hold, str(daemon.home / "state" / "lock")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert client.stdout is not None
        client.stdout.readline()
        daemon.start(ready=False)
        client.communicate()
        daemon.wait_for_notify("READY=1")
    finally:
        daemon.close()


# --- deaths of workers ------------------------------------------------------------------------------------------------


def respawn(supervised: Supervised, slot: int) -> float:
    """Kill a worker; seconds until the next one is there, as the scoreboard shows it."""
    old = supervised.slot(slot).pid
    begin = time.monotonic()
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: supervised.slot(slot).pid not in (old, 0))
    return time.monotonic() - begin


def test_killed_worker_is_told_and_replaced(supervised: Supervised) -> None:
    supervised.task(1, 42, seconds=60, run="run-1")
    old = supervised.slot(1).pid
    os.kill(old, signal.SIGKILL)
    died = supervised.wait_told("died", pid=old)
    assert died["record"] == {"run": "run-1", "idx": 0, "token": 42, "state": "running"}
    assert (died["status"], died["reason"], died["slot"]) == (signal.SIGKILL, None, 1)
    new = wait_until(lambda: (r := supervised.slot(1)).state == "idle" and r.pid != old and r)
    told = supervised.wait_told("worker", pid=new.pid)
    assert told["incarnation"] > died["incarnation"] and told["fds"] == 3


def respawn_times(supervised: Supervised, slots: Iterable[int], enough: float) -> list[float]:
    """Kill workers until one was replaced in time: the machine may be busy. A slot's third death waits on purpose."""
    took: list[float] = []
    for slot in [*slots, *slots]:
        if took and min(took) < enough:
            break
        took.append(respawn(supervised, slot))
    print(f"killed worker replaced after {', '.join(f'{t * 1000:.1f}' for t in took)} ms")
    return took


def test_killed_worker_is_replaced_within_50_ms(supervised: Supervised) -> None:
    assert min(respawn_times(supervised, (0, 1, 2), 0.05)) < 0.05


def test_exit_of_a_step_is_told_with_its_code(supervised: Supervised) -> None:
    old = supervised.slot(0).pid
    supervised.wait_told("worker", pid=old)
    supervised.order(slot=0, token=5, quit=0)
    died = supervised.wait_told("died", pid=old)
    assert (os.waitstatus_to_exitcode(died["status"]), died["record"]["state"]) == (0, "running")


def test_deadline_kills(supervised: Supervised) -> None:
    late = []
    for slot in range(3):
        old = supervised.slot(slot).pid
        supervised.task(slot, 7 + slot, seconds=60, deadline=0.3)
        deadline = supervised.slot(slot).deadline
        died = supervised.wait_told("died", pid=old)
        late.append(died["at"] + time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic() - deadline)
        assert died["reason"] == "deadline" and died["record"]["token"] == 7 + slot
    print(f"deadlines met {', '.join(f'{s * 1000:.1f}' for s in late)} ms late")
    assert 0 <= min(late) < 0.05


def test_kill_order_hits_only_the_task_that_is_meant(supervised: Supervised) -> None:
    supervised.task(2, 8, seconds=60)
    supervised.task(1, 5, seconds=60)
    record, other = supervised.slot(2), supervised.slot(1)
    kill = {"slot": 2, "incarnation": record.incarnation, "token": 9, "reason": "cancelled"}
    supervised.order(kill=kill)
    supervised.order(kill=kill | {"token": 8, "incarnation": record.incarnation - 1})
    supervised.order(kill={"slot": 0, "incarnation": supervised.slot(0).incarnation, "token": 9, "reason": "cancelled"})
    # Orders are carried out in order: when this one has been, the others have been looked at.
    supervised.order(kill={"slot": 1, "incarnation": other.incarnation, "token": 5, "reason": "cancelled"})
    supervised.wait_told("died", pid=other.pid)
    assert len(supervised.told("died")) == 1 and alive(record.pid)
    supervised.order(kill=kill | {"token": 8})
    assert supervised.wait_told("died", pid=record.pid)["reason"] == "cancelled"
    assert len(supervised.told("died")) == 2


def test_a_worker_holds_nobody_elses_channel(supervised: Supervised) -> None:
    """Its own three ends, and no socket of another worker, the coordinator or the service manager."""
    sockets = [
        os.readlink(f) for f in Path(f"/proc/{supervised.slot(2).pid}/fd").iterdir() if "socket:" in os.readlink(f)
    ]
    assert len(sockets) == 3
    coordinator = Path(f"/proc/{supervised.coordinator}/fd")
    inherited = [os.readlink(f) for f in coordinator.iterdir() if "socket:" in os.readlink(f)]
    assert len(inherited) == 1 + 1 + 3 * 3  # control, orders, what it was given


def test_descriptors_stay_flat(supervised: Supervised) -> None:
    before = supervised.descriptors()
    for _ in range(5):
        old = supervised.slot(0).pid
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: (r := supervised.slot(0)).state == "idle" and r.pid != old)  # noqa: B023
    wait_until(lambda: supervised.descriptors() == before, 15, what="the dead workers' descriptors to be closed")


# --- the coordinator --------------------------------------------------------------------------------------------------


def test_killed_coordinator_is_back_within_a_second(supervised: Supervised) -> None:
    supervised.task(0, 3, seconds=60)
    first = supervised.coordinator
    begin = time.monotonic()
    os.kill(first, signal.SIGKILL)
    attached = wait_until(lambda: [m for m in supervised.told("attached") if m["by"] != first])[0]
    print(f"coordinator back after {(attached['at'] - begin) * 1000:.1f} ms")
    assert attached["at"] - begin < 1
    told = [m for m in supervised.told("worker") if m["by"] == attached["by"]]
    assert sorted((m["slot"], m["fds"]) for m in told) == [(0, 3), (1, 3), (2, 3)]
    assert supervised.slot(0).token == 3, "tasks run on meanwhile"
    assert supervised.told("coordinator", by=attached["by"])[0]["predecessor"] == []


def test_death_that_the_coordinator_did_not_survive_is_told_again(supervised: Supervised) -> None:
    first = supervised.coordinator
    supervised.order(hang=60)
    victim = supervised.slot(1).pid
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: supervised.slot(1).pid not in (victim, 0))
    os.kill(first, signal.SIGKILL)
    died = supervised.wait_told("died", pid=victim)
    assert died["by"] != first
    mine = [m for m in supervised.told() if m["by"] == died["by"]]
    kinds = [m["type"] for m in mine]
    assert kinds.index("attached") < kinds.index("died")
    born = next(m for m in mine if m["type"] == "worker" and m["pid"] == victim)
    assert born["fds"] == 3, "its channel may hold its last report"


def test_hung_coordinator_delays_nothing(start: Start) -> None:
    """It waits without reading: reaps, respawns, deadlines and signals go on, and it is told everything afterwards."""
    daemon = start(max_workers=6)
    for slot in (3, 4, 5):
        daemon.task(slot, slot, seconds=60, deadline=1.0 + slot / 10)
    doomed = [daemon.slot(slot) for slot in (3, 4, 5)]
    daemon.order(hang_until="seen")
    killed = daemon.slot(0).pid
    took = respawn_times(daemon, (0, 1, 2), 0.05)
    late = [gone_at(record.pid) - record.deadline for record in doomed]
    print(f"deadlines met {', '.join(f'{s * 1000:.1f}' for s in late)} ms late beside a hung coordinator")
    assert min(took) < 0.05 and min(late) < 0.05
    request = daemon.request(signal.SIGTTIN, workers=7)
    assert daemon.outcome(request) == (True, "7 workers")
    assert daemon.told("died") == []
    daemon.let("seen")
    daemon.wait_told("died", pid=killed)
    for record in doomed:
        assert daemon.wait_told("died", pid=record.pid)["reason"] == "deadline"
    assert len({m["by"] for m in daemon.told("coordinator")}) == 1, "a hang is no death"


def gone_at(pid: int) -> float:
    """When a process ends (CLOCK_BOOTTIME), seen as it does; now, if it has."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    assert select.select([fd], [], [], 15)[0], f"process {pid} lives on"
    at = time.clock_gettime(time.CLOCK_BOOTTIME)
    os.close(fd)
    return at


def test_stopped_coordinator_is_replaced(supervised: Supervised) -> None:
    took: list[float] = []
    while not took or (min(took) > 1.0 and len(took) < 3):  # the machine may be busy
        known = {m["by"] for m in supervised.told("coordinator")}
        begin = time.monotonic()
        os.kill(supervised.coordinator, signal.SIGSTOP)
        again = wait_until(lambda: [m for m in supervised.told("coordinator") if m["by"] not in known])[0]  # noqa: B023
        took.append(again["at"] - begin)
    print(f"stopped coordinator replaced after {', '.join(f'{s:.2f}' for s in took)} s")
    assert min(took) < 1.0


# --- what is left over ------------------------------------------------------------------------------------------------


def test_orphans_of_a_dead_worker_are_killed(supervised: Supervised) -> None:
    supervised.task(0, 6, seconds=60, leave="daemon")
    left = [
        int(wait_until(lambda: (supervised.home / name).exists() and (supervised.home / name).read_text()))  # noqa: B023
        for name in ("daemon", "daemon-child")
    ]
    os.kill(supervised.slot(0).pid, signal.SIGKILL)
    wait_until(lambda: not any(map(alive, left)), 5, what="the end of what the worker left")


def test_supervisor_killed_and_restarted(supervised: Supervised) -> None:
    """Everything dies with it; the next start kills what carries the marker, and is told what was begun."""
    supervised.task(1, 77, seconds=60, run="run-x")
    marker = instance_marker(str(supervised.home / "state"))
    left = subprocess.Popen(["sleep", "300"], env={"KUBEMIN_INSTANCE": marker}, start_new_session=True)
    other = subprocess.Popen(["sleep", "300"], env={"KUBEMIN_INSTANCE": marker + "x"}, start_new_session=True)
    try:
        tree = descendants(supervised.pid)
        os.kill(supervised.pid, signal.SIGKILL)
        supervised.wait()
        wait_until(lambda: not any(map(alive, tree)), 5, what="the end of workers and coordinator")
        begin = time.monotonic()
        supervised.start()
        print(f"restarted and ready after {time.monotonic() - begin:.2f} s")
        assert left.wait(5) == -signal.SIGKILL
        assert other.poll() is None
        assert supervised.told("coordinator")[0]["predecessor"] == [["run-x", 0, 77]]
    finally:
        for process in (left, other):
            process.kill()
            process.wait()


def test_child_from_before_the_daemon_is_left_alone(start: Start) -> None:
    """A shell that became kubemind by exec: its children are reaped, not killed."""
    daemon = Supervised()
    try:
        program = Path(__file__).with_name("stand_in.py")
        line = f'sleep 300 & exec "{sys.executable}" "{program}" "{daemon.home}" \'{json.dumps(daemon.settings)}\''
        with (daemon.home / "log").open("ab") as log:
            daemon.process = subprocess.Popen(["sh", "-c", line], env=daemon.environ, stdout=log, stderr=log)
        daemon.wait_for_notify("READY=1")
        sleeper = next(pid for pid in descendants(daemon.pid) if title(pid).startswith("sleep"))
        os.kill(daemon.slot(0).pid, signal.SIGKILL)
        daemon.wait_told("died")
        assert alive(sleeper)
        os.kill(sleeper, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{sleeper}").exists(), 5, what="the child to be reaped")
        assert daemon.stop() == 0
    finally:
        daemon.close()


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_state_dump(supervised: Supervised) -> None:
    supervised.task(1, 12, seconds=60, label="nightly/extract")
    supervised.send(signal.SIGUSR1)
    wait_until(lambda: "state of a worker" in supervised.log and "nightly/extract" in supervised.log)


def test_watchdog_is_fed_while_the_loop_goes_round(start: Start) -> None:
    daemon = Supervised()
    try:
        daemon.environ = daemon.environ | {"WATCHDOG_USEC": "200000"}
        daemon.start()
        for _ in range(3):
            daemon.wait_for_notify("WATCHDOG=1")
        os.kill(daemon.pid, signal.SIGSTOP)
        daemon.notify._take()
        time.sleep(0.3)
        assert "WATCHDOG=1" not in daemon.notify._take(), "a stopped supervisor gives no sign of life"
        os.kill(daemon.pid, signal.SIGCONT)
        daemon.wait_for_notify("WATCHDOG=1")
    finally:
        daemon.close()
