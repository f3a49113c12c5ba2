"""Records as Lua packs them (lua/core.lua, forms.lua, building.lua, solo.lua name the fields), and their version.

A node reads all versions up to VERSION and writes that one. What leads to newer records (lists, due times, cursors)
stands under keys of its own (`keys.mark`), so that an older node does not meet them in its work; where it does, by an
id that a user gives or in a list of all runs, it says so and leaves them as they are. Whatever the version, a run's
record says it as `v` of a packed map, or as the second word of "qINSTANT VERSION QUEUE".
What lua/steps.lua does without the engine it does for version 1: a higher VERSION has to be made known there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from kubemin.clock import Micros
from kubemin.errors import Refused, StoreUnavailable
from kubemin.model.ids import split_task
from kubemin.model.records import Outcome
from kubemin.store import codec
from kubemin.store.codec import QUEUED, RUNNING, WAITING

VERSION = 1


class NewerRecord(Refused):
    """Of a version that this node does not know: another kubemin wrote it."""

    code = "newer_record"

    def __init__(self, what: str, version: int, known: int) -> None:
        super().__init__(
            f"{what} is kept in records of version {version}, newer than this kubemin knows ({known}): "
            "use an upgraded node, or upgrade this one"
        )


class Spoilt(StoreUnavailable):
    """A record that cannot be read."""

    code = "corrupt"


class TaskRecord(msgspec.Struct, gc=False):
    """A task of a run, or a single task's state (then S, R, u, v too)."""

    s: int = 0
    f: int = 0
    o: int = 0
    q: int | None = None
    d: Micros | None = None
    a: int = 0
    k: int = 0
    w: str | None = None
    y: int = 0
    l: int = 0  # noqa: E741
    z: int = 0
    c: str | None = None
    Q: Micros | None = None
    B: Micros | None = None
    E: Micros | None = None
    D: str | None = None
    b: int | None = None
    m: int | None = None
    n: int | None = None
    N: int | None = None
    i: int | None = None
    p: int | None = None
    S: Micros | None = None
    R: int = 1
    u: str | None = None
    v: int = 1


class RunRecord(msgspec.Struct, gc=False):
    d: str
    W: str
    N: int
    s: int
    R: int
    S: Micros
    l: int  # noqa: E741
    li: Any  # queue -> its tasks that stand in a list
    pa: int
    nx: int
    g: int
    st: str | None = None
    c: str | None = None
    sa: Micros | None = None
    sc: Micros | None = None
    B: Micros | None = None
    E: Micros | None = None
    du: Micros | None = None
    dl: Micros | None = None
    T: float | None = None
    ck: str | None = None
    po: str | None = None
    pl: int | None = None
    h: int | None = None
    ag: int | None = None
    x: int | None = None
    ky: str | None = None
    v: int = 1


class SlotClaim(msgspec.Struct, gc=False):
    """A claim in a slot's record. `kind`: 0 a step, 1 a single task in its first life, 2 another single task."""

    run: str
    idx: int
    token: int
    kind: int
    stop: str | None
    always: bool


def slot_claims(raw: bytes) -> list[SlotClaim]:
    """What one life of a worker holds (lua/slots.lua says how it is written); kind 3 there is a step, too."""
    claims = []
    for text in raw.decode(errors="replace").split("|", 3)[-1].split(";")[:-1]:
        if text.count(" ") != 5:  # a newer form, or spoilt
            continue
        name, kind, _, _, stop, always = text.split(" ")
        task, _, token = name.partition("@")
        run, idx = split_task(task)
        claims.append(SlotClaim(run, idx, int(token), int(kind) % 3, None if stop == "-" else stop, always == "a"))
    return claims


class Final(msgspec.Struct, omit_defaults=True, gc=False):
    """The record of a single task that completed in its first life, fields as in TaskRecord. `s` is the first:
    states.lua looks for it there."""

    s: int
    k: int
    w: str
    B: Micros
    E: Micros
    Q: Micros
    f: int = -1
    a: int = -1
    D: str = ""
    u: str = ""
    v: int = 1


