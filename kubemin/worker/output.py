"""What Python steps print: line by line into the log and, the end of it, into the record.

Two ways lead here. Python's own `sys.stdout` and `sys.stderr` are objects that hand their text straight to the capture
of the running step. Descriptors 1 and 2 (C code, children) are unlinked files, one each: a writer never waits for a
reader, which a pipe could not promise, as the reader is the very thread that executes the step. A write to such a file
makes the kernel send SIGIO, whose handler takes what is new into the capture and gives its memory back: so a child that
prints a gigabyte costs no memory. (C code that writes a gigabyte in one call, without returning to the interpreter,
does until it returns.) A task that prints nothing pays two lseek(2).
"""

from __future__ import annotations

import fcntl
import io
import os
import signal
import sys
from _thread import RLock
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final, TextIO, cast

from kubemin import kernel
from kubemin.steps.capture import Allowance, Capture, Emit, Masks

_CHUNK: Final = 256 * 1024
_ROUNDS: Final = 16  # of taking, against a writer that never pauses: its next write calls again
_FORGET: Final = 1024 * 1024  # bytes taken from a file before their memory is given back

STREAMS: Final = ("stdout", "stderr")


class _Descriptor:
    """Descriptor 1 or 2 of the worker: a file that writers append to and we read behind them."""

    def __init__(self, number: int, directory: str) -> None:
        path = os.path.join(directory, f"output-{os.getpid()}-{number}")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.unlink(path)
        self.fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)  # not one of 0, 1, 2, where one of those was closed
        os.close(fd)
        # With O_APPEND all who inherited the descriptor write at the end, wherever that is by then.
        fcntl.fcntl(self.fd, fcntl.F_SETFL, os.O_APPEND)
        os.dup2(self.fd, number)
        self._taken = 0
        self._kept = 0  # where the part begins whose memory was not given back

    def size(self) -> int:
        return os.lseek(self.fd, 0, os.SEEK_END)

    def read(self) -> Iterable[bytes]:
        """What is new, up to the size at the call: a writer that goes on does not hold us."""
        end = self.size()
        if end < self._taken:
            self._taken = self._kept = 0  # a child opened /dev/stdout and cut it off
        while self._taken < end:
            data = os.pread(self.fd, min(_CHUNK, end - self._taken), self._taken)
            if not data:
                return
            self._taken += len(data)
            if self._taken - self._kept >= _FORGET and kernel.forget(self.fd, self._taken):
                self._kept = self._taken
            yield data

    def reset(self) -> None:
        """Nobody writes any more: begin again at 0."""
        os.ftruncate(self.fd, 0)
        self._taken = self._kept = 0


