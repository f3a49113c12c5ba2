"""The supervisor's end of the channel to one coordinator: sends never block.

What does not go out now is kept and goes out when the socket is writable, so a coordinator that hangs for 20 s in an
fsync holds nothing up. Order is kept; a message's descriptors have to stay open until it is out.
"""

from __future__ import annotations

import fcntl
import struct
import termios
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from kubemin.channel import PacketConnection
from kubemin.telemetry import log

Message = dict[str, Any]


def _nothing() -> None: ...


class Link:
    def __init__(self, connection: PacketConnection) -> None:
        self._connection = connection
        self._outbox: deque[tuple[Message, Sequence[int], Callable[[], None]]] = deque()
        self.broken = False  # the other end is gone; the reaper will say so

    def fileno(self) -> int:
        return self._connection.fileno()

    @property
    def waiting(self) -> bool:
        """Something waits for room in the socket."""
        return bool(self._outbox) and not self.broken

    def send(self, message: Message, fds: Sequence[int] = (), out: Callable[[], None] = _nothing) -> None:
        """Queue a message; `out` is called when the kernel has it."""
        self._outbox.append((message, fds, out))
        self.flush()

    def flush(self) -> None:
        while self.waiting:
            message, fds, out = self._outbox[0]
            try:
                if not self._connection.send_with_fds(message, fds):
                    return
            except OSError:
                self.broken = True
                return
            self._outbox.popleft()
            out()

    def receive(self) -> list[Message]:
        """Messages that have come. None waits."""
        messages: list[Message] = []
        while not self.broken:
            try:
                received = self._connection.recv_with_fds()
            except (EOFError, OSError):
                self.broken = True
                break
            except ValueError as exc:
                log.error("a message of the coordinator cannot be read", reason=str(exc))
                continue
            if received is None:
                break
            messages.append(received[0])
        return messages

    def unread(self) -> bool:
        """The coordinator has not yet read all that was sent (unix(7): SIOCOUTQ)."""
        if self._outbox:
            return True
        answer = fcntl.ioctl(self._connection.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
        return bool(struct.unpack("i", answer)[0])

    def close(self) -> None:
        self.broken = True
        self._connection.close()
