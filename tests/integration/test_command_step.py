"""Commands run for real: how they start, what they write, how they end and how they are ended."""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
from pathlib import Path

import pytest
from stepping import Bench, containment, in_worker, open_descriptors

from kubemin.model.states import Cause, TaskState
from kubemin.processes import has_children
from kubemin.steps.base import Ended, Interrupt
from kubemin.steps.command import execute

PYTHON = sys.executable


def run(home: Path, work: dict[str, object], **options: object) -> Ended:
    return in_worker(lambda: Bench(home).run(work, **options))


def shell(home: Path, script: str, **options: object) -> Ended:
    return run(home, {"shell": script}, **options)


# --- starting ---


def test_a_program_is_found_by_the_path_of_the_step(tmp_path: Path) -> None:
    _script(tmp_path / "bin" / "greet", "#!/bin/sh\necho hello $1\n")
    ended = run(tmp_path, {"run": ["greet", "$HOME"]}, environ={"PATH": f"/nowhere:{tmp_path}/bin:/usr/bin:/bin"})
    assert (ended.state, ended.exit_code, ended.stdout) == (TaskState.COMPLETED, 0, "hello $HOME\n")


def test_a_relative_program_is_relative_to_the_workdir(tmp_path: Path) -> None:
    _script(tmp_path / "x.sh", "#!/bin/sh\npwd\n")
    assert run(tmp_path, {"run": ["./x.sh"]}).stdout == f"{tmp_path}\n"


def test_a_script_stops_at_its_first_failure(tmp_path: Path) -> None:
    ended = shell(tmp_path, "echo a\nfalse\necho b")
    assert (ended.state, ended.cause, ended.message) == (TaskState.FAILED, Cause.EXIT, "exit code 1")
    assert ended.stdout == "a\n"


def test_the_shell_names_the_step_in_its_messages(tmp_path: Path) -> None:
    assert shell(tmp_path, "nonesuch").stderr.startswith("group/step: ")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["./x.sh"], "cannot start './x.sh': no such file in {dir}"),
        (["/no/x.sh"], "cannot start '/no/x.sh': no such file"),
        (["nonesuch"], "cannot start 'nonesuch': not found in PATH (/usr/local/bin:/usr/bin:/bin)"),
        (["./plain"], "cannot start './plain': permission denied; it must be a file that the step's user may execute"),
        (["./data"], "cannot start './data': it is neither a program for this machine nor a script whose first line"),
        (["./lost"], "cannot start './lost': the interpreter that its first line (#!) names does not exist"),
        (["true", "x" * 200_000], "cannot start 'true': its arguments and environment are too large"),
        (["true", "a\0b"], "an argument holds a NUL character"),
        ([], "`run` needs a list of words"),
    ],
)
def test_what_cannot_start_says_why(tmp_path: Path, argv: list[str], message: str) -> None:
    (tmp_path / "plain").write_text("x")
    _script(tmp_path / "data", "x")
    _script(tmp_path / "lost", "#!/no/such/interpreter\n")
    ended = run(tmp_path, {"run": argv})
    assert (ended.state, ended.cause, ended.exit_code) == (TaskState.FAILED, Cause.START, None)
    assert ended.message.startswith(message.format(dir=tmp_path))
    assert "\n" not in ended.message


def test_a_workdir_that_is_not_there(tmp_path: Path) -> None:
    ended = run(tmp_path, {"run": ["true"]}, directory=tmp_path / "none")
    assert ended.cause is Cause.START
    assert ended.message == f"cannot start in workdir {tmp_path}/none: there is no such folder"


def test_environment_names_that_cannot_be(tmp_path: Path) -> None:
    assert run(tmp_path, {"run": ["true"]}, environ={"A=B": "c"}).cause is Cause.START


