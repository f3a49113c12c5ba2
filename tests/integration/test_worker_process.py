"""The worker as a process: its channels, its signals, commands through it, and what it does when others misbehave."""

from __future__ import annotations

import json
import os
import pwd
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from worker_harness import WorkerProcess

from kubemin import channel
from kubemin.exits import EXIT_CUT_OFF
from kubemin.model.states import Cause, TaskState

FUNCTIONS = """
import os, time
def add(a, b=0): return a + b
def large(): print("x" * 60_000); return "y" * 60_000
def ppid(): return [os.getpid(), os.getppid()]
def who(): return [os.getuid(), os.geteuid(), os.getgid(), os.access(os.environ["KUBEMIN_TMP"], os.W_OK)]
def read_input(): return input()
def hold(seconds): time.sleep(seconds)
def grab(megabytes): return len(bytearray(megabytes * 1024 * 1024))
def refuse(): return {1}
def close_all(): os.closerange(3, 1000)
"""


# --- channels ---------------------------------------------------------------------------------------------------------


def test_reports_are_numbered_and_repeated_to_a_new_coordinator(worker: WorkerProcess) -> None:
    for n in range(3):
        worker.call("add", n)
    first = [worker.report()[0] for _ in range(3)]
    assert first == [1, 2, 3]
    assert worker.tasks.try_send(channel.ACK, channel.pack_ack(1))
    assert worker.tasks.try_send(channel.HELLO, channel.pack_hello())
    repeated = [worker.report() for _ in range(2)]
    assert [seq for seq, _ in repeated] == [2, 3]
    assert [bytes(outcome.output or b"") for _, outcome in repeated] == [b"1", b"2"]
    assert worker.hello()  # and that was all
    worker.give({"python": "work:add", "args": [1]}, acked=3)
    assert worker.report()[0] == 4
    assert worker.tasks.try_send(channel.HELLO, channel.pack_hello())
    assert worker.report()[0] == 4  # only what is not committed


def test_a_coordinator_that_does_not_read_is_waited_for(worker: WorkerProcess) -> None:
    """Its channel fills up; nothing is lost, the worker is not killed for its time-out, and goes on."""
    total = 20
    for _ in range(total):
        worker.call("large")  # over 64 KiB a report, once its output and tail are in it
    worker.until(lambda: worker.record().state == "idle" or worker.record().done == total)
    assert [worker.report()[0] for _ in range(total)] == list(range(1, total + 1))


def test_a_full_channel_stops_the_worker_and_not_its_result(worker: WorkerProcess) -> None:
    filler = 0
    while worker._worker_reports.try_send(b"X", b"x" * 60_000):
        filler += 1
    worker.call("add", 41, b=1)
    _until_it_waits_for_room(worker)
    worker.signal(signal.SIGTERM)  # does not end the wait: the task is done
    with pytest.raises(AssertionError):
        worker.wait(0.2)
    for _ in range(filler):
        assert worker.reports.try_recv() is not None
    assert bytes(worker.outcome().output or b"") == b"42"
    assert worker.wait() == 0


def test_int_ends_the_wait_for_a_coordinator(worker: WorkerProcess) -> None:
    while worker._worker_reports.try_send(b"X", b"x" * 60_000):
        pass
    worker.call("add", 1)
    _until_it_waits_for_room(worker)
    worker.signal(signal.SIGINT)
    assert worker.wait(10) == 0


def _until_it_waits_for_room(worker: WorkerProcess) -> None:
    """It has begun the task, and its time-out no longer counts."""
    begun = "Worker 3 executing task"
    worker.until(lambda: begun in worker.log_text() and worker.record().state == "idle")


@pytest.mark.parametrize("packet", [b"Tnonsense", b"T[1,[]]", b"A[]", b"Zzz", b"T" + b"[" * 2000, b"\x80"])
def test_broken_packets_do_not_stop_a_worker(worker: WorkerProcess, packet: bytes) -> None:
    os.write(worker.tasks.fileno(), packet)
    assert worker.run("add", 1).state is TaskState.COMPLETED


