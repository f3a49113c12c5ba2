"""Containment by control groups: each limit bites, one write kills everything, nothing is left over."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from stepping import Bench, containment, in_worker, open_descriptors, processes_with, wait_until

from kubemin.model.states import Cause, TaskState
from kubemin.processes import has_children, look
from kubemin.steps.base import Ended
from kubemin.steps.containment import delegation, find_delegated, kill_slot, prepare_delegation
from kubemin.steps.containment.delegation import Delegation
from kubemin.steps.containment.group import GroupContainment
from kubemin.steps.containment.groups import ControlGroup

PYTHON = sys.executable
MIB = 1 << 20
DAEMON = """
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open(sys.argv[1], "w").write(str(os.getpid()))
        time.sleep(1000)
    os._exit(0)
while not os.path.exists(sys.argv[1]) or not open(sys.argv[1]).read(): time.sleep(0.01)
"""


@pytest.fixture(autouse=True)
def nothing_left_over(delegated: Delegation) -> Any:
    yield
    assert delegated.root.children() == ["daemon"]


def run(home: Path, work: dict[str, Any], **options: Any) -> Ended:
    return in_worker(lambda: Bench(home).run(work, **options))


def alive(pid: int) -> bool:
    process = look(pid)
    return process is not None and not process.dead


def test_the_strongest_kind_is_chosen(delegated: Delegation, tmp_path: Path) -> None:
    print(f"\n{delegated.root.path}: {sorted(delegated.controllers)}")
    assert containment().kind == "cgroup"
    assert delegated.controllers == {"memory", "cpu", "pids"}
    with open("/proc/self/cgroup") as file:
        assert f"0::{delegated.root.path}/daemon" in file.read().splitlines()
    ended = run(tmp_path, {"shell": "cat /proc/self/cgroup"})
    assert f"0::{delegated.root.path}/step-0\n" in ended.stdout


def test_preparing_again_changes_nothing(delegated: Delegation) -> None:
    assert prepare_delegation() is delegated
    assert delegation() is delegated
    assert find_delegated()[0] is not None


def test_memory(tmp_path: Path) -> None:
    code = "x = bytearray(300 << 20)"
    ended = run(tmp_path, {"run": [PYTHON, "-c", code], "limits": {"memory": 64 * MIB}})
    print(f"\n{ended.state} {ended.cause} {ended.message!r} {ended.usage}")
    assert (ended.state, ended.cause, ended.signal) == (TaskState.FAILED, Cause.OOM, signal.SIGKILL)
    assert ended.message == "killed by the kernel: it needed more than limits.memory (64 MiB)"
    assert ended.usage is not None
    assert ended.usage.memory <= 64 * MIB


def test_memory_of_a_child_ends_the_whole_step(tmp_path: Path) -> None:
    script = f"{PYTHON} -c 'x = bytearray(300 << 20)' || true; echo survived"
    ended = run(tmp_path, {"shell": script, "limits": {"memory": 64 * MIB}})
    assert (ended.state, ended.cause, ended.stdout) == (TaskState.FAILED, Cause.OOM, "")


def test_memory_within_the_limit(tmp_path: Path) -> None:
    ended = run(tmp_path, {"run": [PYTHON, "-c", "x = bytearray(30 << 20)"], "limits": {"memory": 100 * MIB}})
    print(f"\n{ended.usage}")
    assert ended.state is TaskState.COMPLETED
    assert ended.usage is not None


def test_memory_of_a_call(tmp_path: Path) -> None:
    def eat() -> bytes:
        return b"x" * len(bytearray(300 << 20))

    def call() -> tuple[Ended, bytes | None]:
        bench = Bench(tmp_path)
        return containment().call(eat, bench.step({"python": "x:y", "limits": {"memory": 64 * MIB}}))

    ended, result = in_worker(call)
    assert (ended.state, ended.cause, result) == (TaskState.FAILED, Cause.OOM, None)


def test_a_fork_bomb_is_stopped_and_the_others_live(tmp_path: Path) -> None:
    mark = f"bomb-{os.getpid()}"
    bomb = f"f() {{ f | f & : {mark}; }}; f; while :; do sh -c 'sleep 100; : {mark}' & sleep 0.01; done"

    def neighbour() -> Ended:
        return Bench(tmp_path, kind=containment(slot=1)).shell("for i in 1 2 3; do sleep 0.5; echo $i; done")

    def both() -> tuple[Ended, int, str]:
        reader, writer = os.pipe()
        if (pid := os.fork()) == 0:
            os.close(reader)
            ended = in_worker(neighbour)
            os.write(writer, f"{ended.state} {ended.stdout}".encode())
            os._exit(0)
        os.close(writer)
        ended = in_worker(lambda: Bench(tmp_path).shell(bomb, work={"limits": {"pids": 30}}, timeout=3.0))
        beside = os.read(reader, 1000).decode()
        os.waitpid(pid, 0)
        return ended, len(processes_with(mark)), beside

    ended, left, beside = in_worker(both)
    print(
        f"\nbomb: {ended.state} {ended.cause}; its last words: {ended.stderr.splitlines()[-1:]}; beside it: {beside!r}"
    )
    assert ended.state in (TaskState.TIMEOUT, TaskState.FAILED)
    assert left == 0
    assert beside == "completed 1\n2\n3\n"


def test_pids(tmp_path: Path) -> None:
    code = """
