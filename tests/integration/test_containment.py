"""Promise P8: when a step ends, for whatever reason, nothing of its process tree lives on. Without a control group."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from stepping import Bench, containment, in_worker, open_descriptors, processes_with

from kubemin.model.states import Cause, TaskState
from kubemin.processes import Process, has_children, look, send
from kubemin.steps.base import Ended
from kubemin.steps.containment.processes import descendants, kill_descendants

PYTHON = sys.executable
DOUBLE_FORK = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setpgid(0, 0)
        open(sys.argv[1], "w").write(str(os.getpid()))
        signal = __import__("signal"); signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1000)
    os._exit(0)
while not os.path.exists(sys.argv[1]): time.sleep(0.01)
"""
BOMB = """
import os, sys, time
mark, most = sys.argv[1], int(sys.argv[2])
def spread():
    for _ in range(3):
        try:
            if len(os.listdir(mark)) < most and os.fork() == 0:
                if os.getpid() % 3 == 0: os.setsid()
                open(f"{mark}/{os.getpid()}", "w").close()
                spread()
        except OSError:
            pass
spread()
while True:
    if len(os.listdir(mark)) >= most and os.getppid() == WORKER: os._exit(0)
    time.sleep(0.1)
"""


def alive(pid: int) -> bool:
    process = look(pid)
    return process is not None and not process.dead


def test_a_daemon_that_forked_away_twice_dies_with_its_step(tmp_path: Path) -> None:
    where = tmp_path / "pid"
    ended = in_worker(lambda: Bench(tmp_path).run({"run": [PYTHON, "-c", DOUBLE_FORK, str(where)]}))
    assert ended.state is TaskState.COMPLETED
    assert not alive(int(where.read_text()))


def test_a_daemon_of_a_step_that_was_killed(tmp_path: Path) -> None:
    where = tmp_path / "pid"
    work = {"run": [PYTHON, "-c", DOUBLE_FORK + "time.sleep(1000)", str(where)]}
    ended = in_worker(lambda: Bench(tmp_path).run(work, timeout=1.0))
    assert ended.state is TaskState.TIMEOUT
    assert not alive(int(where.read_text()))