def test_a_record_that_cannot_be_read_ends_its_task(worker: WorkerProcess) -> None:
    os.write(worker.tasks.fileno(), b'T[0,["r",4,"s","w",77,"not a number",1.0,{}]]')
    outcome = worker.outcome()
    assert (outcome.run, outcome.idx, outcome.token) == ("r", 4, 77)
    assert (outcome.state, outcome.cause) == (TaskState.FAILED, Cause.CORRUPT)
    for work in ({"rocket": "moon"}, {}, {"python": None, "env": 1}):
        worker.give(work)
        assert worker.outcome().cause is Cause.CORRUPT
    worker.give({"python": "work:add", "env": "x"})
    assert worker.outcome().cause is Cause.START
    claim = msgspec.structs.replace(worker.claim({}), work=msgspec.Raw(b"[1]"))
    worker.tasks.try_send(channel.TASK, channel.pack_task(0, claim))
    assert worker.outcome().cause is Cause.CORRUPT
    worker.give({"python": "work:add", "args": 5, "with": []})
    assert worker.outcome().state is TaskState.FAILED
    assert worker.run("add", 1).state is TaskState.COMPLETED


def test_a_cancel_that_comes_first_stops_the_task_before_it_starts(worker: WorkerProcess, tmp_path: Path) -> None:
    worker.call("hold", 0.2)
    worker.running(1)
    worker.cancel(2, Cause.REPLACED)
    worker.give({"run": ["touch", str(tmp_path / "started")]})
    assert worker.outcome().state is TaskState.COMPLETED
    outcome = worker.outcome()
    assert (outcome.state, outcome.cause) == (TaskState.CANCELLED, Cause.REPLACED)
    assert not (tmp_path / "started").exists()


def test_a_step_that_closes_the_worker_s_channels_ends_the_worker(worker: WorkerProcess) -> None:
    claim = worker.call("close_all")
    assert worker.wait() == EXIT_CUT_OFF
    assert worker.reports.try_recv() is None
    record = worker.record()
    assert (record.token, record.state) == (claim.token, "running")  # so the coordinator knows whom to charge


# --- the process ------------------------------------------------------------------------------------------------------


def test_dies_with_its_supervisor(tmp_path: Path) -> None:
    """In the middle of a step: an idle one would also notice that its channel has no other end any more."""
    read, write = os.pipe()
    middle = os.fork()
    if middle == 0:
        worker = WorkerProcess(tmp_path, FUNCTIONS)
        worker.call("hold", 60.0)
        worker.running(1)
        os.write(write, str(worker.pid).encode())
        signal.pause()
        os._exit(0)
    pid = int(os.read(read, 20))
    fd = os.pidfd_open(pid)
    os.kill(middle, signal.SIGKILL)
    os.waitpid(middle, 0)
    import select

    assert select.select([fd], [], [], 5)[0]
    for each in (fd, read, write):
        os.close(each)


def test_other_signals_of_the_supervisor_do_nothing(worker: WorkerProcess) -> None:
    assert worker.run("add", 1).state is TaskState.COMPLETED
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT, signal.SIGTTIN, signal.SIGPIPE):
        worker.signal(number)
    assert worker.run("add", 1).state is TaskState.COMPLETED


def test_idle_costs_nothing(worker: WorkerProcess) -> None:
    """Once the last look at what the task left has been taken; another process may push it off its core meanwhile."""
    worker.run("add", 1)
    worker.until(lambda: worker.record().state == "idle")
    woken = []
    while not woken or (min(woken) > 0 and len(woken) < 5):
        before = _wakes(worker.pid)
        time.sleep(1.0)  # of doing nothing, which is what is measured
        woken.append(_wakes(worker.pid) - before)
    assert min(woken) == 0


def _wakes(pid: int) -> int:
    """How often it has gone to sleep, or was pushed aside while awake."""
    status = Path(f"/proc/{pid}/status").read_text()
    return sum(int(line.split()[1]) for line in status.splitlines() if "ctxt_switches" in line)


def test_title_and_record_of_a_running_step(worker: WorkerProcess) -> None:
    claim = worker.give({"run": ["sleep", "30"]}, timeout=7.0)
    worker.running(claim.token)
    title = Path(f"/proc/{worker.pid}/cmdline")
    worker.until(lambda: title.read_bytes().rstrip(b"\0") == b"kubemin: worker 3 [report/load 1s]")
    record = worker.record()
    assert (record.pid, record.incarnation, record.generation, record.label) == (worker.pid, 9, 1, "report/load")
    assert record.deadline - record.started == pytest.approx(7 + 5 + 5)
    worker.cancel(claim.token)
    assert worker.outcome().state is TaskState.CANCELLED
    worker.until(lambda: title.read_bytes().rstrip(b"\0") == b"kubemin: worker 3 [idle]")


def test_python_steps_are_given_exactly_their_timeout(worker: WorkerProcess) -> None:
    worker.give({"python": "work:hold", "args": [0.3]}, timeout=4.0)
    worker.running(1)
    assert worker.record().deadline - worker.record().started == pytest.approx(4.0)


