"""The clients' socket: frames in, replies out, nothing decided here.

A frame is a 4-byte big-endian length and a JSON object (docs/design.md section 6). Requests of one connection are
answered in order; a reply is queued by `Server.reply` and leaves after the loop's commit. A client that does not read
its replies is cut off rather than waited for. Whoever may write to this socket may run commands as the daemon's user:
it is 0660, of group `kubemin` where that exists.
"""

from __future__ import annotations

import contextlib
import grp
import os
import select
import socket
from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec

from kubemin import clock
from kubemin.errors import Invalid, KubeminError, Unreachable
from kubemin.telemetry import log

FRAME_BYTES = 64 * 1024 * 1024
READ_BYTES = 1024 * 1024  # taken from one connection a round, so that one client cannot hold up the others
UNREAD_BYTES = 64 * 1024 * 1024  # replies a client may leave unread before it is cut off
UNANSWERED = 10_000  # requests of one client that wait for their replies; a client of ours sends 16
CONNECTIONS = 1000
TELL_SECONDS = 10.0  # between two words about clients that were turned away


class Request(msgspec.Struct):
    """One request, as it arrived. `submissions` stays undecoded: a staged batch is kept as it is."""

    op: str
    submissions: msgspec.Raw = msgspec.Raw(b"[]")
    definitions: msgspec.Raw = msgspec.Raw(b"[]")
    batch: str = ""
    run: str = ""
    step: str | None = None
    queue: str = ""
    runs: list[str] = []


_decode_request = msgspec.json.Decoder(Request).decode
_encode = msgspec.json.Encoder().encode


class Reply:
    """A place in a connection's order of replies; empty until the loop fills it."""

    __slots__ = ("body", "connection")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.body: bytes | None = None

    def ok(self, value: Any) -> None:
        self.body = b'{"ok":' + _encode(value) + b"}"

    def error(self, error: KubeminError) -> None:
        self.body = _encode(
            {
                "error": {
                    "code": error.code,
                    "message": str(error),
                    "exitCode": error.exit_code,
                    "problems": list(error.problems),
                }
            }
        )


class Connection:
    """One client. `replies` are those not answered yet, in the order of their requests."""

    __slots__ = ("closed", "inbound", "outbound", "replies", "socket", "want_write")

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.inbound = bytearray()
        self.outbound = bytearray()
        self.replies: deque[Reply] = deque()
        self.closed = False
        self.want_write = False

    def receive(self) -> bool:
        """Read what is there, at most READ_BYTES. False: the client is gone."""
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.inbound += data
        return bool(data)

    def frames(self) -> Iterator[bytes]:
        """Complete frames, taken off the inbound buffer. Raises ValueError for one that is too large."""
        start, buffer = 0, self.inbound
        while len(buffer) - start >= 4:
            length = int.from_bytes(buffer[start : start + 4], "big")
            if length > FRAME_BYTES:
                raise ValueError(f"a frame of {length} bytes; at most {FRAME_BYTES} are taken")
            if len(buffer) - start < 4 + length:
                break
            yield bytes(buffer[start + 4 : start + 4 + length])
            start += 4 + length
        if start:
            del buffer[:start]

    def flush(self) -> None:
        """Move answered replies, in order, into the outbound buffer, and send what goes out now."""
        while self.replies and self.replies[0].body is not None:
            body = self.replies.popleft().body or b""
            self.outbound += len(body).to_bytes(4, "big") + body
        if self.outbound:
            try:
                del self.outbound[: self.socket.send(self.outbound)]
            except BlockingIOError:
                pass
            except OSError:
                self.closed = True
        if len(self.outbound) > UNREAD_BYTES or len(self.replies) > UNANSWERED:
            self.closed = True


class Server:
    """Listens, reads requests, sends replies. Owned by the coordinator's loop, which also owns the poller."""

    def __init__(self, path: str, poller: select.epoll) -> None:
        self.path = path
        self._poller = poller
        self._connections: dict[int, Connection] = {}
        self._turned_away = 0
        self._told_at = -TELL_SECONDS
        self._listener = self._listen(path)
        poller.register(self._listener, select.EPOLLIN)

    @staticmethod
    def _listen(path: str) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # a dead coordinator's: the state lock says that no other daemon is alive
        try:
            mask = os.umask(0o117)
            try:
                listener.bind(path)
            finally:
                os.umask(mask)
            with contextlib.suppress(KeyError, OSError):
                os.chown(path, -1, grp.getgrnam("kubemin").gr_gid)
            listener.listen(256)
        except OSError as exc:
            raise Unreachable(f"cannot listen on {path}: {exc.strerror}; set runtimeDir to a writable folder") from exc
        return listener

    def owns(self, fd: int) -> bool:
        return fd == self._listener.fileno() or fd in self._connections

    def on_event(self, fd: int, events: int) -> Iterator[tuple[Request, Reply]]:
        """Handle readiness of one descriptor; yields the requests that came in."""
        if fd == self._listener.fileno():
            self._accept()
            return
        connection = self._connections.get(fd)
        if connection is None:
            return
        if events & select.EPOLLOUT:
            self._flush(connection)
        if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            alive = connection.receive()
            yield from self._requests(connection)
            if not alive:
                self._close(connection)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            if len(self._connections) >= CONNECTIONS:
                sock.close()
                self._turn_away()
                continue
            sock.setblocking(False)
            self._connections[sock.fileno()] = Connection(sock)
            self._poller.register(sock, select.EPOLLIN)

    def _turn_away(self) -> None:
        """Told at once, and then now and again with their number."""
        self._turned_away += 1
        now = clock.monotonic()
        if now - self._told_at >= TELL_SECONDS:
            log.warning("too many clients are connected", limit=CONNECTIONS, turned_away=self._turned_away)
            self._turned_away, self._told_at = 0, now

    def _requests(self, connection: Connection) -> Iterator[tuple[Request, Reply]]:
        try:
            for frame in connection.frames():
                reply = Reply(connection)
                connection.replies.append(reply)
                try:
                    request = _decode_request(frame)
                except (msgspec.DecodeError, UnicodeDecodeError) as exc:
                    reply.error(Invalid(f"not a request: {exc}"))
                    self._flush(connection)
                    continue
                yield request, reply
        except ValueError as exc:  # what follows a broken frame cannot be trusted
            log.warning("a client was cut off", reason=str(exc))
            self._close(connection)

    def flush(self, replies: list[Reply]) -> None:
        """Send what was answered in this round."""
        for connection in {id(r.connection): r.connection for r in replies}.values():
            self._flush(connection)

    def _flush(self, connection: Connection) -> None:
        connection.flush()
        if connection.closed:
            self._close(connection)
        elif bool(connection.outbound) != connection.want_write:
            connection.want_write = bool(connection.outbound)
            self._poller.modify(connection.socket, select.EPOLLIN | (select.EPOLLOUT if connection.want_write else 0))

    def _close(self, connection: Connection) -> None:
        if self._connections.pop(connection.socket.fileno(), None) is not None:
            self._poller.unregister(connection.socket)
        connection.closed = True
        connection.socket.close()

    def close(self) -> None:
        for connection in list(self._connections.values()):
            connection.flush()
            self._close(connection)
        self._listener.close()
        with contextlib.suppress(OSError):
            os.unlink(self.path)
