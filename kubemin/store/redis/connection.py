"""One connection to one server: a socket, RESP by hiredis, and an end for every wait.

Our own, because every worker has one: redis-py's connection costs each 10 MB and 80 ms of imports (143 modules, asyncio
and OpenSSL among them) and 11.5 µs of CPU a call; this one 0.1 MB, 1 ms and 7 µs, most of it the kernel's. Fail-over,
redirections, scripts and the meaning of errors are the caller's: what the server refuses is returned as a `ReplyError`,
what breaks the connection is raised as an OSError, after which it is to be closed.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any, cast

from hiredis import HiredisError, Reader, ReplyError, pack_command

from kubemin.errors import StoreUnavailable

Argument = bytes | str | int | float
Command = Sequence[Argument]

CONNECT_TIMEOUT = 3.0
READ_SIZE = 65536
_packed = cast("Callable[[tuple[Argument, ...]], bytes]", pack_command)  # its stub knows tuples of one alone
_TIMEVAL = struct.Struct("@ll")


class Connection:
    """Neither for threads nor for both sides of a fork. `timeout`: seconds that a reply may take, or a send."""

    __slots__ = ("_reader", "_socket", "close", "fileno")

    def __init__(self, made: socket.socket, timeout: float) -> None:
        _limit(made, timeout)
        self._socket = made
        self._reader = Reader()
        self.close, self.fileno = made.close, made.fileno

    @classmethod
    def to_path(cls, path: str, timeout: float) -> Connection:
        made = socket.socket(socket.AF_UNIX)
        try:
            _limit(made, CONNECT_TIMEOUT)
            made.connect(path)
            return cls(made, timeout)
        except BaseException:
            made.close()
            raise

    @classmethod
    def to_host(cls, host: str, port: int, timeout: float, *, tls: bool = False, ca: str | None = None) -> Connection:
        """`ca`: the file of certificates to trust, else the system's."""
        name = host.encode()  # text is put through a codec with half a megabyte of tables
        made = socket.create_connection((name, port), CONNECT_TIMEOUT)  # type: ignore[arg-type]
        try:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return cls(_over_tls(made, host, ca) if tls else made, timeout)
        except BaseException:
            made.close()
            raise

    def limit(self, seconds: float) -> None:
        """How long a reply may take from now on, or a send."""
        _limit(self._socket, seconds)

    def send(self, packed: bytes) -> None:
        try:
            self._socket.sendall(packed)
        except BlockingIOError:
            raise TimeoutError("the server takes nothing") from None

    def read(self) -> Any:
        """The next reply, or the ReplyError that the server gave instead."""
        reader = self._reader
        try:
            while (reply := reader.gets()) is False:
                data = self._socket.recv(READ_SIZE)
                if not data:
                    raise ConnectionResetError("the server closed the connection")
                reader.feed(data)
        except BlockingIOError:
            raise TimeoutError("no reply in time") from None
        except HiredisError as error:
            raise ConnectionError(f"what came is no reply of Redis: {error}") from error
        return reply

    def wait(self, seconds: float) -> None:
        """Until the reply to what was sent begins to come. Raises TimeoutError."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        if not poll.poll(seconds * 1000):
            raise TimeoutError("no reply in time")

    def ask(self, commands: Sequence[Command]) -> list[Any]:
        """All replies, one round trip. Raises the ReplyError of a server that says why and hangs up."""
        self.send(pack(commands))
        replies: list[Any] = []
        try:
            while len(replies) < len(commands):
                replies.append(self.read())
        except OSError:
            if replies and isinstance(replies[0], ReplyError):
                raise replies[0] from None
            raise
        return replies


def pack(commands: Sequence[Command]) -> bytes:
    """As they go over the wire."""
    if len(commands) == 1:
        return _packed(tuple(commands[0]))
    return b"".join([_packed(tuple(command)) for command in commands])


def _limit(made: socket.socket, seconds: float) -> None:
    """In the kernel, which saves a poll(2) each time. Not over TLS: there Python would read on and on."""
    if type(made) is not socket.socket:
        made.settimeout(seconds)
        return
    made.settimeout(None)
    micros = max(1, round(seconds * 1e6))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        made.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(*divmod(micros, 1_000_000)))


def _over_tls(made: socket.socket, host: str, ca: str | None) -> socket.socket:
    import ssl  # OpenSSL is 2 MB, and few need it

    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as exc:
        raise StoreUnavailable(f"redisAddr: cannot use the certificates in {ca}: {exc.strerror}", code="ca") from exc
    return context.wrap_socket(made, server_hostname=host)


__all__ = ["Argument", "Command", "Connection", "ReplyError"]
