"""The receiving end of sd_notify: how a test learns that a daemon is ready, without polling."""

from __future__ import annotations

import select
import socket
import time
from pathlib import Path


class NotifySocket:
    """`path` goes into NOTIFY_SOCKET. Messages are kept in `seen`, in order."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self.path = path
        self.seen: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._socket.bind(str(path))

    def wait(self, line: str, timeout: float, other: int) -> bool:
        """True once a message with `line` arrived; False when the process of the pidfd `other` ended."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(other, select.POLLIN)
        deadline = time.monotonic() + timeout
        while line not in self._take():
            if (left := deadline - time.monotonic()) <= 0:
                raise AssertionError(f"no {line} within {timeout:g} s; seen: {self.seen}")
            if any(fd == other for fd, _ in poll.poll(left * 1000)):
                return False
        return True

    def heard(self) -> str:
        """All that has come so far."""
        self._take()
        return "\n".join(self.seen)

    def forget(self) -> None:
        """Drop what has come so far: a reload of an earlier life was followed by a READY=1 as well."""
        self._take()
        self.seen.clear()

    def _take(self) -> list[str]:
        lines: list[str] = []
        while True:
            try:
                message = self._socket.recv(4096).decode()
            except BlockingIOError:
                return lines
            self.seen.append(message)
            lines += message.splitlines()

    def close(self) -> None:
        self._socket.close()
        self.path.unlink(missing_ok=True)
