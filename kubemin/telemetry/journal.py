"""journald's native protocol (systemd: docs/JOURNAL_NATIVE_PROTOCOL.md): one datagram a record, never waiting.

The socket is not connected, so a restarted journald is found again by the next record. What does not fit into a
datagram travels as a sealed memfd. A record that journald does not take at once is dropped, and the caller counts it.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
from collections.abc import Iterable

from kubemin.telemetry.streams import identity

SOCKET = "/run/systemd/journal/socket"
_SEND_BUFFER = 8 * 1024 * 1024  # as sd-journal does; the kernel caps it at wmem_max
_TOO_LARGE = (errno.EMSGSIZE, errno.ENOBUFS)
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def started_by_systemd(fd: int = 2, journal_stream: str | None = None) -> bool:
    """Whether `fd` is the stream to the journal that systemd gave us (systemd.exec(5), JOURNAL_STREAM=device:inode)."""
    wanted = os.environ.get("JOURNAL_STREAM", "") if journal_stream is None else journal_stream
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return wanted == f"{status.st_dev}:{status.st_ino}"


def encode(fields: Iterable[tuple[str, str]]) -> bytes:
    """A record: `NAME=value` lines; a value with a newline is given by its length."""
    parts: list[bytes] = []
    for name, value in fields:
        data = value.encode("utf-8", "replace")
        if b"\n" in data:
            parts.append(b"%s\n%s%s\n" % (name.encode(), len(data).to_bytes(8, "little"), data))
        else:
            parts.append(b"%s=%s\n" % (name.encode(), data))
    return b"".join(parts)


class Journal:
    def __init__(self, path: str = SOCKET) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        self._identity = identity(self.fd)

    @property
    def fd(self) -> int:
        return self._socket.fileno()

    def write(self, record: bytes) -> bool:
        """Whether journald has it."""
        try:
            self._socket.sendto(record, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL, self.path)
        except OSError as exc:
            return exc.errno in _TOO_LARGE and self._write_large(record)
        return True

    def _write_large(self, record: bytes) -> bool:
        try:
            fd = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError:
            return False
        try:
            os.write(fd, record)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]).tobytes())]
            self._socket.sendmsg([b""], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL, self.path)
        except OSError:
            return False
        finally:
            os.close(fd)
        return True

    def close(self) -> None:
        """Unless somebody closed our descriptor (a sweep after a fork): its number may be another file's by now."""
        if identity(self.fd) == self._identity:
            self._socket.close()
        else:
            self._socket.detach()
