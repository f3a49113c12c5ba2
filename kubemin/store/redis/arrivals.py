"""Runs that move here from a node's own store: brought in parts that nobody sees, then made visible by one script.

A run arrives once. `arrive` refuses one that is here or was here before: beside the run's own record a tombstone of its
id says so, until the node that sent it has noted the arrival (`forget`), whatever became of the run meanwhile. The
parts may be sent again and in any order: a parcel never changes, and what comes after the arrival is dropped.

Who writes: the coordinator of the node whose store the runs are from; any client may ask for a run's cancellation
before it is here (`cancel_when_here`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from kubemin.clock import Micros
from kubemin.errors import NotFound, StoreUnavailable
from kubemin.model.states import STARTS_IN_STOPPED_RUN, TaskState
from kubemin.store.codec import NUMBERS, QUEUED, SETTLED, WAITING, Detail, Extra, decode, decode_detail, encode
from kubemin.store.parcel import Parcel, ParcelTask
from kubemin.store.plans import Plan
from kubemin.store.redis import keys
from kubemin.store.redis.claims import TAIL_BYTES, Claims
from kubemin.store.redis.intake import AT_ONCE, digest
from kubemin.store.redis.records import pack
from kubemin.store.redis.session import Session
from kubemin.store.redis.signatures import Seal

KEPT, FRESH, ALWAYS = 1024, 2048, 8192  # flags, as scripts.py names them
CANCEL = b"cancel"


class Incomplete(StoreUnavailable):
    """Another server answers than the one that parts were sent to, or it has lost them."""


class Arrivals:
    """`shift`, in each call: what to add to instants in the future, which are of another clock."""

    def __init__(self, session: Session, claims: Claims) -> None:
        self.s = session
        self._claims = claims

    # --- runs of a workflow ------------------------------------------------------------------------------------------

    def unload(self, parcel: Parcel, tasks: Sequence[ParcelTask], shift: Micros) -> None:
        """One part of a run's tasks."""
        plan = self.s.plans.get(parcel.definition or "")
        records: list[Any] = []
        outputs: list[Any] = []
        for task in tasks:
            records += (task.idx, pack(self._signed(parcel.id, task, plan, _step(task, plan, shift))))
            if task.output is not None:
                outputs += (task.idx, task.output.decode())
        request = {
            "id": parcel.id,
            "outputs": outputs,
            "tails": [[task.idx, *_tails(task)] for task in tasks if _has_tails(task)],
            "budget": self._claims.output_bytes,
        }
        touched = (keys.run(parcel.id), keys.tasks(parcel.id), keys.outputs(parcel.id), keys.ARRIVED)
        self.s.client.run("unload", touched, keys.PREFIX, pack(request), *records)

    def arrive(self, parcel: Parcel, shift: Micros) -> str | None:
        """After all parts: it is here, also if it was before. The id of another run that has its key: nothing was done.
        Raises NotFound when its definition is not known, Incomplete when the server has lost parts."""
        told = self.s.engine(
            "arrive",
            (keys.run(parcel.id), keys.graph(parcel.definition or ""), keys.tasks(parcel.id)),
            run=_run(parcel, shift, self.s.version),
            params=parcel.params.decode(),
            signature="" if self.s.signatures is None else self.s.signatures.sign_run(_seal(parcel)),
            tasks=parcel.tasks,
            node=self.s.node,
            key=parcel.key or "",
            digest=digest(parcel.workflow, decode(parcel.params or b"{}")) if parcel.key else "",
            floor=parcel.floor,
            unmade=parcel.unmade,
        )
        if told == b"?":
            raise NotFound(f"definition {parcel.definition} was removed meanwhile; send it along")
        if told == b"-":
            raise Incomplete(f"run {parcel.id}: parts of it were lost; it is sent again", code="incomplete")
        return told.decode()[1:] if isinstance(told, bytes) else None

    def _signed(self, run: str, task: ParcelTask, plan: Plan, record: dict[str, Any]) -> dict[str, Any]:
        """With a signature of its output, as if its worker had been in the fleet."""
        signatures = self.s.signatures
        if signatures is None or task.state is not TaskState.COMPLETED or task.base is not None:
            return record
        detail = decode_detail(task.detail) if task.detail else Detail()
        step = plan.step_path(task.node, task.item)
        detail.sig = signatures.sign_completed(run, step, task.token, task.output or b"")
        return record | {"D": encode(detail).decode()}

    # --- single tasks ------------------------------------------------------------------------------------------------

    def arrive_singles(self, parcels: Sequence[Parcel], shift: Micros) -> dict[str, str]:
        """Many at once, and as `arrive`: id -> the other run that has its key."""
        taken: dict[str, str] = {}
        for at in range(0, len(parcels), AT_ONCE):
            some = parcels[at : at + AT_ONCE]
            request = {
                "node": self.s.node,
                "floor": max(each.floor for each in some),
                "tails": {each.id: _tails(each.task) for each in some if each.task and _has_tails(each.task)},
                "budget": self._claims.output_bytes,
            }
            packed = pack(self.s.engine_request(**request))
            arguments = [argument for each in some for argument in _single(each, shift, self.s)]
            told, *beside = self.s.client.run("arrive_singles", (keys.ARRIVED,), keys.PREFIX, packed, *arguments)
            self.s.take(*beside)
            taken |= {
                each.id: answer.decode()[1:]
                for each, answer in zip(some, told, strict=True)
                if isinstance(answer, bytes)
            }
        return taken

    # --- before and after --------------------------------------------------------------------------------------------

    def forget(self, runs: Collection[str]) -> None:
        """The node that sent them has noted that they are here."""
        if runs:
            self.s.client.execute("HDEL", keys.ARRIVED, *runs)

    def expect(self, runs: Iterable[str]) -> None:
        """They come when their tasks that run elsewhere have ended: until then they can be cancelled through here."""
        wanted = [("HSETNX", keys.COMING, run, self.s.node) for run in runs]
        if wanted:
            self.s.client.pipeline(wanted)

    def expect_no_more(self, node: str) -> None:
        """All runs of this node are here, or have ended there."""
        raw = self.s.client.execute("HGETALL", keys.COMING)
        gone = [run for run, word in zip(raw[::2], raw[1::2], strict=True) if word.decode().split()[-1] == node]
        if gone:
            self.s.client.execute("HDEL", keys.COMING, *gone)

    def cancelled(self, runs: Sequence[str]) -> list[str]:
        """Which of them are to be cancelled where they are."""
        wishes = self.s.client.execute("HMGET", keys.COMING, *runs) if runs else []
        return [run for run, wish in zip(runs, wishes, strict=True) if wish and wish.startswith(CANCEL)]

    def cancel_when_here(self, run: str, node: str) -> None:
        """`node`: that has it now."""
        self.s.client.execute("HSET", keys.COMING, run, f"{CANCEL.decode()} {node}")


