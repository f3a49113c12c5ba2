"""How both engines write what they keep: states as numbers, small records as JSON. Pure; used by the engines alone."""

from __future__ import annotations

from typing import Any

import msgspec

from kubemin.clock import Micros
from kubemin.model.graph import Graph
from kubemin.model.records import Outcome, Usage
from kubemin.model.states import RunState, TaskState

STATES: tuple[TaskState, ...] = tuple(TaskState)  # by number
WAITING, QUEUED, RUNNING, COMPLETED, FAILED, TIMEOUT, CANCELLED, SKIPPED = range(8)
NUMBERS: dict[str, int] = {state.value: number for number, state in enumerate(STATES)}  # also by the enums' members
RUN_STATES: dict[int, RunState] = {NUMBERS[state.value]: state for state in RunState}  # runs use the same numbers

SETTLED = 1 << 9  # flag of a task: the outcome of its token was accepted; the same one again is a duplicate
STOPPING = 1 << 12  # flag of a single task that is to be stopped; its cause says why


class Detail(msgspec.Struct, omit_defaults=True):
    """What is shown of a task's last end and never queried."""

    message: str = ""
    exit_code: int | None = None
    signal: int | None = None
    usage: Usage | None = None
    unenforced: tuple[str, ...] = ()
    sig: str = ""  # of its output, in a fleet that signs


class Extra(msgspec.Struct, omit_defaults=True):
    """What a single task has beside its work, when it has any. `label` names it where its work does not."""

    label: str = ""
    timeout: float | None = None
    retry: dict[str, Any] | None = None
    start_at: Micros | None = None
    key: str | None = None  # where the engine has no other place for it
    sig: str = ""  # of the task, in a fleet that signs


class Label(msgspec.Struct):
    """Of a single task's work: what names it."""

    python: str = ""
    run: tuple[str, ...] = ()
    shell: str = ""


encode = msgspec.json.Encoder().encode
decode: Any = msgspec.json.decode
decode_graph = msgspec.json.Decoder(Graph).decode
decode_label = msgspec.json.Decoder(Label).decode
decode_extra = msgspec.json.Decoder(Extra).decode
decode_detail = msgspec.json.Decoder(Detail).decode


def label_of(work: bytes | str, extra: bytes | str | None = None) -> str:
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


def detail_of(outcome: Outcome) -> bytes:
    """JSON of what is shown of an outcome; empty when there is nothing."""
    bare = outcome.usage is None and outcome.exit_code is None
    if bare and not (outcome.message or outcome.signal or outcome.unenforced or outcome.signature):
        return b""
    one = outcome
    return encode(Detail(one.message, one.exit_code, one.signal, one.usage, one.unenforced, one.signature))
