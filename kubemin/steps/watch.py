"""Waiting for a started step: output, deadline, interrupts and its end, in one poll without busy waiting.

`watch` returns when nothing of the step lives any more, whatever it did: ignore SIGTERM, leave children that keep
the pipes open, close its output and go on, fork away. Every wait has an end; what survives SIGKILL is reported
instead of waited for.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from kubemin import clock
from kubemin.model.records import Usage
from kubemin.model.states import Cause, TaskState
from kubemin.steps.base import Ended, Step
from kubemin.steps.capture import Allowance, Capture, Masks
from kubemin.steps.containment.base import Cell
from kubemin.steps.spawn import PIPE_BYTES, Child, Failure, read_failure

if TYPE_CHECKING:
    from kubemin.steps.containment.base import Containment

READ_BYTES: Final = 64 * 1024
_READS: Final = 16  # a wake-up reads at most so often from one pipe: deadlines and interrupts come in between
_LAST_READS: Final = 2 * PIPE_BYTES // READ_BYTES  # what may still be in a pipe whose writers are dead
_TICK: Final = 1.0
_DIE_SECONDS: Final = 1.0  # after SIGKILL; longer is a process stuck in the kernel
_IDLE_INTERRUPTS: Final = (
    64  # wake-ups without an interrupt, in one tick, before the descriptor is left alone until the next
)

_FATAL = select.POLLHUP | select.POLLERR | select.POLLNVAL


class Verdict:
    """Why the step is being stopped, when it is."""

    __slots__ = ("cause", "message", "state")

    def __init__(self, state: TaskState | None, cause: Cause, message: str) -> None:
        self.state = state
        self.cause = cause
        self.message = message


class Watch:
    """One step from its fork to the death of its last process."""

    def __init__(self, child: Child, step: Step, cell: Cell, containment: Containment) -> None:
        self.failure: Failure | None = None
        self.verdict: Verdict | None = None
        self.killed = False  # SIGKILL by us
        self._child = child
        self._step = step
        self._cell = cell
        self._containment = containment
        masks = Masks(step.masks)
        allowance = Allowance(containment.lines_per_second)
        self._captures = [Capture(name, step.emit, allowance, masks) for name in ("stdout", "stderr")]
        self._told = b""
        self._kill_at = self._give_up_at = float("inf")
        self._next_tick = clock.monotonic() + _TICK
        self._idle_interrupts = 0
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[int], None]] = {}

    def until_dead(self) -> Ended:
        """Wait, stop it where due, then kill and reap all that is left of it."""
        self._register_all()
        while self._child.pidfd in self._handlers and clock.monotonic() < self._give_up_at:
            for fd, events in self._poll.poll(self._patience() * 1000):
                if (handler := self._handlers.get(fd)) is not None:
                    handler(events)
            self._on_time()
        return self._end()

    # --- waiting ---

    def _register_all(self) -> None:
        out, err = self._captures
        self._register(self._child.pidfd, lambda _: self._forget(self._child.pidfd))
        self._register(self._child.failure, self._on_failure)
        self._register(self._child.stdout, lambda _: self._on_output(self._child.stdout, out))
        self._register(self._child.stderr, lambda _: self._on_output(self._child.stderr, err))
        if self._step.interrupt_fd >= 0:
            self._register(self._step.interrupt_fd, self._on_interrupt)

    def _register(self, fd: int, handler: Callable[[int], None]) -> None:
        self._handlers[fd] = handler
        self._poll.register(fd, select.POLLIN)

    def _forget(self, fd: int) -> None:
        """No more events of it: a descriptor at its end would wake every poll."""
        if self._handlers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def _patience(self) -> float:
        due = min(self._next_tick, self._kill_at, self._give_up_at)
        if self.verdict is None:
            due = min(due, self._step.deadline)
        return max(0.0, due - clock.monotonic())

    def _on_failure(self, _: int) -> None:
        raw = _read(self._child.failure)
        if raw:
            self._told += raw
        elif raw is not None:
            self._forget(self._child.failure)  # closed by exec: it has started

    def _on_output(self, fd: int, capture: Capture) -> None:
        for _ in range(_READS):
            data = _read(fd)
            if data is None:
                return
            if not data:
                self._forget(fd)
                return
            capture.feed(data)

    def _on_interrupt(self, events: int) -> None:
        interrupt = self._step.interrupted()
        if interrupt is not None and self.verdict is None:
            drained = interrupt.cause is Cause.DRAIN
            state = None if drained else TaskState.CANCELLED
            self._stop(
                Verdict(state, interrupt.cause, "did not end in time for the drain" if drained else "was stopped")
            )
            return
        self._idle_interrupts += 1
        if self._idle_interrupts > _IDLE_INTERRUPTS or events & _FATAL:
            self._forget(self._step.interrupt_fd)

    def _on_time(self) -> None:
        now = clock.monotonic()
        if now >= self._next_tick:
            self._tick(now)
        if self.verdict is None and now >= self._step.deadline and self._child.pidfd in self._handlers:
            seconds = f"{self._step.claim.timeout:g}"
            self._stop(Verdict(TaskState.TIMEOUT, Cause.TIMEOUT, f"did not end within {seconds} s"))
        if now >= self._kill_at and self._child.pidfd in self._handlers:
            self._kill(now)

    def _tick(self, now: float) -> None:
        self._next_tick = now + _TICK
        self._step.tick()
        for capture in self._captures:
            capture.tick()
        fd = self._step.interrupt_fd
        if fd >= 0 and fd not in self._handlers:
            self._register(fd, self._on_interrupt)
        self._idle_interrupts = 0

    # --- stopping ---

    def _stop(self, verdict: Verdict) -> None:
        """The first reason counts. TERM now, KILL after the grace."""
        if self.verdict is not None:
            return
        self.verdict = verdict
        self._kill_at = clock.monotonic() + self._step.kill_grace
        self._cell.terminate()

    def _kill(self, now: float) -> None:
        self.killed = True
        self._kill_at = float("inf")
        self._give_up_at = now + _DIE_SECONDS
        self._cell.kill(self._child.pid)

    # --- the end ---

    def _end(self) -> Ended:
        self._cell.kill(self._child.pid)
        status, usage = self._reap()
        swept = self._cell.sweep()
        self._read_the_rest()
        if swept.left:
            self._containment.unkillable = True
        measured = Usage(cpu=usage.cpu + swept.cpu, memory=max(usage.memory, swept.memory))
        ended = Ended(
            state=TaskState.COMPLETED,
            cause=None,
            stdout=self._captures[0].tail,
            stderr=self._captures[1].tail,
            usage=self._cell.usage(measured),
            unenforced=self._cell.unenforced,
        )
        self.failure = read_failure(self._told)
        self._judge(ended, status)
        if swept.left:
            ended.message += f"; process {swept.left[0]} could not be killed"
        return ended

    def _reap(self) -> tuple[int | None, Usage]:
        """The main process's wait status; None when not even SIGKILL ended it. Its peak memory is never less than what
        this process had at the fork: the kernel counts the moment before the exec."""
        pid, status, usage = os.wait4(self._child.pid, os.WNOHANG)
        if pid == 0:
            return None, Usage()
        return status, Usage(cpu=usage.ru_utime + usage.ru_stime, memory=usage.ru_maxrss * 1024)

    def _read_the_rest(self) -> None:
        """The writers are dead: what the pipes hold is all there will be."""
        while data := _read(self._child.failure):
            self._told += data
        for fd, capture in zip((self._child.stdout, self._child.stderr), self._captures, strict=True):
            for _ in range(_LAST_READS):
                if not (data := _read(fd)):
                    break
                capture.feed(data)
            capture.close()

    def _judge(self, ended: Ended, status: int | None) -> None:
        """How it ended: stopped by us, killed for memory, by a signal, with a code, or well."""
        code = -signal.SIGKILL if status is None else os.waitstatus_to_exitcode(status)
        ended.exit_code, ended.signal = (code, None) if code >= 0 else (None, -code)
        if self.verdict is not None:
            _set(ended, self.verdict.state, self.verdict.cause, self._stopped_message(self.verdict))
        elif code == 0:
            return
        elif reason := self._cell.memory_kill(code):
            _set(ended, TaskState.FAILED, Cause.OOM, reason)
        elif code < 0:
            _set(ended, TaskState.FAILED, Cause.SIGNAL, f"killed by {_signal_name(-code)}")
        else:
            _set(ended, TaskState.FAILED, Cause.EXIT, f"exit code {code}")

    def _stopped_message(self, verdict: Verdict) -> str:
        return verdict.message + ("; it ignored SIGTERM and was killed" if self.killed else "")


def _set(ended: Ended, state: TaskState | None, cause: Cause, message: str) -> None:
    ended.state, ended.cause, ended.message = state, cause, message


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _read(fd: int) -> bytes | None:
    """b"": the end. None: nothing there now."""
    try:
        return os.read(fd, READ_BYTES)
    except BlockingIOError:
        return None
