"""What may end a step early, or the worker: signals of the supervisor, and cancellations of the coordinator.

TERM: finish the current task and start no other. INT: end the current step now and put its task back. A cancel packet
names the token it is for. Handlers only record, with one exception: INT raises in a running Python step, which has no
other way to notice. Users' code gets that as an exception, so its `finally` clauses run.
"""

from __future__ import annotations

import os
import select
import signal
from types import FrameType
from typing import Final

from kubemin import kernel
from kubemin.channel import CANCEL_KIND, PacketConnection, unpack_cancel
from kubemin.model.states import Cause
from kubemin.steps.base import Interrupt
from kubemin.telemetry import log

_REMEMBERED: Final = 1024  # cancels for tasks that this worker does not run (yet)
_DRAIN: Final = Interrupt(Cause.DRAIN)

# The supervisor's business. A handler and not SIG_IGN: what is ignored stays ignored in a program that a step starts.
_UNUSED: Final = (
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGALRM,
)


class StepInterrupted(BaseException):
    """Raised in a Python step by INT."""


def _ignore(_number: int, _frame: FrameType | None) -> None:
    pass


class Interrupts:
    """One for each worker. `fd` is readable when something may have come, `wakeup` when a signal has."""

    def __init__(self, reports: PacketConnection) -> None:
        self.stopping = False  # take no other task
        self.draining = False  # and end the current one
        self.in_python = False  # a Python step runs: INT raises
        self._reports = reports
        self._cancels: dict[int, Cause] = {}
        self.wakeup, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self.wakeup, select.EPOLLIN)
        self._epoll.register(reports.fileno(), select.EPOLLIN)
        self.fd = self._epoll.fileno()

    def close(self) -> None:
        """For one that was never installed."""
        self._epoll.close()
        os.close(self.wakeup)
        os.close(self._wake)

    def install(self) -> None:
        for number in range(1, signal.NSIG):
            if kernel.handler_of(number) not in (kernel.DEFAULT, kernel.IGNORE, None):
                kernel.handle(number, kernel.DEFAULT)  # a handler of the supervisor, inherited
        kernel.handle(signal.SIGCHLD, kernel.DEFAULT)
        kernel.handle(signal.SIGPIPE, kernel.IGNORE)
        for number in _UNUSED:
            kernel.handle(number, _ignore)
        kernel.handle(signal.SIGTERM, self._on_term)
        kernel.handle(signal.SIGINT, self._on_int)
        self.watch()
        kernel.set_mask(kernel.NO_SIGNAL)

    def watch(self) -> bool:
        """Let signals wake our polls; False when a step had taken that away (asyncio does)."""
        return signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False) == self._wake

    def _on_term(self, _number: int, _frame: FrameType | None) -> None:
        self.stopping = True

    def _on_int(self, _number: int, _frame: FrameType | None) -> None:
        self.stopping = self.draining = True
        if self.in_python:
            self.in_python = False  # once: cleaning up is not interrupted
            raise StepInterrupted

    # --- asked by steps -----------------------------------------------------------------------------------------------

    def pending(self, token: int) -> Interrupt | None:
        """What has come for the task with this token."""
        self.read()
        if self.draining:
            return _DRAIN
        cause = self._cancels.get(token)
        return None if cause is None else Interrupt(cause)

    def cancelled(self, token: int) -> Cause | None:
        """The cancellation alone: cheap when it is known already."""
        if token not in self._cancels:
            self.read()
        return self._cancels.get(token)

    def known(self, token: int) -> Cause | None:
        """Without looking for new ones: for the moment before a task starts."""
        return self._cancels.get(token) if self._cancels else None

    def forget(self, token: int) -> None:
        if self._cancels:
            self._cancels.pop(token, None)

    # --- reading ------------------------------------------------------------------------------------------------------

    def read(self) -> None:
        """Take in what is there: never waits, never raises."""
        self.quiet()
        while True:
            try:
                packet = self._reports.try_recv()
                if packet is None:
                    return
                if packet[0] == CANCEL_KIND:
                    self._note(*unpack_cancel(packet[1]))
            except ValueError as error:
                log.warning("a cancel packet that cannot be read was dropped", error=str(error))
            except (EOFError, OSError):
                self._unregister()
                return

    def quiet(self) -> None:
        """Empty the wake-up pipe."""
        try:
            while len(os.read(self.wakeup, 4096)) == 4096:
                pass
        except BlockingIOError:
            pass

    def _note(self, token: int, cause: Cause) -> None:
        self._cancels[token] = cause
        while len(self._cancels) > _REMEMBERED:
            del self._cancels[next(iter(self._cancels))]

    def _unregister(self) -> None:
        """Both ends of our channel are held by the supervisor, so this is its end, and the kernel's signal follows."""
        try:
            self._epoll.unregister(self._reports.fileno())
        except (OSError, ValueError):
            return