def _has_tails(task: ParcelTask) -> bool:
    return bool(task.stdout or task.stderr)


def _tails(task: ParcelTask) -> list[Any]:
    most = TAIL_BYTES if task.state is TaskState.COMPLETED else 4 * TAIL_BYTES
    return [task.stdout, task.stderr, most]


def _run(parcel: Parcel, shift: Micros, version: int) -> dict[str, Any]:
    """The record, but for what the script knows better (lua/building.lua names the fields)."""
    deadline = None if parcel.deadline is None else parcel.deadline + shift
    record = {
        "id": parcel.id, "d": parcel.definition, "W": parcel.workflow, "s": NUMBERS[parcel.state.value],
        "st": parcel.stop, "c": parcel.cause, "R": parcel.round, "S": parcel.submitted, "sa": parcel.start_at,
        "sc": parcel.scheduled_at, "B": parcel.started, "du": parcel.due, "dl": deadline, "ck": parcel.ckey,
        "po": parcel.policy, "l": parcel.live, "nx": parcel.next, "mv": parcel.next, "ky": parcel.key,
        "v": version if version > 1 else None,
    }  # fmt: skip
    return _present(record)


def _step(task: ParcelTask, plan: Plan, shift: Micros) -> dict[str, Any]:
    node = plan.nodes[task.node]
    always = ALWAYS if node.when in STARTS_IN_STOPPED_RUN else 0
    record = _task(task, shift) | {
        "s": WAITING if task.state is TaskState.QUEUED else NUMBERS[task.state.value],
        "f": (_flags(task) | always) or None,
        "o": task.open,
    }
    if task.item is not None:
        record |= {"i": task.item, "p": task.node}
    if task.base is not None:
        running = task.state is TaskState.RUNNING
        record |= {"b": task.base, "m": task.made or 0, "N": task.total, "n": task.total if running else None}
    return _present(record)


def _seal(parcel: Parcel) -> Seal:
    return Seal(
        parcel.id, parcel.workflow, parcel.definition or "", parcel.params, parcel.key, parcel.start_at,
        parcel.scheduled_at, parcel.round,
    )  # fmt: skip


def _single(parcel: Parcel, shift: Micros, session: Session) -> tuple[Any, ...]:
    task = parcel.task
    assert task is not None
    extra = Extra(parcel.workflow, parcel.timeout, parcel.retry, parcel.start_at, parcel.key)
    if session.signatures is not None:
        extra.sig = session.signatures.sign_task(parcel.id, parcel.work, extra)
    mark = digest(parcel.workflow, decode(parcel.work)) if parcel.key else ""
    more = b"" if extra == Extra() else encode(extra)
    return parcel.id, parcel.work, more, parcel.key or "", mark, _single_state(parcel, task, shift, session.version)


def _single_state(parcel: Parcel, task: ParcelTask, shift: Micros, version: int) -> bytes:
    queued = task.state is TaskState.QUEUED
    if queued and not task.token and not task.used and parcel.round == 1:
        return f"q{parcel.submitted} {version} {parcel.queue}".encode()
    due = None if task.due is None else task.due if task.due == parcel.start_at else task.due + shift
    record = _task(task, shift) | {
        "s": QUEUED if queued else WAITING,
        "f": _flags(task) or None,
        "d": due,
        "S": parcel.submitted,
        "R": parcel.round if parcel.round > 1 else None,
        "u": None if parcel.queue == "default" else parcel.queue,
        "v": version if version > 1 else None,
    }
    return pack(_present(record))


def _task(task: ParcelTask, shift: Micros) -> dict[str, Any]:
    """What steps and single tasks have in common (lua/core.lua)."""
    return {
        "d": None if task.due is None else task.due + shift, "a": task.used or None, "k": task.token or None,
        "w": task.place or None, "y": task.crashes or None, "l": task.losses or None, "z": task.drains or None,
        "c": task.cause, "Q": task.queued, "B": task.started, "E": task.finished, "D": task.detail or None,
    }  # fmt: skip


def _flags(task: ParcelTask) -> int:
    return task.heard | (SETTLED if task.settled else 0) | (KEPT if task.kept else 0) | (FRESH if task.fresh else 0)


def _present(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if value is not None}