class PythonOutput:
    """Takes over stdout and stderr of this process, for good. `begin` and `end` stand around each step."""

    def __init__(self, directory: str, lines_per_second: int) -> None:
        self._rate = lines_per_second
        self._pid = os.getpid()
        self._lock = RLock()
        self._busy = False  # a signal handler comes in while its own thread is at work here
        self._news = False  # the files may hold more than was taken
        self._emit: Callable[[], Emit] | None = None
        self._masks: Iterable[str] = ()
        self._captures: dict[str, Capture] = {}
        kernel.handle(signal.SIGIO, self._on_write)
        self._files = {name: _Descriptor(n, directory) for n, name in enumerate(STREAMS, 1)}
        # Without a watch (see fs.inotify.max_user_instances) the files are read at the end of the step only.
        self._watch = kernel.watch_writes(*[file.fd for file in self._files.values()])
        kernel.line_buffer_c_streams()
        sys.stdout = cast(TextIO, _Text(self, "stdout", 1))
        sys.stderr = cast(TextIO, _Text(self, "stderr", 2))
        self._objects = sys.stdout, sys.stderr

    def begin(self, emit: Callable[[], Emit], masks: Iterable[str] = ()) -> None:
        """`emit` is asked for the step's sink at the first line, so that silent tasks do not pay for one."""
        self._emit = emit
        self._masks = masks
        self._busy = False
        if self._captures:
            self._captures = {}  # of a thread that printed between two steps

    def end(self) -> tuple[str, str]:
        """The tails of both streams. All writers must be gone."""
        if sys.stdout is not self._objects[0] or sys.stderr is not self._objects[1]:
            sys.stdout, sys.stderr = self._objects
        out, err = self._files["stdout"], self._files["stderr"]
        if not self._captures and not out.size() and not err.size():
            self._emit = None
            return "", ""
        return self._collect()

    def write(self, stream: str, data: bytes) -> None:
        """Text of Python code, of any thread."""
        if os.getpid() != self._pid:
            _write_all(STREAMS.index(stream) + 1, data)  # a forked child has no part in our captures
            return
        with self._lock:
            if self._busy:
                _write_all(STREAMS.index(stream) + 1, data)
                return
            self._absorb()  # what a child has printed before comes before
            self._feed(stream, data)
            if self._news:
                self._absorb()

    def flush_c(self) -> None:
        """Bring out half a line that C code holds; not on the hot path."""
        kernel.flush_c_streams()

    def _collect(self) -> tuple[str, str]:
        with self._lock:
            self._absorb()
            captures = self._captures
            for capture in captures.values():
                capture.close()
            self._captures, self._emit = {}, None
            for file in self._files.values():
                file.reset()
        return _tail(captures.get("stdout")), _tail(captures.get("stderr"))

    def _absorb(self) -> None:
        """Take what the files hold. With the lock held, and not from within itself."""
        self._busy = self._news = True
        try:
            for _ in range(_ROUNDS):
                if not self._news:
                    break
                self._news = False
                for stream, file in self._files.items():
                    for data in file.read():
                        self._capture(stream).feed(data)
        finally:
            self._busy = False

    def _feed(self, stream: str, data: bytes) -> None:
        self._busy = True
        try:
            self._capture(stream).feed(data)
        finally:
            self._busy = False

    def _capture(self, stream: str) -> Capture:
        capture = self._captures.get(stream)
        if capture is None:
            emit = self._emit() if self._emit is not None else _nowhere
            masks = Masks(self._masks)
            allowance = Allowance(self._rate)
            self._captures = {name: Capture(name, emit, allowance, masks) for name in STREAMS}
            capture = self._captures[stream]
        return capture

    def _on_write(self, *_: object) -> None:
        self._rearm()  # whoever takes the news: a write that comes in between sends another signal
        self._news = True
        if not self._lock.acquire(blocking=False):
            return  # the thread that holds it looks again
        try:
            if not self._busy:
                self._absorb()
        finally:
            self._lock.release()

    def _rearm(self) -> None:
        if self._watch is not None:
            with suppress(BlockingIOError):
                os.read(self._watch, 4096)


class _Text(io.TextIOBase):
    """`sys.stdout` of a step: unbuffered, never fails, keeps nothing."""

    def __init__(self, output: PythonOutput, stream: str, number: int) -> None:
        self._output = output
        self._stream = stream
        self._number = number
        self.buffer = _Bytes(output, stream, number)

    encoding = "utf-8"
    errors = "backslashreplace"
    line_buffering = True
    mode = "w"

    @property
    def name(self) -> str:
        return f"<{self._stream}>"

    def write(self, text: str, /) -> int:
        self._output.write(self._stream, text.encode("utf-8", "backslashreplace"))
        return len(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def close(self) -> None:
        """Stays open: it belongs to the worker, not to the step."""

    def reconfigure(self, **_: Any) -> None:
        """There is nothing to choose here."""


class _Bytes(io.RawIOBase):
    def __init__(self, output: PythonOutput, stream: str, number: int) -> None:
        self._output = output
        self._stream = stream
        self._number = number

    def write(self, data: Any, /) -> int:
        raw = bytes(data)
        self._output.write(self._stream, raw)
        return len(raw)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def close(self) -> None:
        """Stays open, as the text stream does."""


def _nowhere(stream: str, line: str) -> None:
    """Printed between two steps, by a thread that was left: the worker is about to be replaced."""


def _tail(capture: Capture | None) -> str:
    return "" if capture is None else capture.tail


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
