"""Workers' side: claim and finish in one round trip; what becomes of a claim whose worker is dead.

Running a task twice is better than losing it: whatever is not settled by its owner is queued again. The fencing token
makes one result the only one accepted. A request carries a number that rises; repeated, it gets the stored reply.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from kubemin import clock
from kubemin.clock import SECOND, Micros
from kubemin.errors import StoreUnavailable
from kubemin.model.ids import split_task
from kubemin.model.records import Claim, Outcome, Owner
from kubemin.model.states import TASK_TERMINAL, Cause, TaskState
from kubemin.store.base import Blame, Change, Verdict
from kubemin.store.redis import keys
from kubemin.store.redis.records import (
    NUMBERS,
    SlotRecord,
    decode_extra,
    decode_label,
    detail_of,
    encode,
    label_of,
    pack,
    unpack_slot,
)
from kubemin.store.redis.scripts import script
from kubemin.store.redis.session import Session

LOCK_TTL = 15.0  # seconds; the setting `lock.ttl`
TAIL_BYTES = 4096  # of each stream of a task that completed; four times as much of one that failed
OUTPUT_BYTES = 256 << 20  # of all tails: `retention.outputBytes`
FORGET_LABELS = 1000  # of claims whose end nobody told
RETIRED_FOR = 86_400  # seconds that a dead worker's late requests are still known

_ENDS = TASK_TERMINAL - {TaskState.SKIPPED}  # what a worker may report
_VERDICTS = {65: Verdict.ACCEPTED, 67: Verdict.ACCEPTED, 68: Verdict.DUPLICATE, 70: Verdict.FENCED}  # A, C, D, F
_COMPLETED = 67

Entry = tuple[str, int]  # a popped entry `TASK@SEQ`, and which of the queues it came from (from 1)


class Retired(StoreUnavailable):
    """This life of a worker was declared dead: it claims and finishes nothing any more, and should end."""

    code = "retired"


class _Life:
    """One life of one worker, as requests name it. `unanswered`: sent and without a reply: sent again as it is."""

    __slots__ = ("claimed", "key", "lock", "name", "number", "owner", "place", "sure", "unanswered")

    def __init__(self, owner: Owner, node: str) -> None:
        self.owner = owner
        self.claimed: dict[str, tuple[str, Micros]] = {}  # single tasks: label and time of the claim
        self.name = slot_name(owner)
        self.key = keys.slot(self.name)
        self.lock = lock_value(owner, node)
        self.place = f"{node}|{owner.slot}"
        self.number = clock.wall()  # above what an earlier process of this life has used
        self.sure = False
        self.unanswered: tuple[tuple[str, ...], dict[str, Any], tuple[Any, ...]] | None = None


class Claims:
    def __init__(self, session: Session, task_timeout: float) -> None:
        self.s = session
        self.task_timeout = task_timeout
        self.ttl = LOCK_TTL
        self.output_bytes = OUTPUT_BYTES
        self._lives: dict[Owner, _Life] = {}
        self._script = script("finish_and_claim")
        self._touched: dict[tuple[str, ...], tuple[str, ...]] = {}

    # --- one round trip ----------------------------------------------------------------------------------------------

    def finish_and_claim(
        self, owner: Owner, outcomes: Sequence[Outcome], queues: Sequence[str], limit: int, entry: Entry | None = None
    ) -> tuple[list[Verdict], list[Claim]]:
        life = self._lives.get(owner)
        if life is None:
            life = self._lives[owner] = _Life(owner, self.s.node)
        told = tuple(map(_told, outcomes))
        claims: list[Claim] = []
        if life.unanswered is not None:
            touched, request, sent = life.unanswered
            verdicts, claims = self._send(life, touched, request)
            if sent == told:
                return verdicts, claims
        life.number += 1
        request = self._request(life, owner, told, queues, limit, entry)
        touched = (life.key, *self._queue_keys(tuple(queues)))
        life.unanswered = touched, request, told
        verdicts, more = self._send(life, touched, request)
        return verdicts, claims + more

    def _queue_keys(self, queues: tuple[str, ...]) -> tuple[str, ...]:
        known = self._touched.get(queues)
        if known is None:
            versions = range(1, self.s.version + 1)
            pairs = [(keys.queue(name, v), keys.pending(name, v)) for name in queues for v in versions]
            known = self._touched[queues] = tuple(key for pair in pairs for key in pair)
        return known

    def _request(
        self,
        life: _Life,
        owner: Owner,
        told: tuple[Any, ...],
        queues: Sequence[str],
        limit: int,
        entry: Entry | None,
    ) -> dict[str, Any]:
        request = self.s.engine_request(
            n=life.number,
            est=self.s.now(),
            instance=owner.instance,
            slot=life.name,
            place=life.place,
            lock=life.lock,
            ttl=round(self.ttl * 1000),
            limit=limit,
            queues=[name for name in queues for _ in range(self.s.version)],
            out=told,
            tail=TAIL_BYTES,
            tails=self.output_bytes,
        )
        if entry is not None:
            request["entry"] = entry
        return request

    def _send(
        self, life: _Life, touched: tuple[str, ...], request: dict[str, Any]
    ) -> tuple[list[Verdict], list[Claim]]:
        reply = self.s.client.run(self._script, touched, keys.PREFIX, pack(request))
        status = reply[0]
        if status == b"STALE" and not life.sure:
            life.number = request["n"] = int(reply[1]) + 1
            reply = self.s.client.run(self._script, touched, keys.PREFIX, pack(request))
            status = reply[0]
        life.sure, life.unanswered = True, None
        if status == b"RETIRED":
            refused = [Verdict.FENCED] * len(request["out"])
            self._tell_fenced(request["out"], refused)
            return refused, []
        if status == b"STALE":
            raise StoreUnavailable("a later request of this worker was answered before", code="stale")
        _, verdicts, told, left, fans, events = reply
        if left or fans or events:
            self.s.take(left, fans, events)
            if left:
                self.s.follow_up()
        judged = [_VERDICTS[letter] for letter in verdicts]
        if _COMPLETED in verdicts:
            self._tell_completed(life, request["out"], verdicts)
        if Verdict.FENCED in judged:
            self._tell_fenced(request["out"], judged)
        return judged, self._claims(life, told)

    def _tell_completed(self, life: _Life, outcomes: Sequence[Any], verdicts: bytes) -> None:
        """Single tasks that completed: the script does not spend time on telling it."""
        now = self.s.now()
        for out, verdict in zip(outcomes, verdicts, strict=True):
            if verdict == _COMPLETED:
                label, claimed = life.claimed.pop(out[0], ("", now))
                seconds = (now - (out[10] or claimed)) / SECOND
                self.s.changes.append(Change("finished", out[0], label, "", "", "completed", "", 1, "", True, seconds))

    def _tell_fenced(self, outcomes: Sequence[Any], verdicts: Sequence[Verdict]) -> None:
        for out, verdict in zip(outcomes, verdicts, strict=True):
            if verdict is Verdict.FENCED:
                task = f"{out[0]}.{out[1]}"
                self.s.changes.append(Change("fenced", out[0], "", task=task, message=f"token {out[2]}"))

    # --- claims ------------------------------------------------------------------------------------------------------

    def _claims(self, life: _Life, told: Sequence[Any]) -> list[Claim]:
        claims: list[Claim] = []
        spoilt: list[Outcome] = []
        if len(life.claimed) > FORGET_LABELS:
            life.claimed.clear()
        for each in told:
            try:
                if each[4] == b"s":
                    claim = self._solo(*each)
                    life.claimed[claim.run] = claim.workflow, self.s.now()
                else:
                    claim = self._step(*each)
                claims.append(claim)
            except msgspec.DecodeError as error:
                message = f"its record cannot be read: {error}"
                spoilt.append(
                    Outcome(each[0].decode(), each[1], int(each[2]), TaskState.FAILED, Cause.CORRUPT, message)
                )
        if spoilt:
            self.finish_and_claim(life.owner, spoilt, (), 0)
        return claims

    def _solo(
        self, run: bytes, idx: int, token: bytes, attempt: int, kind: bytes, work: bytes | None, extra: bytes | None
    ) -> Claim:
        timeout = self.task_timeout
        work = work or b""
        label = decode_label(work).python or label_of(work)
        if extra is not None:
            more = decode_extra(extra)
            label, timeout = more.label or label, timeout if more.timeout is None else more.timeout
        return Claim(
            run.decode(), 0, label, label, int(token), attempt, timeout, msgspec.Raw(work), None, "", True
        )

    def _step(
        self, run: bytes, idx: int, token: bytes, attempt: int, kind: bytes, digest: bytes, node: int, item: int,
        workflow: bytes, turn: int, scheduled_at: int | None,
    ) -> Claim:  # fmt: skip
        plan = self.s.plans.get(digest.decode())
        name, child = run.decode(), None if item < 0 else item
        work, refers = plan.work(node)
        inputs = None
        if refers:
            found = self.s.inputs.of(plan, node, name, workflow.decode(), turn, scheduled_at, child)
            inputs = msgspec.Raw(encode(found))
        timeout = plan.nodes[node].timeout
        return Claim(
            name, idx, plan.step_path(node, child), workflow.decode(), int(token), attempt,
            self.task_timeout if timeout is None else timeout, msgspec.Raw(work), inputs, plan.graph.directory,
        )  # fmt: skip

    # --- put back ----------------------------------------------------------------------------------------------------

    def give_back(self, owner: Owner, claims: Sequence[tuple[str, int, int]]) -> int:
        only = {f"{run}.{idx}": token for run, idx, token in claims}
        return int(self._take_back(slot_name(owner), mode="give", only=only))

    def lose(self, owner: Owner, blame: Blame | None) -> list[tuple[str, int]]:
        self._lives.pop(owner, None)
        told = None
        if blame is not None:
            told = self._told_blame(blame)
        back = self._take_back(slot_name(owner), mode="lose", cause="worker-lost", blame=told)
        return [split_task(task.decode()) for task in back]

    def _told_blame(self, blame: Blame) -> list[Any]:
        state = blame.state
        if state is not None and state not in _ENDS:
            state = TaskState.FAILED
        number = -1 if state is None else NUMBERS[state.value]
        detail = encode({"message": blame.message, "exit_code": blame.exit_code, "signal": blame.signal}).decode()
        return [f"{blame.run}.{blame.idx}", blame.token, number, blame.cause.value, blame.message, detail]

    def _take_back(self, slot: str, **request: Any) -> Any:
        return self.s.engine("lose", (keys.slot(slot),), slot=slot, keep=RETIRED_FOR, **request)

    def recover(self, live: Sequence[Owner], started: dict[tuple[str, int], int]) -> int:
        """Of this instance; `adopt` does the same for a dead one."""
        keep = {slot_name(owner) for owner in live}
        return self.take_all(self.s.instance, keep, started)

    def take_all(self, instance: str, keep: set[str], started: dict[tuple[str, int], int]) -> int:
        charged = {f"{run}.{idx}": token for (run, idx), token in started.items()}
        count = 0
        for slot in self.slots(instance):
            if slot not in keep:
                cause = Cause.NODE_LOST.value
                count += len(self._take_back(slot, mode="lose", cause=cause, started=charged))
        return count

    # --- what is held ------------------------------------------------------------------------------------------------

    def slots(self, instance: str | None = None) -> list[str]:
        names = [name.decode() for name in self.s.client.execute("SMEMBERS", keys.SLOTS)]
        return sorted(name for name in names if instance is None or name.startswith(f"{instance}:"))

    def records(self, slots: Sequence[str]) -> list[tuple[str, SlotRecord]]:
        raws = self.s.client.execute("MGET", *map(keys.slot, slots)) if slots else []
        return [
            (slot, unpack_slot(raw)) for slot, raw in zip(slots, raws, strict=True) if raw and raw != b"retired"
        ]

    def running(self) -> list[tuple[Owner, str, int, int]]:
        found = []
        for slot, record in self.records(self.slots(self.s.instance)):
            found += [(owner_of(slot), claim[0], claim[1], claim[2]) for claim in record.claims]
        return found


def slot_name(owner: Owner) -> str:
    return f"{owner.instance}:{owner.slot}:{owner.incarnation}"


def owner_of(slot: str) -> Owner:
    instance, number, incarnation = slot.rsplit(":", 2)
    return Owner(instance, int(number), int(incarnation))


def lock_value(owner: Owner, node: str) -> str:
    """What a task's lock says, the token to be added."""
    return f"node={node} instance={owner.instance} worker={owner.slot} slot={slot_name(owner)} token="


def _told(outcome: Outcome) -> tuple[Any, ...]:
    state = outcome.state
    if state is not None and state not in _ENDS:
        state = TaskState.FAILED
    output = outcome.output
    return (
        outcome.run, outcome.idx, outcome.token, -1 if state is None else NUMBERS[state.value],
        outcome.cause.value if outcome.cause is not None else "", outcome.message, detail_of(outcome),
        False if output is None else str(output, "utf-8"), outcome.stdout, outcome.stderr, outcome.started,
    )  # fmt: skip

