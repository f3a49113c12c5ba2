"""Runs steps as a worker does: in a forked process that is a child subreaper and has no other children.

Not in the test's own process: a step's end kills everything below the process that ran it.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import select
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import msgspec

from kubemin.model.records import Claim
from kubemin.model.states import Cause
from kubemin.steps.base import Ended, Interrupt, Step
from kubemin.steps.command import execute
from kubemin.steps.containment import make_containment
from kubemin.steps.containment.base import Containment

T = TypeVar("T")
_PR_SET_CHILD_SUBREAPER = 36


def in_worker(function: Callable[[], T], seconds: float = 60.0) -> T:
    """Call `function` in a forked subreaper and hand back what it returns. Fails when it raises or takes too long."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _serve(function, writer)
    os.close(writer)
    answer = _read_all(reader, time.monotonic() + seconds)
    os.close(reader)
    if answer is None:
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert answer, "the worker died or hung"
    failed, value = pickle.loads(answer)
    assert not failed, value
    return value  # type: ignore[no-any-return]


def _serve(function: Callable[[], Any], writer: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        answer = pickle.dumps((False, function()))
    except BaseException:
        answer = pickle.dumps((True, traceback.format_exc()))
    with os.fdopen(writer, "wb") as pipe:
        pipe.write(answer)
    os._exit(0)


def _read_all(fd: int, deadline: float) -> bytes | None:
    data = b""
    while True:
        if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return None
        chunk = os.read(fd, 65536)
        if not chunk:
            return data
        data += chunk


def containment(slot: int = 0, rate: int = 1000) -> Containment:
    return make_containment(SimpleNamespace(output=SimpleNamespace(lines_per_second=rate)), slot)  # type: ignore[arg-type]


@dataclass
class Bench:
    """One worker's surroundings for steps: what they wrote, and an interrupt that a line of output can trigger."""

    directory: Path
    rate: int = 1000
    interrupt_on: str | None = None
    cause: Cause = Cause.CANCELLED
    lines: list[tuple[str, str]] = field(default_factory=list)
    ticks: int = 0
    kind: Containment | None = None

    def __post_init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def step(self, work: dict[str, Any], **options: Any) -> Step:
        timeout = options.pop("timeout", 30.0)
        claim = Claim("r" * 20, 0, "group/step", "flow", 7, 1, timeout, msgspec.Raw(b"{}"))
        environ = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/", **options.pop("environ", {})}
        return Step(
            claim=claim,
            work=work,
            directory=str(options.pop("directory", self.directory)),
            environ=environ,
            masks=options.pop("masks", ()),
            deadline=time.monotonic() + timeout,
            output_file=str(self.directory / "output"),
            emit=self._emit,
            interrupt_fd=self._reader,
            interrupted=self._interrupted,
            tick=self._tick,
            slot=0,
            kill_grace=options.pop("kill_grace", 0.3),
            **options,
        )

    def run(self, work: dict[str, Any], **options: Any) -> Ended:
        self.kind = self.kind or containment(rate=self.rate)
        return execute(self.step(work, **options), self.kind)

    def shell(self, script: str, **options: Any) -> Ended:
        return self.run({"shell": script, **options.pop("work", {})}, **options)

    def _emit(self, stream: str, line: str) -> None:
        self.lines.append((stream, line))
        if line == self.interrupt_on:
            os.write(self._writer, b"!")

    def _interrupted(self) -> Interrupt | None:
        try:
            return Interrupt(self.cause) if os.read(self._reader, 64) else None
        except BlockingIOError:
            return None

    def _tick(self) -> None:
        self.ticks += 1


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Poll a condition with a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def processes_with(word: str) -> list[int]:
    """Living processes whose command line holds `word`."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    if word.encode() in file.read():
                        found.append(int(name))
            except OSError:
                continue
    return found
