"""A run on its way from one store into another: all of its records, free of either engine's way of keeping them.

The store that gives it away makes the parcel in the transaction in which it lets go of the run, so that nothing changes
it any more (`sqlite/moving.py`); the store that takes it makes it visible by one act (`redis/arrivals.py`). Pure data;
msgpack on the disk. Instants are of the giving machine's wall clock.
"""

from __future__ import annotations

from typing import Any

import msgspec

from kubemin.clock import Micros
from kubemin.model.states import Cause, RunState, TaskState

IN_FLEET = "in_fleet"  # code of the error that says: the run is in the fleet's store now
PART_TASKS = 200  # in one part of a large run: about 2 ms in Redis
PART_BYTES = 256 * 1024  # … of their outputs and tails


class ParcelTask(msgspec.Struct, omit_defaults=True, gc=False):
    """One task; none of a parcel's is claimed. `used`: attempts used up; `open`: needs, or children, not ended."""

    idx: int
    node: int
    state: TaskState
    item: int | None = None  # a child: which of its fan-out's items
    heard: int = 0  # from its needs: bits of model/transitions.py
    settled: bool = False  # the outcome of `token` was accepted
    kept: bool = False  # completed in an earlier round; passes on again when its needs have ended
    fresh: bool = False  # a fan-out whose completed children are run again too
    open: int = 0
    due: Micros | None = None
    used: int = 0
    token: int = 0
    crashes: int = 0
    losses: int = 0
    drains: int = 0
    cause: str | None = None
    queued: Micros | None = None
    started: Micros | None = None
    finished: Micros | None = None
    base: int | None = None  # a fan-out: idx of its first child
    made: int | None = None  # … items that were begun
    total: int | None = None  # … items
    detail: str = ""  # JSON: message, exit code, signal, usage
    output: bytes | None = None  # JSON
    stdout: str = ""
    stderr: str = ""
    place: str = ""  # "node|slot" that had it last

    @property
    def size(self) -> int:
        return len(self.output or b"") + len(self.stdout) + len(self.stderr)


class Parcel(msgspec.Struct, omit_defaults=True):
    """A run. The `tasks` tasks of a workflow travel in `parts` parts beside it; a single task (no `definition`) is in
    `task`.

    `floor`: no task of it was given a higher token. `unmade`: queue -> items of running fan-outs that were not begun.
    """

    id: str
    workflow: str = ""
    definition: str | None = None
    params: bytes = b""
    key: str | None = None
    state: RunState = RunState.WAITING
    round: int = 1
    submitted: Micros = 0
    start_at: Micros | None = None
    scheduled_at: Micros | None = None
    started: Micros | None = None
    due: Micros | None = None
    deadline: Micros | None = None
    stop: Cause | None = None
    cause: str | None = None
    ckey: str | None = None
    policy: str | None = None
    live: int = 1
    next: int = 1
    unmade: dict[str, int] = {}
    floor: int = 0
    parts: int = 0
    tasks: int = 0
    work: bytes = b""
    queue: str = "default"
    timeout: float | None = None
    retry: dict[str, Any] | None = None
    task: ParcelTask | None = None

    @property
    def single(self) -> bool:
        return self.task is not None


pack_parcel = msgspec.msgpack.Encoder().encode
unpack_parcel = msgspec.msgpack.Decoder(Parcel).decode
pack_part = msgspec.msgpack.Encoder().encode
unpack_part = msgspec.msgpack.Decoder(list[ParcelTask]).decode


def in_parts(tasks: list[ParcelTask]) -> list[list[ParcelTask]]:
    """Of about PART_TASKS tasks and PART_BYTES each."""
    parts: list[list[ParcelTask]] = []
    size = 0
    for task in tasks:
        if not parts or len(parts[-1]) >= PART_TASKS or size >= PART_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(task)
        size += task.size
    return parts
