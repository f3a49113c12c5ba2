"""Writing a finished line to standard error without ever waiting for whoever reads it.

Standard error may be a pipe that nobody reads, a terminal stopped with Ctrl-S, a full disk: then the line is dropped
and counted, and the count is logged when writing works again. The descriptor is our own from the start (a worker
later points 1 and 2 at the output of Python steps).
"""

from __future__ import annotations

import os
import select
import stat

# pipe(7): writes of up to PIPE_BUF bytes are atomic, so that lines of several processes do not mix.
PIPE_LINE = select.PIPE_BUF
FILE_LINE = 64 * 1024


def _reopened(fd: int) -> int | None:
    """The same pipe or terminal under an open file description of our own, non-blocking.

    O_NONBLOCK belongs to the description, which we share with whoever started us: setting it there would break a shell.
    """
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None


def identity(fd: int) -> tuple[int, int] | None:
    """What the descriptor is open on; None when it is closed."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class StandardError:
    """One line, one write, never waiting. `write` says whether the line is out."""

    def __init__(self, fd: int = 2) -> None:
        mode = os.fstat(fd).st_mode
        self.is_terminal = stat.S_ISCHR(mode) and os.isatty(fd)
        self.limit = PIPE_LINE if stat.S_ISFIFO(mode) else FILE_LINE
        self._socket = stat.S_ISSOCK(mode)
        own = _reopened(fd) if stat.S_ISFIFO(mode) or self.is_terminal else None
        # A regular file is not reopened: a second description has its own offset and would overwrite the first's text.
        self.fd = os.dup(fd) if own is None else own
        self._never_blocks = own is not None or stat.S_ISREG(mode)
        self._torn = False
        self._poll = select.poll()
        self._poll.register(self.fd, select.POLLOUT)

        self._identity = identity(self.fd)

    def alive(self) -> bool:
        """False when somebody closed our descriptor (a sweep after a fork); its number may be another file's by now."""
        return identity(self.fd) == self._identity

    def write(self, line: bytes) -> bool:
        """`line` ends in a newline and is at most `limit` bytes long."""
        data = b"\n" + line if self._torn else line
        try:
            if not self._never_blocks and not self._writable():
                return False
            written = self._send(data) if self._socket else os.write(self.fd, data)
        except OSError:
            return False
        self._torn = written < len(data)
        return not self._torn

    def _writable(self) -> bool:
        return any(event & select.POLLOUT for _, event in self._poll.poll(0))

    def _send(self, data: bytes) -> int:
        import socket

        with socket.socket(fileno=os.dup(self.fd)) as stream:
            return stream.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
