"""Rows as objects. Pure data; SQL is in `queries.sql`.

`TaskRow` and `RunRow` list their fields in the order of the columns that the queries select and write.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import msgspec

from kubemin.clock import Micros
from kubemin.model import transitions as rules
from kubemin.model.states import Cause
from kubemin.store.codec import COMPLETED, SETTLED, STATES, WAITING, encode
from kubemin.store.plans import GATE, MEMBER, SOFT

NAMES: tuple[str, ...] = tuple(state.value for state in STATES)
CAUSES: dict[Cause | None, str | None] = {None: None, **{cause: cause.value for cause in Cause}}  # `.value` is slow

# Flags of a task; the low byte is what it heard from its needs (model/transitions.py).
SOLO = 1 << 8  # a single Python task: the row is the run as well
KEPT = 1 << 10  # completed in an earlier round; passes on again when its needs have ended
FRESH = 1 << 11  # a fan-out whose completed children are run again too
ROUND = 1 << 16  # a solo task's round, less 1, counted from this bit up

CRASH, LOSS, DRAIN = 1, 1 << 8, 1 << 16  # one strike of each kind
MOST_STRIKES = 255


class TaskRow(msgspec.Struct, gc=False):
    run: str
    idx: int
    node: int
    item: int | None
    state: int
    flags: int
    open: int
    queue: str
    seq: int | None
    due: Micros | None
    attempt: int
    token: int
    owner: int | None
    strikes: int
    cause: str | None
    queued: Micros | None
    started: Micros | None
    finished: Micros | None
    base: int | None
    made: int | None
    total: int | None
    detail: bytes | None = None
    output: bytes | None = None  # only what this transaction writes; never loaded
    dirty: int = 0  # which of its columns changed: the parts below

    @property
    def ended(self) -> bool:
        return self.state >= COMPLETED

    @property
    def child(self) -> bool:
        return self.item is not None

    def passes(self, marks: int) -> int:
        """What it passes on, having ended, along an edge with these marks (`transitions.passes`)."""
        soft, gate, member = marks & SOFT != 0, marks & GATE != 0, marks & MEMBER != 0
        return rules.passes(STATES[self.state], self.cause, self.flags, soft=soft, gate=gate, member=member)

    def strike(self, kind: int) -> int:
        """Count one strike and return how many of the kind there are."""
        count = self.strikes // kind & MOST_STRIKES
        if count < MOST_STRIKES:
            self.strikes += kind
            count += 1
        return count


def run_row(columns: Sequence[Any]) -> RunRow:
    """From the columns as the query `run` selects them."""
    run = RunRow(*columns)
    run.listed = decode_counts(run.listed)  # type: ignore[arg-type]
    return run


def new_task(run: str, idx: int, node: int, queue: str, *, opened: int = 0, item: int | None = None) -> TaskRow:
    return TaskRow(
        run, idx, node, item, WAITING, 0, opened, queue, None, None, 0, 0, None, 0, None, None, None, None, None, None,
        None,
    )  # fmt: skip


def reset(task: TaskRow, opened: int, heard: int = 0) -> None:
    """As before its first attempt; token and SETTLED stay, so that tokens only rise and a repeat is known as one."""
    task.state, task.flags, task.open = WAITING, heard | task.flags & SETTLED, opened
    task.seq = task.due = task.cause = task.queued = task.started = task.finished = task.detail = None
    task.attempt = task.strikes = 0
    if task.made is not None:
        task.made = 0


class RunRow(msgspec.Struct, gc=False):
    id: str
    definition: str
    workflow: str
    state: int
    stop: str | None
    cause: str | None
    round: int
    submitted: Micros
    start_at: Micros | None
    scheduled_at: Micros | None
    started: Micros | None
    finished: Micros | None
    due: Micros | None
    deadline: Micros | None
    ckey: str | None
    holds: int
    live: int
    listed: dict[str, int]  # by queue
    parked: int
    next: int
    stage: int
    again: str | None
    key: str | None
    place: int
    dirty: int = 0  # 1: only what run_counters writes
    plan: Any = None  # the Plan of its definition, once it was needed

    @property
    def ended(self) -> bool:
        return self.state >= COMPLETED

    @property
    def listed_json(self) -> str:
        return encode(self.listed).decode()

    @property
    def stopped(self) -> Cause | None:
        return None if self.stop is None else Cause(self.stop)


class Held(msgspec.Struct, gc=False):
    """A claim as it is kept in memory."""

    token: int
    owner: int
    clean: bool  # a solo task with nothing to look up when it completes
    label: str  # of a solo task
    started: Micros


task_insert = attrgetter(
    "run", "idx", "node", "item", "state", "flags", "open", "queue", "seq", "due", "attempt", "token", "owner",
    "strikes", "cause", "queued", "started", "finished", "base", "made", "total", "detail", "output",
)  # fmt: skip
fresh_task_insert = attrgetter(  # of one that waits or is queued for the first time
    "run", "idx", "node", "item", "state", "flags", "open", "queue", "seq", "queued"
)
# Parts of a task's row that change together. Writing only those spares the indexes on the others.
HEARD, PLACED, CLAIMED, ENDED, ALL = 1, 2, 4, 8, 15

_WRITES = {
    "update_task": attrgetter(
        "state", "flags", "open", "seq", "due", "attempt", "token", "owner", "strikes", "cause", "queued", "started",
        "finished", "base", "made", "total", "detail", "state", "output", "run", "idx",
    ),
    "hear_task": attrgetter("flags", "open", "run", "idx"),
    "place_task": attrgetter("state", "flags", "open", "seq", "due", "queued", "run", "idx"),
    "claim_task": attrgetter("state", "flags", "token", "owner", "started", "run", "idx"),
    "end_task": attrgetter(
        "state", "flags", "attempt", "cause", "started", "finished", "detail", "output", "run", "idx"
    ),
}  # fmt: skip
_NAMES = {
    HEARD: "hear_task",
    PLACED: "place_task",
    HEARD | PLACED: "place_task",
    CLAIMED: "claim_task",
    ENDED: "end_task",
}

# By the parts that changed: the query, and what gives its arguments.
TASK_WRITES = [(name, _WRITES[name]) for name in (_NAMES.get(parts, "update_task") for parts in range(ALL + 1))]

run_insert = attrgetter(
    "id", "definition", "workflow", "state", "stop", "cause", "round", "submitted", "start_at", "scheduled_at",
    "started", "finished", "due", "deadline", "ckey", "holds", "live", "listed_json", "parked", "next", "stage",
    "again", "key", "place",
)  # fmt: skip
run_update = attrgetter(
    "state", "stop", "cause", "round", "started", "finished", "due", "deadline", "ckey", "holds", "live", "listed_json",
    "parked", "next", "stage", "again", "id",
)  # fmt: skip
run_counters = attrgetter("cause", "live", "listed_json", "parked", "next", "id")

decode_counts = msgspec.json.Decoder(dict[str, int]).decode
