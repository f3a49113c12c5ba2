"""The log in journald's protocol: its fields, records of any size, a journal that is slow or away, and message ids."""

from __future__ import annotations

import fcntl
import gc
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubemin.telemetry import journal, log
from kubemin.telemetry.events import MESSAGE_IDS, message_id

pytestmark = pytest.mark.usefixtures("fresh_log")
ROOT = Path(__file__).resolve().parents[2]


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


def test_auto_is_the_journal_only_when_systemd_gave_us_its_stream() -> None:
    with open("/dev/null", "wb") as null:
        status = os.fstat(null.fileno())
        stream = f"{status.st_dev}:{status.st_ino}"
        assert journal.started_by_systemd(null.fileno(), stream)
        assert not journal.started_by_systemd(null.fileno(), "1:2") and not journal.started_by_systemd(9999, stream)


# --- message ids ------------------------------------------------------------------------------------------------------


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
