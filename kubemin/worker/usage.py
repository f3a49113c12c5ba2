"""What a Python step used. It shares the worker's process, so these are differences, and the peak is set back first."""

from __future__ import annotations

import os
import resource
from typing import Final

from kubemin import clock
from kubemin.model.records import Usage

_RESET_PEAK: Final = b"5"  # proc(5), clear_refs: the peak resident set size becomes the current one
SLACK_BYTES: Final = 1 << 20
SET_BACK_SECONDS: Final = 0.05


class Meter:
    """One for a worker. The peak is set back when a step has raised it, and now and then because memory was given back:
    not before each of many short steps, which would cost most of what a step costs."""

    def __init__(self) -> None:
        self._cpu = 0.0
        self._lowest = self._highest = 0  # bytes: the peak when it was set back last, and as it was read last
        self._set_back = float("-inf")

    def begin(self) -> None:
        now = clock.monotonic()
        if self._highest - self._lowest > SLACK_BYTES or now - self._set_back > SET_BACK_SECONDS:
            self._set_back = now
            _set_peak_back()
            self._cpu, self._lowest = _used()
            self._highest = self._lowest
        else:
            self._cpu, self._highest = _used()

    def read(self) -> Usage:
        cpu, self._highest = _used()
        return Usage(cpu=round(cpu - self._cpu, 6), memory=self._highest)


def _set_peak_back() -> None:
    try:
        fd = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, _RESET_PEAK)
        finally:
            os.close(fd)
    except OSError:
        pass  # a kernel without it: the peak is then the process'


def _used() -> tuple[float, int]:
    """CPU seconds of this process and the children that it has waited for, and its peak in bytes.

    A worker was forked and never executed a program: so getrusage(2) says the peak of its memory as it is now, which
    /proc/self/status takes ten times as long to tell.
    """
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime, own.ru_maxrss * 1024


def resident_bytes() -> int:
    try:
        with open("/proc/self/status", "rb", buffering=0) as file:
            status = file.read(8192)
    except OSError:
        return 0
    _, _, rest = status.partition(b"VmRSS:")
    words = rest.split(maxsplit=1)
    return int(words[0]) * 1024 if words else 0