class Schedule(msgspec.Struct):
    """A published workflow: hash, instant of publication, last slot, its schedule as text."""

    h: str
    at: Micros
    m: Micros
    s: str = ""
    v: int = 1


class _Versioned(msgspec.Struct):
    v: int = 1


encode_sorted = msgspec.json.Encoder(order="deterministic").encode
pack = msgspec.msgpack.Encoder().encode
_unpack_task = msgspec.msgpack.Decoder(TaskRecord).decode
unpack_run = msgspec.msgpack.Decoder(RunRecord).decode
unpack_schedule = msgspec.msgpack.Decoder(Schedule).decode
unpack_any = msgspec.msgpack.Decoder().decode
unpack_tails = msgspec.msgpack.Decoder(list[str]).decode
_unpack_version = msgspec.msgpack.Decoder(_Versioned).decode


def unpack_task(raw: bytes) -> TaskRecord:
    """A step's task. In its first life its record is short (lua/steps.lua names the forms)."""
    kind, words = raw[:1], raw[1:]
    try:
        if kind == b"w":
            return TaskRecord(s=WAITING, o=int(words))
        if kind == b"q":
            return TaskRecord(s=QUEUED, q=0, Q=int(words))
        if kind == b"g":
            since, given = words.split(b" ")
            return TaskRecord(s=QUEUED, q=0, k=int(given), Q=int(since))
        if kind == b"r":
            queued, token, started, place = words.decode().split(" ", 3)
            return TaskRecord(s=RUNNING, k=int(token), Q=int(queued), B=int(started), w=place)
    except ValueError as error:
        raise msgspec.DecodeError(str(error)) from error
    return _unpack_task(raw)


def unpack_state(raw: bytes) -> TaskRecord:
    """A single task's state, or a task's record; "qINSTANT VERSION QUEUE" is queued for the first time."""
    if raw[:1] != b"q" or b" " not in raw:
        return unpack_task(raw)
    try:
        at, version, queue = raw[1:].decode().split(" ", 2)
        return TaskRecord(s=QUEUED, Q=int(at), u=None if queue == "default" else queue, v=int(version))
    except ValueError as error:
        raise msgspec.DecodeError(str(error)) from error


def read_run(raw: bytes, known: int, run: str) -> RunRecord:
    """Raises NewerRecord, Spoilt."""
    record: RunRecord = _read(raw, unpack_run, known, f"run {run}")
    return record


def read_state(raw: bytes, known: int, run: str) -> TaskRecord:
    """Of a single task. Raises NewerRecord, Spoilt."""
    record: TaskRecord = _read(raw, unpack_state, known, f"run {run}")
    return record


def read_schedule(raw: bytes, known: int, workflow: str) -> Schedule:
    """Raises NewerRecord, Spoilt."""
    record: Schedule = _read(raw, unpack_schedule, known, f"workflow {workflow}")
    return record


def _read(raw: bytes, unpack: Callable[[bytes], Any], known: int, what: str) -> Any:
    try:
        record = unpack(raw)
        version = record.v
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        version = version_of(raw)
        if version <= known:
            raise Spoilt(f"the record of {what} in Redis cannot be read: {error}") from error
    if version > known:
        raise NewerRecord(what, version, known)
    return record


def version_of(raw: bytes) -> int:
    """Of any record, as far as it says; 0: it cannot be read at all."""
    try:
        if raw[:1] == b"q":
            return int(raw.split(b" ", 2)[1]) if b" " in raw else 1
        if raw[:1] in (b"w", b"g", b"r"):
            return 1
        return _unpack_version(raw).v
    except (msgspec.MsgspecError, ValueError, IndexError):
        return 0


def detail_of(outcome: Outcome) -> str:
    """The store's `detail_of`, as text: Lua keeps it in a record."""
    return codec.detail_of(outcome).decode()