def test_a_user_that_is_not_there(tmp_path: Path) -> None:
    ended = run(tmp_path, {"run": ["true"]}, user="nonesuch")
    assert (ended.cause, ended.message) == (
        Cause.START,
        "cannot run as user 'nonesuch': there is no such user",
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_of_its_own(tmp_path: Path) -> None:
    script = "id -un; id -G; echo to-stderr > /dev/stderr"
    ended = shell(tmp_path, script, directory="/", user="nobody")
    assert ended.stdout.splitlines()[0] == "nobody"
    assert "0" not in ended.stdout.splitlines()[1].split()
    assert ended.stderr == "to-stderr\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_workdir_that_the_user_may_not_enter(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    ended = run(tmp_path, {"run": ["true"]}, directory=closed, user="nobody")
    assert ended.message == f"cannot start in workdir {closed}: permission denied"


# --- surroundings ---


def test_nothing_is_inherited_but_0_1_2(tmp_path: Path) -> None:
    def inherit() -> Ended:
        reader, writer = os.pipe()
        for fd in (reader, writer):
            os.set_inheritable(fd, True)
        return Bench(tmp_path).run({"run": [PYTHON, "-c", "import os; print(sorted(os.listdir('/proc/self/fd')))"]})

    assert in_worker(inherit).stdout == "['0', '1', '2', '3']\n"  # 3: the listing's own


def test_standard_input_is_empty(tmp_path: Path) -> None:
    ended = shell(tmp_path, 'if read line; then echo "$line"; else echo end; fi')
    assert ended.stdout == "end\n"


def test_standard_input_of_a_call_is_its_text_whether_it_reads_it_or_not(tmp_path: Path) -> None:
    """More than a pipe holds, and read by nobody: the step neither hangs nor is ended for it."""
    text = "{" + "x" * 200_000 + "}"
    assert run(tmp_path, {"run": ["wc", "-c"], "stdin": text}).stdout == "200002\n"
    assert run(tmp_path, {"run": ["true"], "stdin": text}).state is TaskState.COMPLETED


def test_signals_umask_session_and_environment_are_fresh(tmp_path: Path) -> None:
    def unusual() -> Ended:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        os.umask(0o077)
        script = "umask; sed -n '/Sig[BIC][lg][kgnt]/p' /proc/self/status; env; ps -o sid=,pid= -p $$"
        return Bench(tmp_path).shell(script, environ={"ONLY": "this"})

    out = in_worker(unusual).stdout.splitlines()
    assert out[0] == "0022"
    assert [line.split()[1].strip("0") for line in out[1:4]] == ["", "", ""]
    assert "ONLY=this" in out
    assert not any(line.startswith(("PYTEST", "VIRTUAL_ENV")) for line in out)
    sid, pid = out[-1].split()
    assert sid == pid


def test_it_dies_with_its_worker(tmp_path: Path) -> None:
    def start_and_die() -> int:
        pid = os.fork()
        if pid == 0:
            Bench(tmp_path).shell(f"echo $$ > {tmp_path}/pid; exec sleep 1000")
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
            time.sleep(0.01)
        step = os.pidfd_open(int((tmp_path / "pid").read_text()))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.waitid(os.P_PIDFD, step, os.WEXITED)  # this process inherits it as a subreaper
        return 1

    assert in_worker(start_and_die, 10) == 1


# --- ending ---


def test_an_exit_code(tmp_path: Path) -> None:
    ended = shell(tmp_path, "exit 7")
    assert (ended.state, ended.cause, ended.exit_code, ended.signal) == (TaskState.FAILED, Cause.EXIT, 7, None)


def test_a_signal(tmp_path: Path) -> None:
    ended = shell(tmp_path, "kill -SEGV $$")
    assert (ended.state, ended.cause, ended.exit_code, ended.signal) == (TaskState.FAILED, Cause.SIGNAL, None, 11)
    assert ended.message == "killed by SIGSEGV"


def test_usage_is_measured(tmp_path: Path) -> None:
    code = "x = bytearray(100 << 20); import time; t = time.process_time()\nwhile time.process_time() < t + .2: pass"
    usage = run(tmp_path, {"run": [PYTHON, "-c", code]}).usage
    assert usage is not None
    assert 0.2 < usage.cpu < 5
    assert 100 << 20 < usage.memory < 300 << 20


def test_time_is_up(tmp_path: Path) -> None:
    started = time.monotonic()
    ended = shell(tmp_path, "sleep 1000", timeout=0.3)
    assert (ended.state, ended.cause, ended.signal) == (TaskState.TIMEOUT, Cause.TIMEOUT, 15)
    assert ended.message == "did not end within 0.3 s"
    assert time.monotonic() - started < 5


def test_one_that_ends_well_when_asked_did_not_complete(tmp_path: Path) -> None:
    script = "trap 'echo bye; exit 0' TERM; sleep 1000 & echo ready; wait"
    ended = in_worker(lambda: Bench(tmp_path, interrupt_on="ready").shell(script, kill_grace=20.0))
    assert (ended.state, ended.exit_code, ended.stdout) == (TaskState.CANCELLED, 0, "ready\nbye\n")


def test_sigterm_is_ignored(tmp_path: Path) -> None:
    script = "trap '' TERM; echo deaf; while :; do sleep 0.1; done"
    ended = in_worker(lambda: Bench(tmp_path, interrupt_on="deaf").shell(script))
    assert (ended.state, ended.signal) == (TaskState.CANCELLED, 9)
    assert ended.message == "was stopped; it ignored SIGTERM and was killed"


def test_stopped_processes_hear_sigterm(tmp_path: Path) -> None:
    script = "trap 'exit 3' TERM; echo stopping; kill -STOP $$; while :; do sleep 0.1; done"
    ended = in_worker(lambda: Bench(tmp_path, interrupt_on="stopping").shell(script, kill_grace=20.0))
    assert (ended.state, ended.exit_code) == (TaskState.CANCELLED, 3)


@pytest.mark.parametrize(
    ("cause", "state"),
    [
        (Cause.CANCELLED, TaskState.CANCELLED),
        (Cause.RUN_TIMEOUT, TaskState.CANCELLED),
        (Cause.REPLACED, TaskState.CANCELLED),
        (Cause.DRAIN, None),
    ],
)
def test_an_interrupt(tmp_path: Path, cause: Cause, state: TaskState | None) -> None:
    bench = Bench(tmp_path, interrupt_on="go", cause=cause)
    ended = in_worker(lambda: bench.shell("echo go; sleep 1000"))
    assert (ended.state, ended.cause, ended.signal) == (state, cause, 15)


def test_an_interrupt_descriptor_at_its_end_does_not_spin(tmp_path: Path) -> None:
    def hung_up() -> int:
        bench = Bench(tmp_path)
        step = bench.step({"shell": "sleep 1.5"})
        reader, writer = os.pipe()
        os.close(writer)
        asked: list[None] = []
        step.interrupt_fd, step.interrupted = reader, lambda: asked.append(None)
        assert execute(step, containment()).state is TaskState.COMPLETED
        return len(asked)

    assert 1 <= in_worker(hung_up) < 10


def test_ticks_come_about_once_a_second(tmp_path: Path) -> None:
    def ticks() -> int:
        bench = Bench(tmp_path)
        bench.shell("sleep 2.4")
        return bench.ticks

    assert in_worker(ticks) == 2


# --- output ---


def test_lines_reach_the_log_while_it_runs(tmp_path: Path) -> None:
    bench = Bench(tmp_path, interrupt_on="ready")
    ended = in_worker(lambda: bench.shell("echo ready; sleep 1000"))
    assert ended.stdout == "ready\n"


def test_secrets_are_masked(tmp_path: Path) -> None:
    def lines() -> tuple[Ended, list[tuple[str, str]]]:
        bench = Bench(tmp_path)
        ended = bench.shell('printf "pw=hun"; sleep 0.1; echo "ter2."', masks=("hunter2",))
        return ended, bench.lines

    ended, logged = in_worker(lines)
    assert logged == [("stdout", "pw=***.")]
    assert ended.stdout == "pw=***.\n"


def test_a_gigabyte_without_newline(tmp_path: Path) -> None:
    def flood() -> tuple[float, int, float, int]:
        bench = Bench(tmp_path, rate=10)
        before = _resident()
        started = time.monotonic()
        ended = bench.shell("head -c 1073741824 /dev/zero | tr '\\0' z", timeout=300.0)
        assert ended.state is TaskState.COMPLETED
        return time.monotonic() - started, _resident() - before, time.process_time(), len(bench.lines)

    seconds, grown, cpu, lines = in_worker(flood, 300)
    print(
        f"\n1 GiB without newline: {seconds:.2f} s, {cpu:.2f} s of worker CPU, {grown >> 10} KiB grown, {lines} lines"
    )
    assert grown < 8 << 20


def test_a_million_tiny_lines(tmp_path: Path) -> None:
    def flood() -> tuple[float, list[str], str]:
        bench = Bench(tmp_path)
        started = time.monotonic()
        ended = bench.shell("seq 1000000")
        return time.monotonic() - started, [line for _, line in bench.lines], ended.stdout

    seconds, lines, tail = in_worker(flood)
    print(f"\n1,000,000 lines: {seconds:.2f} s, {len(lines)} logged")
    dropped = sum(int(line.split()[1]) for line in lines if line.startswith("… "))
    shown = sum(not line.startswith("… ") for line in lines)
    assert shown + dropped == 1_000_000
    assert tail.endswith("\n1000000\n")
    assert seconds < 5


def test_binary_output(tmp_path: Path) -> None:
    def binary() -> list[str]:
        bench = Bench(tmp_path)
        assert bench.shell("head -c 100000 /dev/urandom").state is TaskState.COMPLETED
        return [line for _, line in bench.lines]

    assert all("\x1b" not in line and "\n" not in line and "\0" not in line for line in in_worker(binary))


def test_output_closed_while_it_goes_on(tmp_path: Path) -> None:
    def closes() -> tuple[Ended, float]:
        bench = Bench(tmp_path)
        before = time.process_time()
        ended = bench.shell("exec >&- 2>&-; sleep 2; exit 4")
        return ended, time.process_time() - before

    ended, cpu = in_worker(closes)
    assert ended.exit_code == 4
    assert cpu < 1.0  # a loop that spins takes all of 2 s


def test_a_background_child_that_keeps_the_pipes_open(tmp_path: Path) -> None:
    started = time.monotonic()
    ended = shell(tmp_path, "echo before; sleep 1000 & echo after")
    assert ended.state is TaskState.COMPLETED
    assert ended.stdout == "before\nafter\n"
    assert time.monotonic() - started < 5


def test_what_is_in_the_pipes_at_the_end_is_read(tmp_path: Path) -> None:
    ended = shell(tmp_path, "head -c 60000 /dev/zero | tr '\\0' y; echo last")
    assert ended.stdout.endswith("last\n")
    assert len(ended.stdout) == 60005


def test_a_step_does_not_outlive_an_error_of_its_worker(tmp_path: Path) -> None:
    def broken_log() -> tuple[str, bool]:
        bench = Bench(tmp_path)
        step = bench.step({"shell": "setsid sleep 1000 & echo out; sleep 1000"})
        step.emit = lambda *_: (_ for _ in ()).throw(OSError("no log"))
        with pytest.raises(OSError, match="no log") as caught:
            execute(step, containment())
        return str(caught.value), has_children()

    assert in_worker(broken_log) == ("no log", False)


def test_an_interrupt_that_stays_readable_does_not_spin(tmp_path: Path) -> None:
    def readable() -> int:
        bench = Bench(tmp_path)
        step = bench.step({"shell": "trap '' TERM; while :; do sleep 0.1; done"}, kill_grace=1.5)
        reader, writer = os.pipe()
        os.write(writer, b"!")
        asked: list[None] = []
        step.interrupt_fd = reader
        step.interrupted = lambda: (asked.append(None), Interrupt(Cause.CANCELLED))[1]
        assert execute(step, containment()).state is TaskState.CANCELLED
        return len(asked)

    assert in_worker(readable) < 500


def test_no_descriptor_and_no_child_is_left(tmp_path: Path) -> None:
    def many() -> tuple[set[str], set[str]]:
        bench = Bench(tmp_path)
        bench.shell("true")
        before = open_descriptors()
        for script in ("true", "exit 1", "sleep 100 &", "setsid sleep 100 & exit 0"):
            bench.shell(script)
        bench.run({"run": ["./none"]})
        bench.run({"run": ["true"]}, directory="/none")
        bench.run({"run": ["true"], "limits": {"memory": 1}})
        bench.shell("sleep 100", timeout=0.1)
        return before, open_descriptors()

    before, after = in_worker(many)
    assert before == after


def _script(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


def _resident() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
