"""The clients' socket under clients that are broken or greedy: they are refused or cut off, others are served."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from support import Daemon

from kubemin.coordinator.server import UNANSWERED
from kubemin.model.ids import run_id

NODE = {"step": "a", "work": {"run": ["true"]}}


def connect(daemon: Daemon) -> socket.socket:
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stream.settimeout(20)
    stream.connect(str(daemon.run / "kubemin.sock"))
    return stream


def frame(request: Any) -> bytes:
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    return len(body).to_bytes(4, "big") + body


def ask(daemon: Daemon, request: Any) -> dict[str, Any]:
    with connect(daemon) as stream, stream.makefile("rb") as replies:
        stream.sendall(frame(request))
        reply: dict[str, Any] = json.loads(replies.read(int.from_bytes(replies.read(4), "big")))
        return reply


def cut_off(stream: socket.socket) -> bool:
    try:
        while stream.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100])
def test_what_is_no_frame_is_cut_off(shared_daemon: Daemon, noise: bytes) -> None:
    with connect(shared_daemon) as stream:
        stream.sendall(noise)
        assert cut_off(stream)


@pytest.mark.parametrize("request_", [b"", b"hello", b"{}", [], "x", None, {"op": "nope"}, {"op": "cancel", "run": 5}])
def test_what_is_no_request_is_refused(shared_daemon: Daemon, request_: Any) -> None:
    assert ask(shared_daemon, request_)["error"]["exitCode"] == 2


HUGE = 10**30


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("start_at", HUGE), ("start_at", 2**63), ("start_at", 2**63 - 1), ("start_at", -1), ("scheduled_at", HUGE),
        ("timeout", HUGE), ("timeout", -1), ("timeout", 1e308), ("retry", {"limit": 1, "delay": HUGE}),
        ("retry", {"limit": HUGE}), ("retry", {"limit": -1}), ("retry", {"limit": 1, "factor": HUGE}),
        ("retry", {"limit": 1, "max_delay": -1}), ("retry", {"limit": 1, "delay": None}),
    ],
)  # fmt: skip
def test_times_that_no_calendar_holds_are_refused(shared_daemon: Daemon, field: str, value: Any) -> None:
    submission = {"id": run_id(), "work": {"run": ["true"]}, field: value}
    reply = ask(shared_daemon, {"op": "submit", "submissions": [submission]})
    refused = reply.get("error") or reply["ok"][0]
    assert (refused.get("exitCode") or refused.get("exit_code")) == 2, reply
    assert field in refused["message"] and "\n" not in refused["message"]
    assert shared_daemon.client.states([submission["id"]]) == {}


@pytest.mark.parametrize(
    "nodes",
    [
        [],
        [NODE | {"needs": [[5, False]]}],
        [NODE | {"needs": [[0, False]]}],
        [NODE | {"refs": [1]}],
        [{"step": "a"}],
        [NODE | {"kind": "join"}],
    ],
)
def test_a_graph_that_could_not_end_is_refused(shared_daemon: Daemon, nodes: list[Any]) -> None:
    definition = {"hash": "0", "graph": {"workflow": "broken", "nodes": nodes}}
    reply = ask(shared_daemon, {"op": "submit", "submissions": [], "definitions": [definition]})
    assert "cannot be run" in reply["error"]["message"]


def test_a_client_that_only_asks_is_cut_off(shared_daemon: Daemon) -> None:
    waiting = shared_daemon.client.options(delay="1h").enqueue("some.module:function")
    with connect(shared_daemon) as stream:
        stream.sendall(frame({"op": "wait", "runs": [waiting.id]}))
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            for _ in range(UNANSWERED):
                stream.sendall(100 * frame({"op": "ping"}))
    assert "ok" in ask(shared_daemon, {"op": "ping"})