def test_standard_input_is_at_its_end(worker: WorkerProcess) -> None:
    assert worker.run("read_input").message.startswith("EOFError")


def test_quiet_tasks_log_at_debug(worker: WorkerProcess) -> None:
    worker.give({"python": "work:add", "args": [1]}, quiet=True)
    worker.outcome()
    [record] = [r for r in worker.log_records() if r["message"].startswith("Worker 3 executing task")]
    assert record["level"] == "debug"


# --- commands ---------------------------------------------------------------------------------------------------------


def test_a_command_with_its_environment_and_output(worker: WorkerProcess, tmp_path: Path) -> None:
    script = 'env | sort; pwd; echo "{\\"rows\\": 3}" > "$KUBEMIN_OUTPUT"; touch "$KUBEMIN_TMP/x"'
    os.environ["NOTIFY_SOCKET"] = "/secret"
    try:
        claim = worker.give({"shell": script, "env": {"A": "1"}}, directory=str(tmp_path), attempt=2)
        outcome = worker.outcome()
    finally:
        del os.environ["NOTIFY_SOCKET"]
    assert outcome.state is TaskState.COMPLETED, outcome.message
    assert bytes(outcome.output or b"") == b'{"rows":3}'
    lines = outcome.stdout.splitlines()
    assert lines[-1] == str(tmp_path)
    env = dict(line.split("=", 1) for line in lines[:-1])
    assert set(env) - {"TZ", "PWD", "SHLVL", "_", "OLDPWD"} == {
        "A", "HOME", "LANG", "PATH", "KUBEMIN_ATTEMPT", "KUBEMIN_DEADLINE", "KUBEMIN_INSTANCE", "KUBEMIN_OUTPUT",
        "KUBEMIN_RUN", "KUBEMIN_STEP", "KUBEMIN_TASK", "KUBEMIN_TMP", "KUBEMIN_TOKEN", "KUBEMIN_WORKFLOW",
    }  # fmt: skip
    assert env["KUBEMIN_TASK"] == claim.task
    assert (env["KUBEMIN_TOKEN"], env["KUBEMIN_ATTEMPT"]) == (str(claim.token), "2")
    assert not os.path.exists(env["KUBEMIN_TMP"]) and os.listdir(tmp_path / "tmp") == []


def test_without_a_folder_a_command_starts_in_its_scratch_folder(worker: WorkerProcess) -> None:
    worker.give({"shell": 'test "$PWD" = "$KUBEMIN_TMP" && mkdir a && touch a/b && chmod 0 a'})
    assert worker.outcome().state is TaskState.COMPLETED
    worker.give({"shell": "true"}, directory="/nowhere")
    assert "/nowhere" in worker.outcome().message


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ('echo nonsense > "$KUBEMIN_OUTPUT"', "not JSON"),
        ('head -c 70000 /dev/zero > "$KUBEMIN_OUTPUT"', "70000 bytes"),
        ('ln -s /etc/hostname "$KUBEMIN_OUTPUT"', "a link"),
        ('mkfifo "$KUBEMIN_OUTPUT"', "no longer a regular file"),
        ('mkdir "$KUBEMIN_OUTPUT"', "no longer a regular file"),
        ('echo 1 > f; ln f "$KUBEMIN_OUTPUT"', "no longer a regular file"),
        ('printf "\\377" > "$KUBEMIN_OUTPUT"', "not UTF-8"),
        ('echo "1 2" > "$KUBEMIN_OUTPUT"', "not JSON"),
        ('echo "[NaN]" > "$KUBEMIN_OUTPUT"', "not JSON"),
        ("""python3 -c 'print("[" * 30000)' > "$KUBEMIN_OUTPUT" """, "$KUBEMIN_OUTPUT is"),
        ("""python3 -c 'print("[" * 101 + "]" * 101)' > "$KUBEMIN_OUTPUT" """, "deeper than 100"),
    ],
)
def test_false_output_files(worker: WorkerProcess, script: str, message: str) -> None:
    worker.give({"shell": script})
    outcome = worker.outcome()
    assert (outcome.state, outcome.cause) == (TaskState.FAILED, Cause.OUTPUT)
    assert message in outcome.message


