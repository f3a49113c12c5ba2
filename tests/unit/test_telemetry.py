"""The log: what a line looks like, that nobody can forge one, and that writing never waits."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import pty
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubemin.telemetry import journal, log, streams, text
from kubemin.telemetry.events import MESSAGE_IDS, message_id

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "from kubemin.telemetry import log\n"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a log of its own."""
    monkeypatch.setattr(log, "_state", log._State())
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)


@pytest.fixture
def redirect(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`redirect(fd)`: the log's standard error is `fd`."""
    return lambda fd: monkeypatch.setattr(log, "StandardError", lambda: streams.StandardError(fd))


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(fd)


@pytest.fixture
def journald(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[socket.socket]:
    """A datagram socket in journald's place, and the log configured for it."""
    path = str(tmp_path / "socket")
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(path)
    monkeypatch.setattr(log, "SOCKET", path)
    log.configure(format="journald", role="worker 3", node="node-a", level="info")
    with server:
        yield server


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


def record(server: socket.socket) -> dict[str, str]:
    """One record of journald's protocol, decoded."""
    server.settimeout(5)
    data, rights, _, _ = server.recvmsg(1 << 20, socket.CMSG_SPACE(4))
    if rights:
        fd = int.from_bytes(rights[0][2][:4], sys.byteorder)
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        assert seals & fcntl.F_SEAL_WRITE and seals & fcntl.F_SEAL_SHRINK and seals & fcntl.F_SEAL_GROW
        with open(fd, "rb") as file:
            file.seek(0)
            data = file.read()
    fields = {}
    while data:
        head, _, data = data.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            size = int.from_bytes(data[:8], "little")
            value, data = data[8 : 8 + size], data[9 + size :]
        fields[name.decode()] = value.decode()
    return fields


# --- what a line looks like ------------------------------------------------------------------------------------------


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


# --- journald --------------------------------------------------------------------------------------------------------


def test_fields_in_the_journal(journald: socket.socket) -> None:
    log.warning("task failed", workflow="nightly", run="01", step="a/b", task="01.3", attempt=2, cause="exit", worker=3)
    assert record(journald) == {
        "MESSAGE": "task failed workflow=nightly run=01 step=a/b task=01.3 attempt=2 cause=exit worker=3",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "kubemin",
        "KUBEMIN_NODE": "node-a",
        "KUBEMIN_ROLE": "worker 3",
        "KUBEMIN_WORKFLOW": "nightly",
        "KUBEMIN_RUN": "01",
        "KUBEMIN_STEP": "a/b",
        "KUBEMIN_TASK": "01.3",
        "KUBEMIN_ATTEMPT": "2",
        "KUBEMIN_CAUSE": "exit",
        "KUBEMIN_WORKER": "3",
    }


def test_values_with_newlines_add_no_fields(journald: socket.socket) -> None:
    log.error("m", reason="x\nPRIORITY=0\nMESSAGE=forged")
    found = record(journald)
    assert found["KUBEMIN_REASON"] == "x\nPRIORITY=0\nMESSAGE=forged" and found["PRIORITY"] == "3"
    assert "\n" not in found["MESSAGE"]


def test_a_steps_line_is_the_message(journald: socket.socket) -> None:
    log.step_line("stdout", "hello", workflow="w", step="s", run="01")
    found = record(journald)
    assert (found["MESSAGE"], found["KUBEMIN_STREAM"], found["KUBEMIN_STEP"]) == ("hello", "stdout", "s")


def test_a_large_record_travels_as_a_sealed_memfd(journald: socket.socket) -> None:
    body = "x" * (16 << 20)
    log.info("m", body=body)
    assert record(journald)["KUBEMIN_BODY"] == body


def test_a_journal_that_does_not_read(journald: socket.socket) -> None:
    begin = time.monotonic()
    for _ in range(5000):
        log.info("x" * 100)
    assert log.dropped() > 0 and time.monotonic() - begin < 5
    count = 5000 - log.dropped()
    for _ in range(count):
        record(journald)
    log.info("here again")
    assert "log records dropped" in record(journald)["MESSAGE"]
    assert record(journald)["MESSAGE"] == "here again"


def test_a_journal_that_is_restarted(journald: socket.socket) -> None:
    path = journald.getsockname()
    journald.close()
    os.unlink(path)
    log.info("lost")
    assert log.dropped() == 1
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as again:
        again.bind(path)
        log.info("m")
        assert record(again)["MESSAGE"].endswith("count=1") and record(again)["MESSAGE"] == "m"


def test_an_exceptions_traceback_is_a_field(journald: socket.socket) -> None:
    log.exception("it failed", ValueError("no"))
    found = record(journald)
    assert found["KUBEMIN_TRACEBACK"].startswith("ValueError: no") and "\n" not in found["MESSAGE"]


def test_each_process_has_its_own_socket(journald: socket.socket) -> None:
    before = log._state.journal
    log.configure(role="worker 4")
    assert log._state.journal is not before and len(log.descriptors()) == 1


def test_a_swept_socket_whose_number_is_anothers_is_left_alone(journald: socket.socket) -> None:
    (number,) = log.descriptors()
    with open("/dev/null", "rb") as other:
        os.dup2(other.fileno(), number)
        log.configure(role="worker 4")
        gc.collect()
        assert os.fstat(number).st_ino == os.fstat(other.fileno()).st_ino
        os.close(number)
    log.info("m")
    assert record(journald)["MESSAGE"] == "m"


def test_auto_is_the_journal_only_when_systemd_gave_us_its_stream(journald: socket.socket, redirect: Any) -> None:
    with open("/dev/null", "wb") as null:
        status = os.fstat(null.fileno())
        stream = f"{status.st_dev}:{status.st_ino}"
        assert journal.started_by_systemd(null.fileno(), stream)
        assert not journal.started_by_systemd(null.fileno(), "1:2") and not journal.started_by_systemd(9999, stream)


def test_where_there_is_no_journal_the_log_goes_to_standard_error() -> None:
    code = "log.SOCKET = '/no/such/socket'\nlog.configure(format='journald')\nlog.configure(role='b')\nlog.info('m')"
    told, line = run(code).stderr.decode().splitlines()
    assert "there is no journal on this machine" in told and line.endswith("b: m")


def test_main_events_have_ids_of_their_own() -> None:
    assert len(set(MESSAGE_IDS.values())) == len(MESSAGE_IDS)
    assert all(len(number) == 32 and int(number, 16) for number in MESSAGE_IDS.values())


def test_main_events_are_logged_under_these_very_words() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "kubemin").rglob("*.py") if path.name != "events.py")
    transitions = r"(run|task) (finished|cancelled|retrying|requeued|quarantined|fenced)"  # of store.base.Change
    for message in MESSAGE_IDS:
        words = message.replace("Node NODE", "Node {self._node}")
        assert f'"{words}"' in source or re.fullmatch(transitions, message), message


