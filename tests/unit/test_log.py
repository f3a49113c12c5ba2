"""The log as text and JSON: what a line looks like, that nobody can forge one, and that writing never waits."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.costs import fastest

from kubemin.telemetry import log, text

pytestmark = pytest.mark.usefixtures("fresh_log")
PROGRAM = "from kubemin.telemetry import log\n"


def run(code: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    options = {"stderr": subprocess.PIPE, "timeout": 30, "check": True} | options
    return subprocess.run([sys.executable, "-c", PROGRAM + code], **options)


def lines(pipe: tuple[int, int]) -> list[str]:
    os.set_blocking(pipe[0], False)
    data = b""
    with contextlib.suppress(BlockingIOError):
        while part := os.read(pipe[0], 65536):
            data += part
    return data.decode().splitlines()


# --- what a line looks like -------------------------------------------------------------------------------------------


def test_a_line() -> None:
    done = run('log.configure(role="worker 1"); log.info("task finished", run="01", seconds=0.25, cause=None, ok=True)')
    stamp, level, rest = done.stderr.decode().split(" ", 2)
    assert time.strptime(stamp, "%Y-%m-%dT%H:%M:%S.%fZ") and len(stamp) == 24
    assert (level, rest) == ("info", " worker 1: task finished run=01 seconds=0.25 ok=true\n")


def test_levels() -> None:
    code = 'for f in (log.debug, log.info, log.warning, log.error): f("m")\n'
    assert run(code).stderr.count(b"\n") == 3
    assert run("log.set_level('error')\n" + code).stderr.count(b"\n") == 1
    assert b" debug kubemin: m" in run("log.configure(level='debug')\n" + code).stderr
    with pytest.raises(ValueError, match="use one of debug, info"):
        log.set_level("loud")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say "x"\\', '"say \\"x\\"\\\\"'),
        ("", '""'),
        ("line\n2026 error forged", '"line\\n2026 error forged"'),
        ("\x1b[31m", '"\\x1b[31m"'),
        ("a\u2028b\u202ec\x85", '"a\\u2028b\\u202ec\\x85"'),
        ("tab\there", '"tab\\there"'),
        ("größe", "größe"),
        (1.0, "1"),
        (0.12345, "0.123"),
        (True, "true"),
        ([1, "a"], '"[1,\\"a\\"]"'),
        ({"a": {1, 2}}, '"{\\"a\\":[1,2]}"'),
        (b"x", "b'x'"),
    ],
)
def test_values(value: Any, shown: str) -> None:
    assert text.with_fields("m", {"k": value}) == f"m k={shown}"


@given(st.text(), st.dictionaries(st.from_regex(r"\A[a-z_]+\Z"), st.one_of(st.text(), st.integers(), st.floats())))
def test_nothing_makes_a_second_line(message: str, fields: dict[str, Any]) -> None:
    line = text.with_fields(message, fields)
    assert len(line.splitlines()) <= 1 and "\x1b" not in line
    line.encode()


def test_a_value_that_cannot_be_shown_does_no_harm() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    loop: list[Any] = []
    loop.append(loop)
    assert text.with_fields("m", {"a": Broken(), "b": loop}) == "m a=<Broken> b=<list>"


def test_json_lines() -> None:
    code = 'log.configure(format="json", role="coordinator", node="n"); log.warning("m", a=1, b="x\\ny", c=None, d=[1])'
    done = json.loads(run(code).stderr)
    assert done.pop("time").endswith("Z")
    assert done == {
        "level": "warning",
        "role": "coordinator",
        "node": "n",
        "message": "m",
        "a": 1,
        "b": "x\ny",
        "d": "[1]",
    }


def test_json_takes_everything() -> None:
    code = 'log.configure(format="json"); log.info("m\\ud800", a=2**80, b=float("nan"))'
    assert json.loads(run(code).stderr)["message"].startswith("m")


def test_a_steps_line(pipe: tuple[int, int], redirect: Any) -> None:
    redirect(pipe[1])
    log.configure(format="text", role="worker 2")
    log.step_line("stderr", "100 %\tof \x1b[1m it", workflow="nightly", step="load/a", run="01")
    assert lines(pipe)[0].endswith(" info  worker 2: nightly/load/a stderr| 100 %\tof \\x1b[1m it")


def test_an_unexpected_exception_is_one_line_and_a_traceback_at_debug() -> None:
    code = "try: 1 / 0\nexcept Exception as exc: log.exception('it failed', exc, op='x')"
    assert run(code).stderr.count(b"\n") == 1 and b"Traceback" not in run(code).stderr
    assert b"Traceback" in run("log.set_level('debug')\n" + code).stderr


def test_colours_only_on_a_terminal() -> None:
    master, slave = pty.openpty()
    environ = {**os.environ, "TERM": "xterm"}
    environ.pop("NO_COLOR", None)
    with os.fdopen(master, "rb", buffering=0) as terminal:
        run("log.error('m')", stderr=slave, env=environ)
        assert b"\x1b[31merror\x1b[0m" in terminal.read(4096)
        run("log.error('m')", stderr=slave, env=environ | {"NO_COLOR": "1"})
        assert b"\x1b" not in terminal.read(4096)
        os.close(slave)
    assert b"\x1b" not in run("log.error('m')", env=environ).stderr


def test_where_there_is_no_journal_the_log_goes_to_standard_error() -> None:
    code = "log.SOCKET = '/no/such/socket'\nlog.configure(format='journald')\nlog.configure(role='b')\nlog.info('m')"
    told, line = run(code).stderr.decode().splitlines()
    assert "there is no journal on this machine" in told and line.endswith("b: m")


# --- never waiting ---------------------------------------------------------------------------------------------------


def fill(writer: int) -> None:
    os.set_blocking(writer, False)
    for size in (65536, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"x" * size)
    os.set_blocking(writer, True)


def test_a_pipe_that_nobody_reads(pipe: tuple[int, int], redirect: Any) -> None:
    redirect(pipe[1])
    log.configure(format="text")
    fill(pipe[1])
    begin = time.monotonic()
    for number in range(1000):
        log.info("lost", number=number)
    assert time.monotonic() - begin < 1 and log.dropped() == 1000
    lines(pipe)
    log.info("here again")
    told, line = lines(pipe)
    assert "log records dropped" in told and told.endswith("count=1000") and line.endswith("here again")
    assert log.dropped() == 0


def test_the_flags_of_the_pipe_are_left_alone(pipe: tuple[int, int], redirect: Any) -> None:
    redirect(pipe[1])
    log.configure(format="text")
    log.info("m")
    assert os.get_blocking(pipe[1])


def test_a_reader_that_went_away(pipe: tuple[int, int], redirect: Any) -> None:
    redirect(pipe[1])
    log.configure(format="text")
    os.close(pipe[0])
    log.info("m")
    assert log.dropped() == 1


def test_a_socket_that_nobody_reads(redirect: Any) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        redirect(ours.fileno())
        log.configure(format="text")
        while not log.dropped():
            log.info("x" * 1000)
        theirs.settimeout(5)
        received = b""
        while select.select([theirs], [], [], 0)[0]:
            received += theirs.recv(1 << 20)
        log.info("here again")
        rest = theirs.recv(1 << 16).decode()
        assert "log records dropped" in rest and rest.endswith("here again\n")


def test_a_full_disk(redirect: Any) -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        redirect(full.fileno())
        log.configure(format="text")
        log.info("m")
        assert log.dropped() == 1


def test_a_file_shared_by_several_processes_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "log"
    code = (
        "import os\nlog.configure()\n"
        "for i in range(3):\n pid = os.fork()\n log.configure(role=f'p{i}')\n log.info('m')\n"
    )
    with path.open("wb") as file:
        file.write(b"before\n")
        file.flush()
        run(code + "import time\nwhile True:\n try: os.wait()\n except ChildProcessError: break", stderr=file)
    found = path.read_text().splitlines()
    assert found[0] == "before" and len(found) == 1 + 14 and all(line.endswith("m") for line in found[1:])


def test_a_terminal_stopped_with_ctrl_s() -> None:
    master, slave = pty.openpty()
    code = (
        "import termios\ntermios.tcflow(2, termios.TCOOFF)\nlog.configure(format='text')\n"
        "for _ in range(2000): log.info('x' * 200)\nprint(log.dropped())"
    )
    done = run(code, stderr=slave, stdout=subprocess.PIPE, timeout=20)
    os.close(slave)
    os.close(master)
    assert int(done.stdout) > 0


def test_long_lines_in_a_pipe_are_cut_into_atomic_parts(pipe: tuple[int, int], redirect: Any) -> None:
    redirect(pipe[1])
    log.configure(format="text", role="worker 1")
    body = "ä" * 3000
    log.step_line("stdout", body, workflow="w", step="s")
    found = lines(pipe)
    assert all(len(line.encode()) < select.PIPE_BUF for line in found) and len(found) == 2
    parts = [line.split(": ", 1)[1].removesuffix("…") for line in found]
    assert "".join(parts) == f"w/s stdout| {body}"


def test_long_json_in_a_pipe_stays_one_valid_line(pipe: tuple[int, int], redirect: Any) -> None:
    redirect(pipe[1])
    log.configure(format="json")
    log.info("m", a="\n" * 5000, b="ü" * 3000)
    (line,) = lines(pipe)
    assert len(line) < select.PIPE_BUF and json.loads(line)["a"].endswith("…")


def test_a_closed_standard_error_does_no_harm() -> None:
    run(
        "import os; os.close(2); log.configure(format='text'); log.error('m'); log.step_line('stdout', 'x')",
        stderr=None,
    )


def test_the_descriptor_is_our_own(pipe: tuple[int, int]) -> None:
    """A worker points 1 and 2 at the output of Python steps."""
    code = "import os\nlog.configure(role='worker 1')\nos.dup2(os.open('/dev/null', os.O_WRONLY), 2)\nlog.info('m')"
    assert run(code).stderr.endswith(b"worker 1: m\n")
    assert (
        run("import os\nlog.configure()\nprint(*map(os.get_inheritable, log.descriptors()))", stdout=-1).stdout
        == b"False\n"
    )


def test_a_swept_descriptor_is_opened_again_at_the_next_configure() -> None:
    code = (
        "import os\nlog.configure(role='a')\nos.closerange(3, 50)\nlog.info('lost')\n"
        "log.configure(role='b')\nlog.info('m')"
    )
    assert run(code).stderr.decode().splitlines()[-1].endswith("b: m")


def test_signals_in_the_middle(tmp_path: Path) -> None:
    code = (
        "import signal\nsignal.signal(signal.SIGALRM, lambda *_: None)\n"
        "signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)\n"
        "for i in range(3000): log.info('m', i=i)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\n"
    )
    with (tmp_path / "log").open("wb") as file:
        run(code, stderr=file)
    found = (tmp_path / "log").read_text().splitlines()
    assert [line.rsplit("=", 1)[1] for line in found] == [str(number) for number in range(3000)]


def test_standard_library_logging_is_not_imported() -> None:
    code = "import sys; log.info('m'); assert not {'logging', 'threading', 'asyncio'} & set(sys.modules), sys.modules"
    run(code)


# --- speed -----------------------------------------------------------------------------------------------------------


def test_what_is_not_written_costs_next_to_nothing(redirect: Any) -> None:
    with open("/dev/null", "wb") as null:
        redirect(null.fileno())
        log.configure(format="text")
        assert fastest(lambda: log.debug("task finished", task="01.3", attempt=1, seconds=0.5), 20_000) < 1e-6
        assert fastest(lambda: log.info("task finished", task="01.3", attempt=1, seconds=0.5), 2_000) < 30e-6


def test_workers_that_write_at_once_do_not_mix_lines(pipe: tuple[int, int], redirect: Any) -> None:
    redirect(pipe[1])
    log.configure(format="text")
    children = []
    for number in range(4):
        if (pid := os.fork()) == 0:
            log.configure(role=f"worker {number}")
            for _ in range(200):
                log.info("y" * 300)
            os._exit(0 if log.dropped() == 0 else 1)
        children.append(pid)
    os.close(pipe[1])
    for fd in log.descriptors():
        os.close(fd)
    data = b""
    while part := os.read(pipe[0], 1 << 16):
        data += part
    for pid in children:
        os.waitpid(pid, 0)
    found = data.decode().splitlines()
    assert found and all(line.endswith("y" * 300) or "dropped" in line for line in found)
