"""What a Python step used. It shares the worker's process, so these are differences, and the peak is set back first."""

from __future__ import annotations

import resource
from typing import Final

from kubemin.model.records import Usage

_RESET_PEAK: Final = b"5"  # proc(5), clear_refs: the peak resident set size becomes the current one


class Meter:
    def __init__(self) -> None:
        self._cpu = _cpu_seconds()
        try:
            with open("/proc/self/clear_refs", "wb", buffering=0) as file:
                file.write(_RESET_PEAK)
        except OSError:
            pass  # a kernel without it: the peak is then the process'

    def read(self) -> Usage:
        return Usage(cpu=round(_cpu_seconds() - self._cpu, 6), memory=_peak_bytes())


def _cpu_seconds() -> float:
    """Of this process and the children that it has waited for."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _peak_bytes() -> int:
    return _status_kib(b"VmHWM:") * 1024


def resident_bytes() -> int:
    return _status_kib(b"VmRSS:") * 1024


def _status_kib(field: bytes) -> int:
    try:
        with open("/proc/self/status", "rb", buffering=0) as file:
            status = file.read(8192)
    except OSError:
        return 0
    _, _, rest = status.partition(field)
    words = rest.split(maxsplit=1)
    return int(words[0]) if words else 0
