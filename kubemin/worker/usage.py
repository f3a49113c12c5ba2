"""What a Python step used. It shares the worker's process, so these are differences, and the peak is set back first."""

from __future__ import annotations

import os
import resource
from typing import Final

from kubemin.model.records import Usage

_RESET_PEAK: Final = b"5"  # proc(5), clear_refs: the peak resident set size becomes the current one


class Meter:
    def __init__(self) -> None:
        try:
            fd = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, _RESET_PEAK)
            finally:
                os.close(fd)
        except OSError:
            pass  # a kernel without it: the peak is then the process'
        self._cpu, _ = _used()

    def read(self) -> Usage:
        cpu, peak = _used()
        return Usage(cpu=round(cpu - self._cpu, 6), memory=peak)


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
