"""What a Python step leaves in its worker: who follows it does not find it, and what may stay. A worker's recycling."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest
from worker_harness import WorkerProcess

from kubemin.config.settings import Recycle
from kubemin.exits import EXIT_SOILED
from kubemin.model.states import TaskState
from kubemin.worker.hygiene import MOST_KEPT

FUNCTIONS = """
import os, signal, socket, subprocess, sys, threading, time

KEPT = OTHER = None
LEAKED = []

def keep(how):
    global KEPT, OTHER
    if how == "number" and KEPT is None: KEPT = os.open("/dev/null", os.O_RDONLY)
    if how == "file" and KEPT is None: KEPT = open("/dev/null")
    if how == "socket" and KEPT is None: KEPT = socket.socket()
    if how == "anew": KEPT, OTHER = open("/dev/null"), KEPT
    if how == "list": LEAKED.append(open("/dev/null"))
    return os.getpid()

def add(a, b=0): return a + b
def environ(name): return os.environ.get(name)
def fail(): raise ValueError("no")
def speak(): subprocess.run(["echo", "said"], check=True)

def soil(what):
    if what == "thread": threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
    elif what == "descriptor": os.open("/dev/null", os.O_RDONLY)
    elif what == "closed": os.close(1)
    elif what == "directory": os.chdir("/")
    elif what == "umask": os.umask(0)
    elif what == "environment": os.environ["LEFT"] = "1"
    elif what == "signals": signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif what == "mask": signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    elif what == "child": return subprocess.Popen(["sleep", "60"]).pid
    elif what == "daemon":
        script = "setsid sleep 60 >/dev/null 2>&1 & echo $!"
        return int(subprocess.run(["sh", "-c", script], capture_output=True).stdout)
    return os.getpid()
def fork_and_return(how):
    pid = os.fork()
    if pid == 0 and how == "raise": raise RuntimeError("in the child")
    if pid: os.waitpid(pid, 0)
    return pid
"""
LEFT = {
    "thread": "1 more threads",
    "descriptor": "1 open descriptors (/dev/null)",
    "closed": "closed or replaced",
    "directory": "the working directory is /",
    "umask": "the umask is 000",
    "environment": "LEFT",
    "signals": "SIGTERM",
    "mask": "blocked",
    "child": "processes",
    "daemon": "processes",
}


@pytest.mark.parametrize("what", LEFT)
def test_a_worker_that_was_left_unclean_is_replaced(worker: WorkerProcess, what: str) -> None:
    outcome = worker.run("soil", what)
    assert outcome.state is TaskState.COMPLETED
    assert worker.wait() == EXIT_SOILED
    reasons = [r["reason"] for r in worker.log_records() if r["message"] == "worker is replaced"]
    assert len(reasons) == 1 and LEFT[what] in reasons[0]
    if what in ("child", "daemon"):
        assert not os.path.exists(f"/proc/{bytes(outcome.output or b'').decode()}")


@pytest.mark.parametrize("what", ["descriptor", "environment", "known: environment", "known: directory"])
def test_the_next_step_does_not_find_what_a_short_one_left(worker: WorkerProcess, what: str) -> None:
    """All of them wait in the channel when the first begins, so that no pause between them hides anything. `known`:
    the step that leaves something has run before and left nothing."""
    before = ("a", "b", "c", "a") if what.startswith("known") else ()
    os.kill(worker.pid, signal.SIGSTOP)
    for step in (*before, "a"):
        worker.give({"python": "work:add", "args": [1]}, step=step)
    for step, function, argument in (("b", "soil", what.rpartition(" ")[2]), ("c", "environ", "LEFT")):
        worker.give({"python": f"work:{function}", "args": [argument]}, step=step)
    os.kill(worker.pid, signal.SIGCONT)
    assert worker.wait() == EXIT_SOILED
    assert [worker.outcome().token for _ in range(len(before) + 2)] == list(range(1, len(before) + 3))
    assert worker.tasks_reader.try_recv() is not None


def test_open_descriptors_are_put_up_with_for_a_while(start: Callable[..., WorkerProcess]) -> None:
    """A function that keeps a connection in its module does not cost a worker for each of its tasks."""
    worker = start(patience=1.0)
    for _ in range(3):
        worker.run("soil", "descriptor")
    began = time.monotonic()  # the first was looked at before the second began
    worker.until(lambda: time.monotonic() > began + 1.0)
    worker.run("add", 1)
    assert worker.wait() == EXIT_SOILED
    reasons = [r["reason"] for r in worker.log_records() if r["message"] == "worker is replaced"]
    assert reasons == ["a Python step left 3 open descriptors (/dev/null, /dev/null, /dev/null)"]


def keep(worker: WorkerProcess, how: str, step: str) -> None:
    """Each first step of its name is followed by a look at what it left."""
    worker.give({"python": "work:keep", "args": [how]}, step=step)
    assert worker.outcome().state is TaskState.COMPLETED


@pytest.mark.parametrize("how", ["number", "file", "socket"])
def test_what_a_variable_of_its_module_holds_may_stay(worker: WorkerProcess, how: str) -> None:
    for step in ("a", "a", "b"):  # the first of each kind is looked at
        keep(worker, how, step)
    worker.run("soil", "descriptor")
    assert worker.wait() == EXIT_SOILED
    reasons = [r["reason"] for r in worker.log_records() if r["message"] == "worker is replaced"]
    assert reasons == ["a Python step left 1 open descriptors (/dev/null)"]


def test_what_only_grows_or_changes_is_no_state_of_a_module(start: Callable[..., WorkerProcess]) -> None:
    worker = start()
    worker.run("keep", "list")
    assert worker.wait() == EXIT_SOILED
    worker = start()
    for n in range(MOST_KEPT + 1):
        keep(worker, "anew", str(n))
    assert worker.wait() == EXIT_SOILED


@pytest.mark.parametrize("what", ["thread", "environment", "closed", "directory"])
def test_nothing_else_is_put_up_with(start: Callable[..., WorkerProcess], what: str) -> None:
    worker = start(patience=60.0)
    worker.run("soil", what)
    assert worker.wait() == EXIT_SOILED


@pytest.mark.parametrize("how", ["return", "raise"])
def test_a_forked_child_does_not_become_a_second_worker(worker: WorkerProcess, how: str) -> None:
    outcome = worker.run("fork_and_return", how)
    assert int(bytes(outcome.output or b"0")) > 0
    worker.run("add", 1)
    assert worker.reports.try_recv() is None


def test_a_clean_worker_stays(worker: WorkerProcess) -> None:
    for _ in range(20):
        assert worker.run("speak").state is TaskState.COMPLETED
        assert worker.run("fail").state is TaskState.FAILED
    worker.until(lambda: worker.record().state == "idle" and worker.record().done == 40)
    assert "left something" not in worker.log_text()


def test_recycling(start: Callable[..., WorkerProcess]) -> None:
    worker = start(recycle=Recycle(max_tasks=2))
    worker.call("add", 1)
    worker.call("add", 2)
    worker.call("add", 3)
    assert worker.wait() == 0
    assert [worker.outcome().token, worker.outcome().token] == [1, 2]
    assert worker.tasks_reader.try_recv() is not None
    worker = start(recycle=Recycle(max_memory=1))
    worker.call("add", 1)
    assert worker.wait() == 0