def test_a_fork_bomb_of_a_few_hundred(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()

    def bomb() -> tuple[Ended, float]:
        code = BOMB.replace("WORKER", str(os.getpid()))
        started = time.monotonic()
        ended = Bench(tmp_path).run({"run": [PYTHON, "-c", code, str(marks), "150"]}, timeout=20.0)
        assert not has_children()
        return ended, time.monotonic() - started

    ended, seconds = in_worker(bomb)
    pids = [int(path.name) for path in marks.iterdir()]
    print(f"\n{len(pids)} processes, {ended.state}, {seconds:.1f} s")
    assert len(pids) >= 150  # its first process goes on until there are so many
    assert not any(alive(pid) for pid in pids)


def test_processes_that_fork_and_exit_without_end(tmp_path: Path) -> None:
    """A comet: each process lives for a moment, and a pid that was seen is dead when its signal comes."""
    word = f"comet-{os.getpid()}"
    script = f"import os\nif os.fork(): os._exit(0)  # {word}\nos.setsid()\nwhile os.fork() == 0: pass"

    def comet() -> float:
        bench = Bench(tmp_path)
        bench.run({"run": [PYTHON, "-c", script]})
        return time.monotonic()

    in_worker(comet, 30)
    assert processes_with(word) == []


def test_it_changes_its_group_its_name_and_its_niceness(tmp_path: Path) -> None:
    script = """
        import os, time, ctypes
        os.nice(5); os.setpgid(0, 0) if os.getpid() != os.getpgid(0) else None
        ctypes.CDLL(None).prctl(15, b"innocent) R 1 1", 0, 0, 0)
        if os.fork() == 0: os.setsid()
        ctypes.CDLL(None).prctl(15, b"innocent) R 1 1", 0, 0, 0)
        time.sleep(1000)
    """.replace("        ", "")
    started = time.monotonic()
    ended = in_worker(lambda: Bench(tmp_path).run({"run": [PYTHON, "-c", script]}, timeout=1.0))
    assert ended.state is TaskState.TIMEOUT
    assert time.monotonic() - started < 6


def test_stopped_leftovers_die_too(tmp_path: Path) -> None:
    def stopped() -> bool:
        Bench(tmp_path).shell("setsid sh -c 'kill -STOP $$; sleep 1000' & sleep 0.2")
        return has_children()

    assert in_worker(stopped) is False


def test_leftovers_of_a_python_step(tmp_path: Path) -> None:
    def leave() -> tuple[int, int, float]:
        import subprocess

        kind = containment()
        subprocess.Popen(["sh", "-c", "setsid sleep 1000 & sleep 1000"])
        while len(descendants()) < 3:
            time.sleep(0.01)
        killed = kind.kill_leftovers()
        started = time.perf_counter()
        for _ in range(1000):
            kind.kill_leftovers()
        return killed, len(descendants()), (time.perf_counter() - started) / 1000

    killed, left, nothing = in_worker(leave)
    print(f"\nkill_leftovers with nothing left: {nothing * 1e6:.2f} µs")
    assert killed >= 3
    assert left == 0
    assert nothing < 1e-3  # a look through all of /proc would take longer


def test_a_number_that_was_used_again_is_not_hit() -> None:
    def other() -> tuple[bool, bool]:
        pid = os.fork()
        if pid == 0:
            if (grandchild := os.fork()) == 0:
                signal.pause()
            os._exit(0 if grandchild else 1)
        os.waitpid(pid, 0)
        (process,) = descendants()
        stranger = Process(process.pid, 1, process.start - 100, "S")
        hit = send(stranger, signal.SIGKILL)
        living = alive(process.pid)
        kill_descendants()
        return hit, living

    assert in_worker(other) == (False, True)


def test_limits_are_refused_where_nothing_enforces_them(tmp_path: Path) -> None:
    ended = in_worker(lambda: Bench(tmp_path).run({"run": ["true"], "limits": {"memory": 1 << 30}}))
    assert (ended.state, ended.cause) == (TaskState.FAILED, Cause.START)
    assert ended.message == (
        "limits.memory needs a delegated cgroup v2 (systemd Delegate=yes); "
        "set limits.bestEffort: true to run without it"
    )


def test_limits_with_best_effort_are_recorded(tmp_path: Path) -> None:
    limits = {"memory": 1 << 30, "cpu": 0.5, "bestEffort": True}
    ended = in_worker(lambda: Bench(tmp_path).run({"run": ["true"], "limits": limits}))
    assert (ended.state, ended.unenforced) == (TaskState.COMPLETED, ("memory", "cpu"))


MEMORY_V1 = Path("/sys/fs/cgroup/memory")


@pytest.mark.skipif(not os.access(MEMORY_V1 / "cgroup.procs", os.W_OK), reason="needs a writable memory cgroup (v1)")
def test_a_kill_for_memory_is_told_from_others(tmp_path: Path) -> None:
    """The kernel's count of such kills, which every kernel has; made to happen by a group around the whole worker."""
    group = MEMORY_V1 / f"kubemin-test-{os.getpid()}"
    group.mkdir()

    def both() -> list[Cause | None]:
        (group / "memory.limit_in_bytes").write_text(str(100 << 20))
        (group / "cgroup.procs").write_text(str(os.getpid()))
        bench = Bench(tmp_path)
        # The group's largest is killed, and that may be this process, a fork of pytest: so it names itself.
        code = "open('/proc/self/oom_score_adj', 'w').write('1000'); x = bytearray(400 << 20)"
        return [bench.run({"run": [PYTHON, "-c", code]}).cause, bench.shell("kill -KILL $$").cause]

    try:
        assert in_worker(both) == [Cause.OOM, Cause.SIGNAL]
    finally:
        group.rmdir()


# --- calls ---


def _call(bench: Bench, function: Any, **options: Any) -> tuple[Ended, bytes | None]:
    return containment().call(function, bench.step({"python": "x:y"}, **options))


def test_a_call_returns_bytes_and_its_output_is_captured(tmp_path: Path) -> None:
    def work() -> bytes:
        print("printed")
        os.write(2, b"raw\n")
        return os.environ["GREETING"].encode()

    ended, result = in_worker(lambda: _call(Bench(tmp_path), work, environ={"GREETING": "hi"}))
    assert (ended.state, result) == (TaskState.COMPLETED, b"hi")
    assert (ended.stdout, ended.stderr) == ("printed\n", "raw\n")


def _raise(error: BaseException) -> bytes:
    raise error


@pytest.mark.parametrize(
    ("error", "cause", "message"),
    [
        (ValueError("bad"), Cause.EXCEPTION, "ValueError: bad"),
        (OSError(2, "gone"), Cause.EXCEPTION, "FileNotFoundError: [Errno 2] gone"),
        (MemoryError(), Cause.OOM, "MemoryError"),
        (SystemExit(3), Cause.EXIT, "exit code 3"),
        (KeyboardInterrupt(), Cause.EXCEPTION, "KeyboardInterrupt"),
    ],
)
def test_a_call_that_raises(tmp_path: Path, error: BaseException, cause: Cause, message: str) -> None:
    ended, result = in_worker(lambda: _call(Bench(tmp_path), lambda: _raise(error)))
    assert (ended.state, ended.cause, ended.message, result) == (TaskState.FAILED, cause, message, None)
    assert cause is Cause.EXIT or "Traceback" in ended.stderr


def test_a_call_with_too_large_a_result(tmp_path: Path) -> None:
    ended, result = in_worker(lambda: _call(Bench(tmp_path), lambda: b"x" * (2 << 20)))
    assert (ended.state, ended.cause, result) == (TaskState.FAILED, Cause.OUTPUT, None)


def test_a_call_that_dies_hangs_or_leaves_children(tmp_path: Path) -> None:
    def leave() -> bytes:
        if os.fork() == 0:
            os.setsid()
            time.sleep(1000)
        return b"done"

    def all_three() -> list[Any]:
        bench = Bench(tmp_path)
        before = open_descriptors()
        return [
            _call(bench, lambda: os.kill(os.getpid(), signal.SIGSEGV))[0].cause,
            _call(bench, lambda: time.sleep(1000), timeout=0.3)[0].cause,
            _call(bench, leave)[1],
            has_children(),
            before == open_descriptors(),
        ]

    assert in_worker(all_three) == [Cause.SIGNAL, Cause.TIMEOUT, b"done", False, True]


def test_a_call_has_none_of_the_workers_descriptors(tmp_path: Path) -> None:
    def look() -> bytes:
        links = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if int(name) > 2]
        return "\n".join(link for link in links if "socket:" in link or "/tmp/" in link).encode()

    def with_socket() -> tuple[Ended, bytes | None]:
        import socket

        pair = socket.socketpair()
        answer = _call(Bench(tmp_path), look)
        pair[0].close()
        return answer

    assert in_worker(with_socket)[1] == b""
