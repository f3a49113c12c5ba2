"""Python steps in a real worker: results, failures, output, what a task can ask. What one must not leave behind is in
`test_python_leftovers.py`."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from worker_harness import WorkerProcess

from kubemin.config.settings import Output, Python
from kubemin.model.states import Cause, TaskState

FUNCTIONS = """
import math, os, signal, subprocess, sys, threading, time
from datetime import date

def add(a, b=0): return a + b
def give(what):
    return {
        "nan": math.nan, "inf in list": [1, -math.inf], "set": {1}, "bytes": b"x", "int key": {1: 2},
        "date": date(2026, 11, 24), "nested": {"a": [{"b": (1, {2})}]}, "object": object(),
        "large": "x" * 65537, "surrogate": "\\ud800", "huge": 2 ** 80, "tuple": (1, (2, 3)),
        "none": None, "text": "grüß", "float": 1.5,
    }[what]
def deep(levels):
    value = []
    for _ in range(levels - 1): value = [value]
    return value
def hold(megabytes): return len(bytearray(megabytes << 20))
def spend(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end: pass
def fail(): raise ValueError("no such\\nplace")
def fail_oddly():
    class Odd(Exception):
        def __str__(self): raise RuntimeError
    raise Odd
def fail_on_a_name(): raise ValueError("caf\\udce9 \\ud800")
def leave(code=None): sys.exit(code)
def leave_on_a_name(): sys.exit("caf\\udce9")
def interrupt(): raise KeyboardInterrupt
def no_memory(): raise MemoryError("10 TiB")
def recurse(): return recurse()
async def later(): return 1

def speak():
    print("from print")
    os.write(1, b"from os.write\\n")
    subprocess.run(["sh", "-c", "echo from a child; echo its error >&2"], check=True)
    sys.stderr.write("half ")
    sys.stderr.write("line\\n")
    sys.stdout.buffer.write(b"bytes \\xff\\n")
    print("no newline", end="")
def speak_c(text):
    import ctypes
    libc = ctypes.CDLL(None)
    libc.printf(text.encode() + b"\\n")
def flood(megabytes):
    subprocess.run(["sh", "-c", f"yes xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx | head -c {megabytes}M"], check=True)
    with open("/proc/self/status") as f: status = f.read()
    blocks = max(os.fstat(n).st_blocks for n in (1, 2)) * 512
    return {"peak": int(status.split("VmHWM:")[1].split()[0]) * 1024, "blocks": blocks}
def flood_python(megabytes):
    line = "x" * 1023
    for _ in range(megabytes * 1024): print(line)
    with open("/proc/self/status") as f: return int(f.read().split("VmHWM:")[1].split()[0]) * 1024
def environ(*names): return [os.environ.get(n) for n in names]
def tell(name):
    print("the secret is", os.environ[name])
    return {"dsn": ["pw=" + os.environ[name], 7], os.environ[name]: None}

def tell_late(name): raise ConnectionError("x" * 1980 + os.environ[name] + "y" * 100_000)
def tell_by_raising(name):
    raise ConnectionError("refused for " + os.environ[name])
    return name

def task():
    import kubemin.task
    t = kubemin.task.current_task()
    t.progress(0.5)
    return [t.id, t.run, t.step, t.token, t.attempt, t.cancelled, 0 < t.deadline_seconds <= 30]
def until_cancelled(how="return"):
    import kubemin.task
    t = kubemin.task.current_task()
    while not t.cancelled: time.sleep(0.005)
    if how == "raise": raise RuntimeError("stopping")
    return "partial"
def touch_and_wait(path, seconds=30):
    try:
        open(path, "w").close()
        time.sleep(seconds)
    finally:
        open(path + ".cleaned", "w").close()
    return "done"
def swallow(path):
    try:
        open(path, "w").close()
        time.sleep(30)
    except BaseException:
        return "swallowed"
def touch_and_wait_for(path, other):
    open(path, "w").close()
    until = time.monotonic() + 30
    while not os.path.exists(other) and time.monotonic() < until:
        time.sleep(0.005)

def wrap(path):
    try:
        open(path, "w").close()
        time.sleep(30)
    except BaseException as e:
        raise RuntimeError("wrapped") from e

def streams(): sys.stdout = sys.stderr = None
def die(how):
    if how == "segv": os.kill(os.getpid(), signal.SIGSEGV)
    os._exit(0)
"""


# --- results ----------------------------------------------------------------------------------------------------------


def test_arguments_and_result(worker: WorkerProcess) -> None:
    outcome = worker.run("add", 1, b=2)
    assert (outcome.state, outcome.cause, bytes(outcome.output or b"")) == (TaskState.COMPLETED, None, b"3")
    assert outcome.started <= outcome.finished
    assert outcome.usage is not None and outcome.usage.memory > 1_000_000
    assert worker.run("give", "none").output is None


def test_the_memory_of_a_step_is_not_that_of_the_one_before(worker: WorkerProcess) -> None:
    """However soon it comes: all wait in the channel when the first begins."""
    os.kill(worker.pid, signal.SIGSTOP)
    for megabytes in (0, 20, 0):
        worker.call("hold", megabytes)
    os.kill(worker.pid, signal.SIGCONT)
    before, large, after = (usage.memory for _ in range(3) if (usage := worker.outcome().usage))
    assert large - before > 15_000_000 and large - after > 15_000_000
    spent = worker.run("spend", 0.05).usage
    assert spent is not None and 0.05 <= spent.cpu < 0.5


@pytest.mark.parametrize(("what", "value"), [("tuple", [1, [2, 3]]), ("huge", 2**80), ("text", "grüß"), ("float", 1.5)])
def test_json_results(worker: WorkerProcess, what: str, value: Any) -> None:
    assert json.loads(bytes(worker.run("give", what).output or b"")) == value


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nan", "the result is nan"),
        ("inf in list", "the result[1] is -inf"),
        ("set", "type set"),
        ("bytes", "type bytes"),
        ("int key", "the key 1"),
        ("date", "type date"),
        ("nested", "the result.a[0].b[1] is of type set"),
        ("object", "no JSON form"),
        ("large", "65539 bytes"),
        ("surrogate", "no JSON form"),
    ],
)
def test_what_json_cannot_hold_is_refused(worker: WorkerProcess, what: str, message: str) -> None:
    outcome = worker.run("give", what)
    assert (outcome.state, outcome.cause) == (TaskState.FAILED, Cause.OUTPUT)
    assert message in outcome.message


def test_nesting_without_end_and_coroutines_are_refused(worker: WorkerProcess) -> None:
    assert worker.run("deep", 100).state is TaskState.COMPLETED
    for levels in (101, 100_000):
        outcome = worker.run("deep", levels)
        assert outcome.cause is Cause.OUTPUT and "deeper than 100" in outcome.message
    assert "coroutine" in worker.run("later").message


# --- failures ---------------------------------------------------------------------------------------------------------


def test_an_exception_is_told_with_its_place(worker: WorkerProcess) -> None:
    outcome = worker.run("fail")
    assert (outcome.state, outcome.cause) == (TaskState.FAILED, Cause.EXCEPTION)
    assert outcome.message == "ValueError: no such place"
    assert "work.py" in outcome.stderr and "in fail" in outcome.stderr
    assert "kubemin/" not in outcome.stderr
    assert ("stderr", "ValueError: no such") in worker.lines()


@pytest.mark.parametrize(
    ("function", "args", "cause", "code"),
    [
        ("leave", [], Cause.EXIT, 0),
        ("leave", [3], Cause.EXIT, 3),
        ("leave", ["sorry"], Cause.EXIT, 1),
        ("interrupt", [], Cause.EXIT, 130),
        ("no_memory", [], Cause.OOM, None),
        ("recurse", [], Cause.EXCEPTION, None),
        ("fail_oddly", [], Cause.EXCEPTION, None),
        ("add", [], Cause.EXCEPTION, None),
        ("fail_on_a_name", [], Cause.EXCEPTION, None),
        ("leave_on_a_name", [], Cause.EXIT, 1),
    ],
)
def test_other_ends_have_their_causes(
    worker: WorkerProcess, function: str, args: list[Any], cause: Cause, code: int | None
) -> None:
    outcome = worker.run(function, *args)
    assert (outcome.state, outcome.cause, outcome.exit_code) == (TaskState.FAILED, cause, code)
    assert worker.run("add", 1).state is TaskState.COMPLETED  # and the worker lives


@pytest.mark.parametrize("alone", [False, True], ids=["in the worker", "in a child"])
def test_an_exception_may_name_a_file_that_is_not_unicode(worker: WorkerProcess, alone: bool) -> None:
    limits = {"limits": {"pids": 100, "bestEffort": True}} if alone else {}
    worker.give({"python": "work:fail_on_a_name"} | limits)
    outcome = worker.outcome()
    assert (outcome.cause, outcome.exit_code) == (Cause.EXCEPTION, None)
    assert outcome.message == "ValueError: caf\\udce9 \\ud800"
    assert "in fail_on_a_name" in outcome.stderr


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("os:system", "not admitted; add it, or a pattern such as os:*"),
        ("missing:f", "no module missing"),
        ("broken:f", "cannot import broken: ZeroDivisionError"),
        ("work:nothing", "no function nothing"),
        ("work:os", "is a module, not a function"),
        ("work", "not of the form"),
        (5, "not of the form"),
    ],
)
def test_what_cannot_be_called(worker: WorkerProcess, path: Any, message: str) -> None:
    (worker.folder / "functions" / "broken.py").write_text("1 / 0\n")
    worker.give({"python": path})
    outcome = worker.outcome()
    assert (outcome.state, outcome.cause) == (TaskState.FAILED, Cause.START)
    assert message in outcome.message


def test_nothing_is_admitted_by_default(start: Callable[..., WorkerProcess]) -> None:
    worker = start(python=Python())
    assert "python.allow" in worker.run("add", 1).message


def test_a_module_that_appears_later_is_found(worker: WorkerProcess) -> None:
    worker.give({"python": "missing:f"})
    assert worker.outcome().cause is Cause.START
    (worker.folder / "functions" / "missing.py").write_text("def f(): return 'here'\n")
    worker.give({"python": "missing:f"})
    assert worker.outcome().state is TaskState.COMPLETED


def test_references_are_filled_in(worker: WorkerProcess) -> None:
    import msgspec

    work = {"python": "work:add", "args": ["${{ item.n }}"], "with": {"b": "${{ steps.extract.output }}"}}
    worker.give(work, inputs=msgspec.Raw(b'{"item":{"n":2},"steps":{"extract":40}}'))
    assert bytes(worker.outcome().output or b"") == b"42"
    worker.give(work, inputs=msgspec.Raw(b'{"item":{"n":2},"steps":{}}'))
    assert worker.outcome().cause is Cause.REFERENCE


@pytest.mark.parametrize("how", ["segv", "exit"])
def test_a_worker_that_dies_leaves_its_record(worker: WorkerProcess, how: str) -> None:
    claim = worker.call("die", how)
    assert worker.wait() == (-signal.SIGSEGV if how == "segv" else 0)
    record = worker.record()
    assert (record.state, record.run, record.idx, record.token) == ("running", claim.run, claim.idx, claim.token)
    assert worker.reports.try_recv() is None


# --- output -----------------------------------------------------------------------------------------------------------


def test_all_output_reaches_log_and_tails_in_order(worker: WorkerProcess) -> None:
    outcome = worker.run("speak")
    assert outcome.stdout == "from print\nfrom os.write\nfrom a child\nbytes \ufffd\nno newline"
    assert outcome.stderr == "its error\nhalf line\n"
    lines = worker.lines()
    assert [line for stream, line in lines if stream == "stdout"] == outcome.stdout.splitlines()
    assert [line for stream, line in lines if stream == "stderr"] == outcome.stderr.splitlines()
    silent = worker.run("add", 1)
    assert (silent.stdout, silent.stderr) == ("", "")


def test_c_code_prints_into_its_own_task(worker: WorkerProcess) -> None:
    assert worker.run("speak_c", "first").stdout == "first\n"
    assert worker.run("speak_c", "second").stdout == "second\n"


def test_a_child_that_prints_without_end_costs_no_memory(start: Callable[..., WorkerProcess]) -> None:
    worker = start(output=Output(lines_per_second=50))
    worker.call("flood", 300)
    outcome = worker.outcome(60)
    used = json.loads(bytes(outcome.output or b""))
    assert used["peak"] < 150 * 1024**2
    assert used["blocks"] < 100 * 1024**2
    assert len(outcome.stdout) == 64 * 1024
    assert len(worker.lines()) < 10_000  # the rest is counted


def test_python_that_prints_without_end_costs_no_memory(start: Callable[..., WorkerProcess]) -> None:
    worker = start(output=Output(lines_per_second=50))
    worker.call("flood_python", 30)
    outcome = worker.outcome(60)
    assert int(bytes(outcome.output or b"0")) < 150 * 1024**2
    assert any("dropped" in line for _, line in worker.lines())


def test_a_step_that_takes_the_streams_away(worker: WorkerProcess) -> None:
    worker.run("streams")
    assert worker.run("speak").stdout.startswith("from print\n")


# --- environment and secrets ------------------------------------------------------------------------------------------


def test_env_lasts_as_long_as_the_step(worker: WorkerProcess) -> None:
    worker.give({"python": "work:environ", "args": ["COLOUR", "N"], "env": {"COLOUR": "blue", "N": 5}})
    assert bytes(worker.outcome().output or b"") == b'["blue","5"]'
    assert bytes(worker.run("environ", "COLOUR").output or b"") == b"[null]"


def test_secrets_are_read_late_and_masked(start: Callable[..., WorkerProcess], tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    worker = start(secrets_dir=str(tmp_path / "secrets"))
    work = {"python": "work:tell", "args": ["PW"], "env": {"PW": {"secret": "db"}}}
    worker.give(work)
    assert "put it there" in worker.outcome().message
    (tmp_path / "secrets" / "db").write_text("hunter2hunter2\n")
    worker.give(work)
    outcome = worker.outcome()
    assert outcome.state is TaskState.COMPLETED
    assert outcome.stdout == "the secret is ***\n"
    assert outcome.output is not None
    assert json.loads(bytes(outcome.output)) == {"dsn": ["pw=***", 7], "***": None}
    worker.give(work | {"python": "work:tell_by_raising"})
    outcome = worker.outcome()
    assert outcome.message == "ConnectionError: refused for ***" and "hunter2" not in outcome.stderr
    worker.give(work | {"python": "work:tell_late"})
    outcome = worker.outcome()
    assert outcome.message == f"ConnectionError: {'x' * 1980}***"[:2000]
    assert "hunter2" not in outcome.stderr and "hunter2" not in worker.log_text()


def test_an_environment_that_cannot_be_set_leaves_nothing_to_the_next_task(
    start: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    (tmp_path / "db").write_text("hunter2hunter2\n")
    worker = start(secrets_dir=str(tmp_path))
    worker.give({"python": "work:add", "args": [1], "env": {"PW": {"secret": "db"}, "B=C": "1"}})
    assert worker.outcome().state is TaskState.FAILED
    worker.give({"python": "work:environ", "args": ["PW"]})
    assert bytes(worker.outcome().output or b"") == b"[null]"


# --- the running task -------------------------------------------------------------------------------------------------


def test_current_task(worker: WorkerProcess) -> None:
    claim = worker.call("task")
    expected = [claim.task, claim.run, "load", claim.token, 1, False, True]
    assert json.loads(bytes(worker.outcome().output or b"")) == expected
    messages = [r["message"] for r in worker.log_records()]
    assert f"Worker 3 executing task {claim.task}" in messages


@pytest.mark.parametrize("how", ["return", "raise"])
def test_a_step_that_sees_its_cancellation(worker: WorkerProcess, how: str) -> None:
    claim = worker.call("until_cancelled", how)
    worker.running(claim.token)
    worker.cancel(claim.token - 1)  # somebody else's
    worker.cancel(claim.token, Cause.RUN_TIMEOUT)
    outcome = worker.outcome()
    assert (outcome.state, outcome.cause) == (TaskState.CANCELLED, Cause.RUN_TIMEOUT)


# --- signals ----------------------------------------------------------------------------------------------------------


def test_term_lets_the_step_finish_and_takes_no_other(worker: WorkerProcess, tmp_path: Path) -> None:
    first = worker.call("touch_and_wait_for", str(tmp_path / "f"), str(tmp_path / "g"))
    second = worker.call("add", 1)
    worker.until((tmp_path / "f").exists)
    worker.signal(signal.SIGTERM)
    (tmp_path / "g").touch()
    outcome = worker.outcome()
    assert (outcome.token, outcome.state) == (first.token, TaskState.COMPLETED)
    assert worker.wait() == 0
    packet = worker.tasks_reader.try_recv()
    assert packet is not None and str(second.token).encode() in packet[1]  # still there, to be taken back


def test_term_ends_an_idle_worker_at_once(worker: WorkerProcess) -> None:
    worker.until(lambda: worker.record().state == "idle")
    begun = time.monotonic()
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert time.monotonic() - begun < 1.0


@pytest.mark.parametrize("function", ["touch_and_wait", "wrap"])
def test_int_puts_the_task_back(worker: WorkerProcess, tmp_path: Path, function: str) -> None:
    worker.call(function, str(tmp_path / "f"))
    worker.until((tmp_path / "f").exists)
    worker.signal(signal.SIGINT)
    outcome = worker.outcome(10.0)  # and not after the 30 s that it would have slept
    assert (outcome.state, outcome.cause) == (None, Cause.DRAIN)
    assert worker.wait() == 0
    assert function == "wrap" or (tmp_path / "f.cleaned").exists()


def test_a_step_that_ends_well_although_interrupted_has_ended_well(worker: WorkerProcess, tmp_path: Path) -> None:
    worker.call("swallow", str(tmp_path / "f"))
    worker.until((tmp_path / "f").exists)
    worker.signal(signal.SIGINT)
    assert bytes(worker.outcome(2.0).output or b"") == b'"swallowed"'
    assert worker.wait() == 0