import os, time
made = 0
try:
    while made < 200:
        if os.fork() == 0: time.sleep(100)
        made += 1
except OSError as exc:
    print(made, exc.errno)
"""
    ended = run(tmp_path, {"run": [PYTHON, "-c", code], "limits": {"pids": 20}})
    assert ended.stdout == "19 11\n"  # EAGAIN


def test_cpu(tmp_path: Path) -> None:
    code = "import time; end = time.monotonic() + 4\nwhile time.monotonic() < end: pass"

    def timed() -> tuple[Ended, float]:
        started = time.monotonic()
        ended = Bench(tmp_path).run({"run": [PYTHON, "-c", code], "limits": {"cpu": 0.25}})
        return ended, time.monotonic() - started

    ended, seconds = in_worker(timed)
    assert ended.usage is not None
    print(f"\nlimits.cpu 0.25: {ended.usage.cpu:.2f} s of CPU in {seconds:.2f} s")
    assert ended.usage.cpu < 0.5 * seconds


def test_a_daemon_that_forked_away_twice(tmp_path: Path) -> None:
    where = tmp_path / "pid"
    ended = run(tmp_path, {"run": [PYTHON, "-c", DAEMON, str(where)]})
    assert ended.state is TaskState.COMPLETED
    assert not alive(int(where.read_text()))


@pytest.mark.parametrize("how", ["kill_all", "_kill_frozen"])
def test_one_kill_takes_everything(delegated: Delegation, tmp_path: Path, how: str) -> None:
    """By the control group alone: the processes are not below the one that kills. `_kill_frozen` is for old kernels."""
    where = tmp_path / "pid"
    group = delegated.root.child("step-7")

    def forked_away() -> None:
        group.make()
        if os.fork() == 0:
            group.add_self()
            os.execv(PYTHON, [PYTHON, "-c", DAEMON, str(where)])
        assert wait_until(lambda: where.exists() and where.read_text() != "")

    in_worker(forked_away)
    pid = int(where.read_text())
    assert pid in group.members()
    getattr(group, how)()
    assert group.await_empty(5)
    assert not alive(pid)
    assert group.remove()


def test_time_is_up(tmp_path: Path) -> None:
    deaf = "setsid sh -c 'trap \"\" TERM; while :; do sleep 1 || true; done' &"
    script = f"trap 'echo asked' TERM; {deaf} while :; do sleep 0.1 || true; done"
    ended = run(tmp_path, {"shell": script}, timeout=2.0, kill_grace=1.0)
    assert (ended.state, ended.signal) == (TaskState.TIMEOUT, signal.SIGKILL)
    assert "asked" in ended.stdout


def test_groups_that_the_step_made_itself_go_too(delegated: Delegation, tmp_path: Path) -> None:
    path = delegated.root.child("step-0").directory
    script = f"mkdir -p {path}/own/deeper; echo 0 > {path}/own/deeper/cgroup.procs; sleep 1000 & exit 0"
    assert run(tmp_path, {"shell": script}).state is TaskState.COMPLETED


def test_what_a_predecessor_left_is_killed_at_the_start(delegated: Delegation, tmp_path: Path) -> None:
    group = delegated.root.child("step-9")
    pid_file = tmp_path / "pid"

    def leave() -> None:
        group.make()
        if os.fork() == 0:
            group.add_self()
            os.setsid()
            pid_file.write_text(str(os.getpid()))
            os.execvp("sleep", ["sleep", "1000"])
        assert wait_until(lambda: pid_file.exists() and pid_file.read_text() != "")

    def start() -> tuple[str, list[str]]:
        sys.modules["kubemin.steps.containment.delegation"]._prepared = None  # type: ignore[attr-defined]
        again = prepare_delegation()
        assert again is not None
        return again.root.path, again.root.children()

    in_worker(leave)
    assert in_worker(start) == (delegated.root.path, ["daemon"])
    assert not alive(int(pid_file.read_text()))


def test_a_worker_killed_in_mid_step(delegated: Delegation, tmp_path: Path) -> None:
    """The supervisor's part is one write; the slot's next worker finds nothing."""
    where = tmp_path / "pid"
    code = DAEMON + "time.sleep(1000)"

    def killed() -> bool:
        if (worker := os.fork()) == 0:
            Bench(tmp_path).run({"run": [PYTHON, "-c", code, str(where)]})
        assert wait_until(lambda: where.exists() and where.read_text() != "")
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
        kill_slot(0)
        return wait_until(lambda: not alive(int(where.read_text())))

    assert in_worker(killed)
    assert run(tmp_path, {"run": ["true"]}).state is TaskState.COMPLETED


def test_nothing_is_left_after_many_steps(delegated: Delegation, tmp_path: Path) -> None:
    def many() -> tuple[bool, bool, float, float]:
        bench, plain = Bench(tmp_path), Bench(tmp_path, kind=GroupContainment(0, 1000))
        bench.shell("true")
        before = open_descriptors()
        alone, without = _seconds_a_step(bench), _seconds_a_step(plain)
        bench.shell("setsid sleep 1000 & exit 3")
        bench.run({"run": ["./none"]})
        return before == open_descriptors(), has_children(), alone, without

    same, children, alone, without = in_worker(many)
    print(f"\n{alone * 1000:.1f} ms a step in a control group of its own, {without * 1000:.1f} ms without")
    assert (same, children) == (True, False)


def _seconds_a_step(bench: Bench) -> float:
    started = time.monotonic()
    for _ in range(30):
        assert bench.run({"run": ["true"]}).state is TaskState.COMPLETED
    return (time.monotonic() - started) / 30


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_step_of_another_user_is_contained_too(delegated: Delegation, tmp_path: Path) -> None:
    script = f"id -un; cat /proc/self/cgroup; echo 0 2>&1 > {delegated.root.directory}/daemon/cgroup.procs || echo kept"
    ended = run(tmp_path, {"shell": script, "limits": {"pids": 20}}, directory="/", user="nobody")
    out = ended.stdout.splitlines()
    assert out[0] == "nobody"
    assert f"0::{delegated.root.path}/step-0" in out
    assert out[-1] == "kept"


def test_a_group_that_has_gone_does_not_matter() -> None:
    gone = ControlGroup("/sys/fs/cgroup", "/no/such/group")
    gone.kill_all()
    assert gone.await_empty(1)
    assert gone.remove()
    assert gone.members() == []