def test_an_empty_output_file_is_no_output_and_a_failed_step_keeps_its_own_cause(worker: WorkerProcess) -> None:
    worker.give({"shell": ': > "$KUBEMIN_OUTPUT"'})
    assert (outcome := worker.outcome()).state is TaskState.COMPLETED and outcome.output is None
    worker.give({"shell": 'echo nonsense > "$KUBEMIN_OUTPUT"; exit 7'})
    assert (outcome := worker.outcome()).cause is Cause.EXIT and outcome.exit_code == 7
    worker.give({"shell": 'echo 5 > "$KUBEMIN_OUTPUT"; exit 7'})
    assert bytes(worker.outcome().output or b"") == b"5"


def test_cancel_and_drain_of_a_command(worker: WorkerProcess) -> None:
    claim = worker.give({"run": ["sleep", "30"]})
    worker.running(claim.token)
    worker.cancel(claim.token, Cause.RUN_TIMEOUT)
    outcome = worker.outcome()
    assert (outcome.state, outcome.cause) == (TaskState.CANCELLED, Cause.RUN_TIMEOUT)
    claim = worker.give({"run": ["sleep", "30"]})
    worker.running(claim.token)
    worker.signal(signal.SIGINT)
    outcome = worker.outcome()
    assert (outcome.state, outcome.cause) == (None, Cause.DRAIN)
    assert worker.wait() == 0


def test_a_fenced_step_is_ended_and_not_told_as_cancelled(worker: WorkerProcess) -> None:
    """Its task was given to another worker: nobody cancelled it, and should it be ours after all, it goes back."""
    claim = worker.give({"run": ["sleep", "30"]})
    worker.running(claim.token)
    worker.cancel(claim.token, Cause.NODE_LOST)
    outcome = worker.outcome()
    assert (outcome.state, outcome.cause) == (None, Cause.NODE_LOST)


def test_secrets_of_commands_are_masked(start: Callable[..., WorkerProcess], tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "db").write_text("correct horse\n")
    worker = start(secrets_dir=str(tmp_path / "secrets"))
    worker.give({"shell": 'echo "[$PW]"; echo "[\\"$PW\\", 1]" > "$KUBEMIN_OUTPUT"', "env": {"PW": {"secret": "db"}}})
    outcome = worker.outcome()
    assert outcome.stdout == "[***]\n" and bytes(outcome.output or b"") == b'["***",1]'
    for name, message in (("../log", "file name"), ("none", "put it there"), (5, "file name")):
        worker.give({"shell": "true", "env": {"PW": {"secret": name}}})
        outcome = worker.outcome()
        assert outcome.cause is Cause.START and message in outcome.message
    assert "correct horse" not in worker.log_text()


def test_leftovers_of_a_killed_predecessor_are_removed(worker: WorkerProcess, tmp_path: Path) -> None:
    worker.give({"shell": 'echo "$KUBEMIN_TMP"; sleep 30'})
    worker.until(lambda: bool(worker.lines()))
    left = worker.lines()[0][1]
    assert os.path.isdir(left)
    worker.signal(signal.SIGKILL)
    worker.wait()
    again = WorkerProcess(tmp_path, FUNCTIONS)
    again.until(lambda: again.record().state == "idle")
    assert not os.path.exists(left)
    again.close()


# --- Python under limits ----------------------------------------------------------------------------------------------

LIMITS = {"memory": 100 * 1024**2, "bestEffort": True}


def test_python_under_limits_runs_in_a_child(worker: WorkerProcess) -> None:
    worker.give({"python": "work:ppid", "limits": LIMITS})
    pid, parent = json.loads(bytes(worker.outcome().output or b""))
    assert parent == worker.pid and pid != parent
    worker.give({"python": "work:refuse", "limits": LIMITS})
    outcome = worker.outcome()
    assert (outcome.state, outcome.cause) == (TaskState.FAILED, Cause.OUTPUT)
    worker.give({"python": "os:getcwd", "limits": LIMITS})
    outcome = worker.outcome()
    assert outcome.cause is Cause.START and "not admitted" in outcome.message
    worker.give({"python": "work:hold", "args": [30], "limits": LIMITS}, timeout=0.2)
    assert worker.outcome().state is TaskState.TIMEOUT


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs steps as somebody else")
def test_python_steps_have_the_rights_of_user(start: Callable[..., WorkerProcess], tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    worker = start(user="nobody")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and str(folder).startswith(tempfile.gettempdir() + os.sep):
            folder.chmod(0o755)
    worker.call("who")
    outcome = worker.outcome()
    assert json.loads(bytes(outcome.output or b"")) == [nobody.pw_uid, nobody.pw_uid, nobody.pw_gid, True]
