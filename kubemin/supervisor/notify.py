"""Telling the service manager: sd_notify(3) over $NOTIFY_SOCKET, without libsystemd and without ever waiting.

READY=1, RELOADING=1 and STOPPING=1 are kept until they went out; STATUS and WATCHDOG may be lost. The watchdog is fed
at half of WATCHDOG_USEC by the loop itself, so it starves when the loop makes no progress.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import MutableMapping

from kubemin import clock

_RETRY = 0.1  # seconds, when the manager's socket was full


class Notifier:
    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        """Takes its variables out of the environment: no child is to speak for us."""
        address = environ.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._unsent: deque[str] = deque(maxlen=16)
        self._status = ""
        self.watchdog_seconds = _watchdog(environ)
        self._fed = 0.0

    @property
    def active(self) -> bool:
        return self._socket is not None

    @property
    def descriptors(self) -> tuple[int, ...]:
        return () if self._socket is None else (self._socket.fileno(),)

    def ready(self) -> None:
        self._must_send("READY=1")

    def reloading(self) -> None:
        self._must_send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        self._must_send("STOPPING=1")

    def extend(self, seconds: float) -> None:
        """What goes on (a stop, a slow start) may take this much longer."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; sent when it changed."""
        if text != self._status and self._send(f"STATUS={text}"):
            self._status = text

    def feed(self) -> None:
        """Called once in each round of the loop: the watchdog, and what could not be sent."""
        while self._unsent and self._send(self._unsent[0]):
            self._unsent.popleft()
        now = clock.monotonic()
        if self.watchdog_seconds and now >= self._fed + self.watchdog_seconds / 2:
            self._fed = now
            self._send("WATCHDOG=1")

    def next_due(self) -> float:
        """Seconds until `feed` has to be called."""
        if self._unsent:
            return _RETRY
        if not self.watchdog_seconds:
            return float("inf")
        return max(0.0, self._fed + self.watchdog_seconds / 2 - clock.monotonic())

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _must_send(self, text: str) -> None:
        self._unsent.append(text)
        while self._unsent and self._send(self._unsent[0]):
            self._unsent.popleft()

    def _send(self, text: str) -> bool:
        """False: not now. A manager that is not there is as good as told."""
        if self._socket is None:
            return True
        try:
            self._socket.sendto(text.encode(), socket.MSG_NOSIGNAL, self._address)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True


def _watchdog(environ: MutableMapping[str, str]) -> float:
    """Seconds within which the manager wants a sign of life; 0: it wants none from this process."""
    usec, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    if not usec.isdigit() or (pid and pid != str(os.getpid())):
        return 0.0
    return int(usec) / 1_000_000
