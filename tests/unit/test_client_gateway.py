"""The client's way to the store: the file while nobody holds it, the socket otherwise, and connections that break."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import msgspec
import pytest

from kubemin.api import gateway
from kubemin.api.direct import carry_out_all
from kubemin.client import AT_ONCE, Client
from kubemin.errors import Invalid, KubeminError, NotFound, Refused, StoreUnavailable, Unreachable


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    (tmp_path / "run").mkdir()
    with Client(state_dir=str(tmp_path / "state"), runtime_dir=str(tmp_path / "run")) as made:
        yield made


class Server:
    """A daemon as far as a client sees it: holds the lock, carries requests out on the real store, cuts connections.

    `drop(n)` is asked for each request, n counting from 0: "before" cuts the connection with the request unread,
    "after" carries it out and cuts before the reply, "" answers.
    """

    def __init__(self, client: Client, drop: Callable[[int], str] = lambda n: "") -> None:
        self.path = os.path.join(client.state_dir, "kubemin.db")
        self.drop, self.requests = drop, 0
        os.makedirs(client.state_dir, exist_ok=True)
        self.lock = os.open(os.path.join(client.state_dir, "lock"), os.O_RDWR | os.O_CREAT)
        fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.socket_path = os.path.join(client.runtime_dir, "kubemin.sock")
        self.listener: socket.socket | None = None

    def listen(self) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.socket_path)
        self.listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        assert self.listener is not None
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                self._answer(connection, stream)  # one client at a time is enough here

    def _answer(self, connection: socket.socket, stream: BinaryIO) -> None:
        while head := stream.read(4):
            what = self.drop(self.requests)
            self.requests += 1
            if what == "before":
                return
            reply = self._carry_out(stream.read(int.from_bytes(head, "big")))
            if what == "after":
                return
            connection.sendall(len(reply).to_bytes(4, "big") + reply)

    def _carry_out(self, body: bytes) -> bytes:
        try:
            return carry_out_all(self.path, [body])[0]
        except KubeminError as exc:
            return msgspec.json.encode({"error": {"code": exc.code, "message": str(exc), "exitCode": exc.exit_code}})

    def close(self) -> None:
        if self.listener is not None:
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
            os.unlink(self.socket_path)
        os.close(self.lock)


@pytest.fixture
def serve(client: Client) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(drop: Callable[[int], str] = lambda n: "", *, listening: bool = True) -> Server:
        server = Server(client, drop)
        started.append(server)
        if listening:
            server.listen()
        return server

    yield start
    client.close()
    for server in started:
        server.close()


def ids(client: Client) -> set[str]:
    return {run.id for run in client.runs(limit=100_000)}


# --- without a daemon ---


def test_without_a_daemon_the_file_is_written(client: Client) -> None:
    run = client.enqueue("m:f", 1)
    assert run.status == "waiting" and run.created
    assert ids(client) == {run.id}
    assert not client._gateway.locked()  # let go again


def test_reading_says_when_there_is_nothing(client: Client) -> None:
    with pytest.raises(StoreUnavailable, match="nothing was submitted yet"):
        client.runs()
    with pytest.raises(NotFound):
        client.submit("nightly-report")


def test_a_large_batch_is_one_commit(client: Client) -> None:
    runs = client.enqueue_many("m:f", [((n,), {}) for n in range(2 * AT_ONCE + 500)])
    assert len({run.id for run in runs}) == 2 * AT_ONCE + 500
    assert set(client.states(runs).values()) == {"waiting"} and len(client.states(runs)) == len(runs)


def test_an_empty_batch_is_nothing(client: Client) -> None:
    assert client.enqueue_many("m:f", []) == []


def test_one_bad_item_submits_nothing(client: Client) -> None:
    first = client.enqueue("m:f")
    with pytest.raises(Invalid, match=r"items\[2000\]"):
        client.enqueue_many("m:f", [*[((n,), {}) for n in range(2000)], (({1},), {})])
    assert ids(client) == {first.id}


def test_a_workflow_of_the_folder_can_be_submitted_before_any_daemon_ran(client: Client, tmp_path: Path) -> None:
    (tmp_path / "hello.yaml").write_text(
        "name: hello\nparams: {who: }\nsteps:\n  - name: greet\n    run: [echo, '${{ params.who }}']\n"
    )
    client.workflows_dir = str(tmp_path)
    assert client.submit("hello", {"who": "you"}).view().params == {"who": "you"}
    with pytest.raises(Invalid, match="who"):
        client.submit("hello")


def test_files_and_parameters(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "hello.yaml"
    file.write_text(
        "name: hello\nparams: {who: {default: me, pattern: '[a-z]+'}}\nsteps:\n  - {name: greet, run: [ls]}\n"
    )
    assert client.submit(file).view().params == {"who": "me"}
    assert client.submit(str(file), key="k").created
    assert not client.submit(str(file), key="k").created
    with pytest.raises(Refused) as refused:
        client.submit(str(file), {"who": "you"}, key="k")
    assert (refused.value.code, refused.value.exit_code) == ("key_conflict", 5)
    for key in ("", "two\nlines", "\x1b[31mred", "k" * 513):
        with pytest.raises(Invalid, match="one line of text"):
            client.submit(str(file), key=key)
    with pytest.raises(Invalid):
        client.submit(file, {"who": "YOU", "what": 1})
    with pytest.raises(Invalid):
        client.submit(tmp_path / "none.yaml")
    with pytest.raises(Invalid, match="JSON"):
        client.submit(file, {"who": b"you"})


def test_cancel_retry_and_wait_without_a_daemon(client: Client) -> None:
    run = client.enqueue("m:f")
    with pytest.raises(TimeoutError, match=r"had not ended after 0\.05 s"):
        run.wait(0.05)
    with pytest.raises(Refused):
        run.retry()
    with pytest.raises(Refused) as going_on:
        run.result  # noqa: B018
    assert going_on.value.code == "not_ended"
    assert run.cancel()
    assert run.wait(5) == "cancelled" and run.wait(0) == "cancelled"
    assert not run.cancel()
    assert run.retry() == 2 and run.status != "cancelled"
    with pytest.raises(NotFound):
        client.cancel("0" * 20)
    with pytest.raises(NotFound):
        client.wait(["0" * 20], 1)
    assert client.wait([], 1) == {}


def test_queues(client: Client) -> None:
    client.enqueue("m:f")
    client.pause("default")
    assert [(view.name, view.length, view.paused) for view in client.queues()] == [("default", 1, True)]
    client.resume("default")
    assert not client.queues()[0].paused


def test_many_clients_take_turns(client: Client) -> None:
    def submit(n: int) -> str:
        with Client(state_dir=client.state_dir, runtime_dir=client.runtime_dir) as own:
            return own.enqueue("m:f", n).id

    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(submit, range(40)))
    assert ids(client) == made and len(made) == 40


# --- with a daemon ---


def test_threads_share_a_client(client: Client, serve: Callable[..., Server]) -> None:
    serve()
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda n: client.enqueue("m:f", n).id, range(100)))
    assert ids(client) == made and len(made) == 100


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_dropped_connection_submits_once(client: Client, serve: Callable[..., Server], when: str) -> None:
    server = serve(lambda n: when if n == 0 else "")
    run = client.enqueue("m:f")
    assert ids(client) == {run.id} and server.requests == 2


@pytest.mark.parametrize("at", [0, 2, 3])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_dropped_connection_in_a_large_batch(
    client: Client, serve: Callable[..., Server], when: str, at: int
) -> None:
    serve(lambda n: when if n == at else "")  # three parts and their seal
    runs = client.enqueue_many("m:f", [((n,), {}) for n in range(2 * AT_ONCE + 500)])
    states = client.states(runs)
    assert len(states) == len(runs) and set(states.values()) == {"waiting"}
    assert ids(client) <= {run.id for run in runs}  # and nothing besides


def test_a_connection_that_keeps_dropping_is_reported(
    client: Client, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(lambda n: "before")
    monkeypatch.setattr(gateway, "ARRIVAL", 0.2)
    with pytest.raises(Unreachable, match="keeps being lost"):
        client.enqueue("m:f")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_retry_whose_answer_was_lost(client: Client, serve: Callable[..., Server], when: str) -> None:
    run = client.enqueue("m:f")
    run.cancel()
    server = serve(lambda n: when if n == 0 else "")
    assert run.retry() == 2
    assert server.requests == 2 and run.view().round == 2


def test_a_daemon_that_has_gone_leaves_the_file_to_us(client: Client, serve: Callable[..., Server]) -> None:
    server = serve(lambda n: "before" if n else "")
    one = client.enqueue("m:f")
    server.drop = lambda n: server.close() or "before"  # type: ignore[func-returns-value]
    two = client.enqueue("m:f")
    server.close = lambda: None  # type: ignore[method-assign]
    assert ids(client) == {one.id, two.id}


def test_a_client_does_not_write_past_somebody_who_holds_the_lock(client: Client, serve: Callable[..., Server]) -> None:
    """Somebody was faster between the look at the lock and taking it."""
    serve(listening=False)
    written: list[bytes] = []

    def requests() -> list[bytes]:
        written.append(b'{"op":"pause","queue":"etl"}')
        return written

    assert client._gateway._directly(requests) is None
    assert written == []


def test_a_daemon_that_listens_later_is_waited_for(client: Client, serve: Callable[..., Server]) -> None:
    server = serve(listening=False)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.enqueue, "m:f")
        server.listen()
        assert waiting.result(10).status == "waiting"
    assert server.requests == 1


def test_a_daemon_that_never_listens(
    client: Client, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(listening=False)
    monkeypatch.setattr(gateway, "ARRIVAL", 0.1)
    with pytest.raises(Unreachable, match=r"does not answer at .*kubemin.sock"):
        client.enqueue("m:f")


def test_a_silent_daemon(client: Client, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(listening=False)
    server.listener = socket.socket(socket.AF_UNIX)
    server.listener.bind(server.socket_path)
    server.listener.listen()
    monkeypatch.setattr(gateway.Connection.__init__, "__defaults__", (0.1,))
    with pytest.raises(Unreachable, match=r"no answer in 0\.1 s") as silent:
        client.enqueue("m:f")
    assert silent.value.code == "no_answer"


def test_after_a_fork_both_sides_go_on(client: Client, serve: Callable[..., Server], tmp_path: Path) -> None:
    serve()
    first = client.enqueue("m:f", 0)
    client._gateway.disconnect()  # this server serves one connection at a time
    assert client.runs()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            made = client.enqueue("m:f", 1)
            (tmp_path / "child").write_text(made.id if made.status == "waiting" else "")
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    second = client.enqueue("m:f", 2)
    assert ids(client) == {first.id, second.id, (tmp_path / "child").read_text()}


def test_a_lock_held_by_another_thread_at_the_fork_does_not_hang_the_child(client: Client) -> None:
    with client._lock:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                client.enqueue("m:f")
                code = 0
            finally:
                os._exit(code)
    deadline = time.monotonic() + 10
    while (done := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    if done == (0, 0):
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    assert done[1] == 0 and done[0] == pid


def test_refusals_keep_their_kind() -> None:
    def refusal(exit_code: int) -> bytes:
        return msgspec.json.encode({"error": {"code": "c", "message": "m", "exitCode": exit_code, "problems": []}})

    for exit_code, kind in ((2, Invalid), (3, Unreachable), (4, NotFound), (5, Refused)):
        with pytest.raises(kind, match="m") as told:
            gateway.result(refusal(exit_code))
        assert told.value.exit_code == exit_code
    with pytest.raises(Unreachable, match="makes no sense"):
        gateway.result(b"<html>")
