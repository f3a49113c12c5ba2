"""Signals: a handler only records; the loop acts later, when it is woken by the wake-up descriptor.

HUP reload · TERM stop within the grace period · INT, QUIT stop now · USR1 dump the state · USR2 drain on or off ·
TTIN, TTOU one worker more, one fewer · CHLD reap.
"""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType

from kubemin import kernel

HANDLED = (
    signal.SIGHUP,
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGCHLD,
)


class SignalBox:
    """Signals that came and were not acted on. The same signal twice is kept once, however full the pipe is."""

    def __init__(self) -> None:
        self._pending: set[int] = set()
        self.fd, self._wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    @property
    def descriptors(self) -> tuple[int, int]:
        return self.fd, self._wakeup

    def install(self) -> None:
        """Main thread only."""
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        for number in HANDLED:
            signal.signal(number, self._record)
            signal.siginterrupt(number, False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)  # whoever started us may have blocked some

    def uninstall(self) -> None:
        signal.set_wakeup_fd(-1)
        for number in HANDLED:
            signal.signal(number, signal.SIG_DFL)
        for fd in self.descriptors:
            os.close(fd)

    @property
    def pending(self) -> frozenset[int]:
        return frozenset(self._pending)

    def take(self) -> set[int]:
        """What came since the last call."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.fd, 4096):
                pass
        taken, self._pending = self._pending, set()
        return taken

    def _record(self, number: int, _frame: FrameType | None) -> None:
        self._pending.add(number)


def reset_in_child() -> None:
    """What a forked child does first, with all signals blocked.

    Signals that only the supervisor knows must not kill a child that `pkill` happens to hit, so they are caught and
    ignored (caught, not SIG_IGN, which a step would inherit over exec). TERM, INT and QUIT get their default until
    the child sets its own.
    """
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU):
        kernel.handle(number, ignore)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD):
        kernel.handle(number, kernel.DEFAULT)


def ignore(_number: int, _frame: FrameType | None) -> None:
    """A handler that does nothing."""
