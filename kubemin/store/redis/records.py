"""Records as Lua packs them (lua/core.lua, building.lua, solo.lua say what each field is), and the numbers of
states."""

from __future__ import annotations

from typing import Any

import msgspec

from kubemin.clock import Micros
from kubemin.model.ids import split_task
from kubemin.model.records import Outcome, Usage
from kubemin.model.states import RunState, TaskState

STATES: tuple[TaskState, ...] = tuple(TaskState)  # by number
WAITING, QUEUED, RUNNING, COMPLETED, FAILED, TIMEOUT, CANCELLED, SKIPPED = range(8)
NUMBERS: dict[str, int] = {state.value: number for number, state in enumerate(STATES)}
RUN_STATES: dict[int, RunState] = {NUMBERS[state.value]: state for state in RunState}
SETTLED = 512  # flag: the outcome of its token was accepted
STOPPING = 4096  # flag of a single task that is to be stopped


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
    """What one life of a worker holds (lua/slots.lua says how it is written)."""
    claims = []
    for text in raw.decode().split("|", 3)[3].split(";")[:-1]:
        name, kind, _, _, stop, always = text.split(" ")
        task, _, token = name.partition("@")
        run, idx = split_task(task)
        claims.append(SlotClaim(run, idx, int(token), int(kind), None if stop == "-" else stop, always == "a"))
    return claims


class Final(msgspec.Struct, omit_defaults=True, gc=False):
    """The record of a single task that completed in its first life, fields as in TaskRecord."""

    k: int
    w: str
    B: Micros
    E: Micros
    Q: Micros
    s: int = -1  # never left out
    f: int = -1
    a: int = -1
    D: str = ""
    u: str = ""
    v: int = 1


class Detail(msgspec.Struct, omit_defaults=True):
    """What is shown of a task's last end and never looked for."""

    message: str = ""
    exit_code: int | None = None
    signal: int | None = None
    usage: Usage | None = None
    unenforced: tuple[str, ...] = ()


class Extra(msgspec.Struct, omit_defaults=True):
    """What a single task has beside its work, when it has any."""

    label: str = ""
    timeout: float | None = None
    retry: dict[str, Any] | None = None
    start_at: Micros | None = None
    key: str | None = None


class Label(msgspec.Struct):
    """Of a single task's work: what names it."""

    python: str = ""
    run: tuple[str, ...] = ()
    shell: str = ""


class Schedule(msgspec.Struct):
    """A published workflow: hash, instant of publication, last slot, its schedule as text."""

    h: str
    at: Micros
    m: Micros
    s: str = ""


encode = msgspec.json.Encoder().encode
encode_sorted = msgspec.json.Encoder(order="deterministic").encode
decode: Any = msgspec.json.decode
pack = msgspec.msgpack.Encoder().encode
decode_label = msgspec.json.Decoder(Label).decode
decode_extra = msgspec.json.Decoder(Extra).decode
decode_detail = msgspec.json.Decoder(Detail).decode
unpack_task = msgspec.msgpack.Decoder(TaskRecord).decode
unpack_run = msgspec.msgpack.Decoder(RunRecord).decode
unpack_schedule = msgspec.msgpack.Decoder(Schedule).decode
unpack_any = msgspec.msgpack.Decoder().decode


def unpack_state(raw: bytes) -> TaskRecord:
    """A single task's state, or a task's record; "qINSTANT VERSION QUEUE" is queued for the first time."""
    if raw[:1] != b"q":
        return unpack_task(raw)
    at, version, queue = raw[1:].decode().split(" ", 2)
    return TaskRecord(s=QUEUED, Q=int(at), u=None if queue == "default" else queue, v=int(version))


def label_of(work: bytes, extra: bytes | None = None) -> str:
    """The name of a single task: its function, or its command. A record that cannot be read has none."""
    try:
        if extra and (label := decode_extra(extra).label):
            return label
        found = decode_label(work)
    except msgspec.DecodeError:
        return "?"
    if found.python:
        return found.python
    return found.run[0].rpartition("/")[2] if found.run else "shell"


def detail_of(outcome: Outcome) -> str:
    """JSON of what is shown of an outcome; empty when there is nothing."""
    bare = outcome.usage is None and outcome.exit_code is None
    if bare and not (outcome.message or outcome.signal or outcome.unenforced):
        return ""
    detail = Detail(outcome.message, outcome.exit_code, outcome.signal, outcome.usage, outcome.unenforced)
    return encode(detail).decode()
