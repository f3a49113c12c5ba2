"""What a step may use at most, and what to say where the machine cannot hold it to that.

Pure: reads the `limits` of a task's work (see `model/graph.py`), touches nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from kubemin.steps.base import StartFailed

NAMES = ("memory", "cpu", "pids")


class Limits(msgspec.Struct, frozen=True, rename="camel"):
    """`memory` in bytes (swap included: none), `cpu` in cores, `pids` counts processes and threads."""

    memory: int | None = None
    cpu: float | None = None
    pids: int | None = None
    best_effort: bool = False

    @property
    def wanted(self) -> tuple[str, ...]:
        return tuple(name for name in NAMES if getattr(self, name) is not None)


UNLIMITED = Limits()


def parse_limits(work: Mapping[str, Any]) -> Limits:
    """The limits of one task. Raises StartFailed when they are not what the compiler lets through."""
    given = work.get("limits")
    if not given:
        return UNLIMITED
    try:
        return msgspec.convert(given, Limits)
    except msgspec.ValidationError as exc:
        raise StartFailed(f"limits cannot be read: {exc}") from exc


def admit(limits: Limits, enforceable: frozenset[str]) -> tuple[str, ...]:
    """Names of the limits that will not be enforced. Raises StartFailed unless `bestEffort` allows that."""
    unenforced = tuple(name for name in limits.wanted if name not in enforceable)
    if unenforced and not limits.best_effort:
        names = ", ".join(f"limits.{name}" for name in unenforced)
        need = "needs" if len(unenforced) == 1 else "need"
        raise StartFailed(
            f"{names} {need} a delegated cgroup v2 (systemd Delegate=yes); "
            "set limits.bestEffort: true to run without it"
        )
    return unenforced
