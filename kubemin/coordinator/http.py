"""`httpAddr`: a small HTTP server in a thread of its own, for scrapers and health checks.

It answers GET and HEAD of a few paths, one request a connection. Its own thread, because rendering a scrape may take
longer than the coordinator's loop may wait; one for all clients, so that slow ones cost nothing: each has
`CLIENT_SECONDS`, and there are `CLIENTS` at once at most. The coordinator never forks, so it may have threads.
"""

from __future__ import annotations

import selectors
import signal
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple

from kubemin import clock
from kubemin.telemetry import log

CLIENT_SECONDS = 5.0
CLIENTS = 64
REQUEST_BYTES = 8192
RETRY_SECONDS = 10.0  # between two tries to listen


class Answer(NamedTuple):
    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


class _Client:
    __slots__ = ("deadline", "inbound", "outbound", "socket")

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.inbound = b""
        self.outbound = memoryview(b"")
        self.deadline = clock.monotonic() + CLIENT_SECONDS


class HttpServer:
    """`answer` is called with the path, in the server's thread; what it raises is a 500 and a line in the log."""

    def __init__(self, address: str, answer: Callable[[str], Answer]) -> None:
        self.address = address
        self._answer = answer
        self._selector = selectors.DefaultSelector()
        self._clients: set[_Client] = set()
        self._told = False

    def start(self) -> None:
        threading.Thread(target=self._run, name="http", daemon=True).start()

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are the loop's
        stop = threading.Event()
        while (listener := self._listen()) is None:
            stop.wait(RETRY_SECONDS)
        self._selector.register(listener, selectors.EVENT_READ, None)
        while True:
            for key, events in self._selector.select(self._timeout()):
                if key.data is None:
                    self._accept(listener)
                else:
                    self._serve(key.data, events)
            self._expire()

    def _listen(self) -> socket.socket | None:
        """None: not now. The daemon's work does not depend on it."""
        host, port = split_address(self.address)
        try:
            listener = _bound(host, port)
        except OSError as exc:
            if not self._told:
                log.error(
                    "no metrics and health: cannot listen; trying again", address=self.address, reason=exc.strerror
                )
                self._told = True
            return None
        listener.listen(CLIENTS)
        listener.setblocking(False)
        log.info("metrics and health are served", address=self.address)
        return listener

    # --- clients ------------------------------------------------------------------------------------------------------

    def _timeout(self) -> float | None:
        deadlines = [client.deadline for client in self._clients]
        return max(0.0, min(deadlines) - clock.monotonic()) if deadlines else None

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        if len(self._clients) >= CLIENTS:
            sock.close()
            return
        sock.setblocking(False)
        client = _Client(sock)
        self._clients.add(client)
        self._selector.register(sock, selectors.EVENT_READ, client)

    def _serve(self, client: _Client, events: int) -> None:
        try:
            going_on = self._send(client) if events & selectors.EVENT_WRITE else self._read(client)
        except BlockingIOError:
            return
        except OSError:
            going_on = False
        if not going_on:
            self._close(client)

    def _read(self, client: _Client) -> bool:
        data = client.socket.recv(REQUEST_BYTES)
        client.inbound += data
        if b"\r\n\r\n" in client.inbound or b"\n\n" in client.inbound:
            client.outbound = memoryview(self._respond(client.inbound))
            self._selector.modify(client.socket, selectors.EVENT_WRITE, client)
            return self._send(client)
        return bool(data) and len(client.inbound) <= REQUEST_BYTES

    def _send(self, client: _Client) -> bool:
        """Whether something is left to send. Raises BlockingIOError."""
        client.outbound = client.outbound[client.socket.send(client.outbound) :]
        return bool(client.outbound)

    def _close(self, client: _Client) -> None:
        self._selector.unregister(client.socket)
        self._clients.discard(client)
        client.socket.close()

    def _expire(self) -> None:
        now = clock.monotonic()
        for client in [client for client in self._clients if client.deadline <= now]:
            self._close(client)

    # --- requests -----------------------------------------------------------------------------------------------------

    def _respond(self, request: bytes) -> bytes:
        method, path = _parse(request)
        if method not in ("GET", "HEAD"):
            return _response(Answer(405, b"only GET and HEAD\n"), body=True)
        try:
            answer = self._answer(path)
        except Exception as exc:
            log.exception("a request for metrics or health failed; please report this", exc, path=path)
            answer = Answer(500, b"failed; see the daemon's log\n")
        return _response(answer, body=method == "GET")


def _parse(request: bytes) -> tuple[str, str]:
    """Method and path without its query; what is no request is method ""."""
    words = request.split(b"\n", 1)[0].split()
    if len(words) < 2:
        return "", ""
    return words[0].decode("ascii", "replace"), words[1].partition(b"?")[0].decode("ascii", "replace")


def _response(answer: Answer, *, body: bool) -> bytes:
    head = (
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\nContent-Type: {answer.content_type}\r\n"
        f"Content-Length: {len(answer.body)}\r\nConnection: close\r\nCache-Control: no-store\r\n\r\n"
    )
    return head.encode() + (answer.body if body else b"")


def split_address(address: str) -> tuple[str, int]:
    """`127.0.0.1:9105`, `[::1]:9105`, or `:9105` for every address of the machine."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _bound(host: str, port: int) -> socket.socket:
    """Raises OSError."""
    if not host:
        return (
            socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
            if socket.has_dualstack_ipv6()
            else socket.create_server(("", port))
        )
    family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(place[:2], family=family)