def test_the_elections_lines_have_ids_whatever_the_nodes_name() -> None:
    for node in ("vm-17", "NODE", "became leader"):
        assert message_id(f"Node {node} became leader", node) == MESSAGE_IDS["Node NODE became leader"]
        assert message_id(f"Node {node} is follower", node) == MESSAGE_IDS["Node NODE is follower"]
    assert message_id("Node vm-18 became leader", "vm-17") is None
    assert message_id("Worker 1 executing task t.0", "vm-17") is None


# --- speed -----------------------------------------------------------------------------------------------------------


def test_what_is_not_written_costs_next_to_nothing(redirect: Any) -> None:
    with open("/dev/null", "wb") as null:
        redirect(null.fileno())
        log.configure(format="text")
        assert fastest(lambda: log.debug("task finished", task="01.3", attempt=1, seconds=0.5), 20_000) < 1e-6
        assert fastest(lambda: log.info("task finished", task="01.3", attempt=1, seconds=0.5), 2_000) < 30e-6


def fastest(call: Any, times: int) -> float:
    """CPU seconds a call, the best of five rounds: what the machine's other work does not disturb."""
    rounds = []
    for _ in range(5):
        begin = time.process_time()
        for _ in range(times):
            call()
        rounds.append((time.process_time() - begin) / times)
    return min(rounds)


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
