"""The machine: control groups, clock, time zones."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator

from kubemin.cli.checks.base import Finding, note, ok, wrong
from kubemin.cli.pool import live_pid
from kubemin.config import Settings

_ADJTIMEX_STATUS = 40  # offset of `status` in struct timex on 64-bit Linux (adjtimex(2))
_STA_UNSYNC = 0x40
_TIMEX_BYTES = 256


def control_groups(settings: Settings) -> Iterator[Finding]:
    """What the running daemon was given; without one, what this shell has says nothing."""
    pid = live_pid(settings)
    if not os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        yield note("cgroup", "no cgroup v2 here: steps are ended by their processes, and `limits` are refused")
    elif pid is None:
        yield note("cgroup", "cgroup v2 is there; whether a group is delegated is seen when the daemon runs")
    else:
        yield _delegated(pid)


def _delegated(pid: int) -> Finding:
    try:
        with open(f"/proc/{pid}/cgroup") as file:
            path = next(line[3:].strip() for line in file if line.startswith("0::"))
    except (OSError, StopIteration):
        return note("cgroup", f"the control group of daemon {pid} cannot be read")
    if path.endswith("/daemon"):  # it moved itself into a leaf of what it was given
        return ok("cgroup", f"each step has a control group of its own below {os.path.dirname(path)}")
    return note(
        "cgroup", f"the daemon's group {path} is not delegated: `limits` are refused; set Delegate=yes in its unit"
    )


def clocks(settings: Settings) -> Iterator[Finding]:
    status = _clock_status()
    if status is not None and status & _STA_UNSYNC:
        yield note("clock", "the clock is not synchronised, so schedules may fire at a wrong time; run an NTP client")
    elif status is not None:
        yield ok("clock", "the clock is synchronised")
    yield _time_zones()


def _clock_status() -> int | None:
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
    if ctypes.CDLL(None).adjtimex(buffer) < 0:
        return None
    status: int = struct.unpack_from("i", buffer, _ADJTIMEX_STATUS)[0]
    return status


def _time_zones() -> Finding:
    import zoneinfo

    try:
        zoneinfo.ZoneInfo("Europe/Berlin")
    except (zoneinfo.ZoneInfoNotFoundError, OSError):
        return wrong(
            "timezones", "there is no time zone data; install the system's tzdata or the Python package tzdata"
        )
    return ok("timezones", f"{len(zoneinfo.available_timezones())} time zones are known")
