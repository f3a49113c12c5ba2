"""Workers' side: claim and finish in one round trip; what becomes of a claim whose worker is dead.

Running a task twice is better than losing it: whatever is not settled by its owner is queued again. The fencing token
makes one result the only one accepted. A request carries a number that rises; repeated, it gets the stored reply.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from kubemin.clock import Micros
from kubemin.errors import StoreUnavailable
from kubemin.model.ids import split_task
from kubemin.model.records import PAYLOAD_BYTES, Claim, Outcome, Owner
from kubemin.model.references import ReferenceMissing
from kubemin.model.states import TASK_TERMINAL, Cause, TaskState
from kubemin.signing import Unsigned
from kubemin.store.base import Blame, Change, Verdict
from kubemin.store.codec import NUMBERS, decode_extra, decode_label, encode, label_of
from kubemin.store.fleet import Entry as Entry
from kubemin.store.inputs import Round
from kubemin.store.plans import CorruptDefinition, Plan
from kubemin.store.redis import keys
from kubemin.store.redis.connection import Command
from kubemin.store.redis.fresh import Fresh, started
from kubemin.store.redis.lives import ENTRY, NOW, Life, Request, owner_of, slot_name
from kubemin.store.redis.plain import needed_by
from kubemin.store.redis.records import SlotClaim, detail_of, pack, slot_claims
from kubemin.store.redis.replies import unpack_reply
from kubemin.store.redis.scripts import script
from kubemin.store.redis.session import Session
from kubemin.store.redis.signatures import cause_of
from kubemin.telemetry import log

LOCK_TTL = 15.0  # seconds; the setting `lock.ttl`
TAIL_BYTES = 4096  # of each stream of a task that completed; four times as much of one that failed
OUTPUT_BYTES = 256 << 20  # of all tails: `retention.outputBytes`
MOST_BYTES = 16 * PAYLOAD_BYTES  # of a single task's work: beyond what anybody could submit, with a call's input
RETIRED_FOR = 86_400  # seconds that a dead worker's late requests are still known

_ENDS = TASK_TERMINAL - {TaskState.SKIPPED}  # what a worker may report
_VERDICTS = {
    "A": Verdict.ACCEPTED,
    "C": Verdict.ACCEPTED,
    "D": Verdict.DUPLICATE,
    "F": Verdict.FENCED,
}


class Claims:
    def __init__(self, session: Session, task_timeout: float) -> None:
        self.s = session
        self.task_timeout = task_timeout
        self.ttl = LOCK_TTL
        self.output_bytes = OUTPUT_BYTES
        self._lives: dict[Owner, Life] = {}
        self._script = script("finish_and_claim")
        self._touched: dict[Sequence[str], tuple[str, ...]] = {}

    # --- one round trip ----------------------------------------------------------------------------------------------

    def finish_and_claim(
        self, owner: Owner, outcomes: Sequence[Outcome], queues: Sequence[str], limit: int
    ) -> tuple[list[Verdict], list[Claim]]:
        life = self._life(owner)
        verdicts = self._finish(life, tuple(outcomes), queues, limit)
        claims, life.taken = life.taken, []
        return verdicts, claims

    def finish(self, owner: Owner, outcomes: Sequence[Outcome]) -> list[Verdict]:
        return self._finish(self._life(owner), tuple(outcomes), (), 0)

    def owes(self, owner: Owner) -> bool:
        """Whether this life may hold claims that the caller was not told: the next call tells them."""
        life = self._lives.get(owner)
        return life is not None and (life.unanswered is not None or bool(life.taken))

    def _life(self, owner: Owner) -> Life:
        life = self._lives.get(owner)
        if life is None:
            life = self._lives[owner] = Life(owner, self.s.node)
        return life

    def _finish(self, life: Life, told: tuple[Outcome, ...], queues: Sequence[str], limit: int) -> list[Verdict]:
        if (pending := life.unanswered) is not None:
            verdicts = self._send(life, pending)
            if pending.outcomes == told:
                if limit > pending.limit and not life.taken:
                    self._send(life, self._request(life, (), queues, limit))
                return verdicts
        return self._send(life, self._request(life, told, queues, limit))

    # --- a claim behind a wait ---------------------------------------------------------------------------------------

    def wait(self, owner: Owner, block: Command, queues: Sequence[str], limit: int) -> int:
        """Send `block`, which ends when it has popped an entry, and the claim of that entry behind it: the server runs
        both in one turn, so that nobody waits for a second round trip. The script finds what was popped.

        One that claims nothing is not written into the slot's record, which would be a write every two seconds of every
        idle worker. So its number is used up only with its reply: without that the request is sent again, as an
        ordinary one, which is written, and stands before any that has a higher number."""
        life = self._life(owner)
        self.s.client.connect()  # what was not sent is not owed
        request = self._request(life, (), queues, limit)
        sent = list(request.arguments)
        sent[NOW] = "" if self.s.clock is None else self.s.clock()  # it is run later
        sent[ENTRY] = "?", " ".join(keys.held(name, v) for name in queues for v in self.s.versions)
        return self.s.client.begin(block, self._script, request.touched, sent)

    def claim_popped(self, owner: Owner, queues: Sequence[str], entry: Entry | None) -> list[Claim]:
        """`entry` is asked for by name where the script found nothing: what it looked at first may be no task, or was
        another's, whose node is of a version that claims in a call of its own."""
        life = self._life(owner)
        request = life.unanswered
        if request is None:
            raise ValueError("nothing is waited for")
        try:
            raw = self.s.client.end_script()
        except BaseException:
            if entry is not None:
                request.name(entry)  # for when it is sent again
            raise
        if raw is None and entry is not None:
            request.name(entry)
        self._send(life, request, None if raw is None else unpack_reply(raw))
        if entry is not None and not life.taken:
            named = self._request(life, (), queues, request.limit)
            named.name(entry)
            self._send(life, named)
        claims, life.taken = life.taken, []
        return claims

    def deliver(self, owner: Owner, outcomes: Sequence[Outcome]) -> list[Verdict]:
        """What a living worker has not told yet, told for it: the numbers of its own requests stay as they are."""
        life = Life(owner, self.s.node)
        request = Request(tuple(outcomes), (life.key,), 0)
        request.order = list(range(len(outcomes)))
        now, shift = self.s.now(), self.s.shift()
        full = self._for_engine(life, [_told(each, shift) for each in outcomes])
        ttl = round(self.ttl * 1000)
        request.arguments = [keys.PREFIX, full, "", now, life.name, life.lock, ttl, 0, "", 0, 1, life.place]
        return self._send(life, request)

    def _queue_keys(self, queues: Sequence[str]) -> tuple[str, ...]:
        queues = tuple(queues)
        known = self._touched.get(queues)
        if known is None:
            versions = self.s.versions
            pairs = [(keys.queue(name, v), keys.pending(name, v)) for name in queues for v in versions]
            known = self._touched[queues] = tuple(key for pair in pairs for key in pair)
        return known

    def _request(self, life: Life, outcomes: tuple[Outcome, ...], queues: Sequence[str], limit: int) -> Request:
        life.number += 1
        now, shift = self.s.now(), self.s.shift()
        request = Request(outcomes, (life.key, *self._queue_keys(queues)), limit)
        plain: list[Any] = []
        full, later = [], []
        for number, each in enumerate(outcomes):
            name = f"{each.run}.{each.idx}@{each.token}"
            fresh = life.fresh.plain(name, each)
            if fresh is None:
                full.append(_told(each, shift))
                later.append(number)
                continue
            output = b"" if each.output is None else bytes(each.output)
            plain += (name, fresh.record(each, life.place, now, shift), output, fresh.after)
            request.order.append(number)
        request.order += later
        request.arguments = [
            keys.PREFIX, self._for_engine(life, full), life.number, now, life.name, life.lock, round(self.ttl * 1000),
            limit, "", 0, 1 if full else 0, life.place, *plain,
        ]  # fmt: skip
        life.unanswered = request
        return request

    def _for_engine(self, life: Life, full: list[Any]) -> bytes:
        if full or self.s.clock is not None:
            return self._packed(life, full)
        if life.bare is None or life.bare[0] != self.s.on_failure:
            life.bare = self.s.on_failure, self._packed(life, [])
        return life.bare[1]

    def _packed(self, life: Life, full: list[Any]) -> bytes:
        return pack(
            self.s.engine_request(
                instance=life.owner.instance, place=life.place, out=full, tail=TAIL_BYTES, tails=self.output_bytes
            )
        )

    def _send(self, life: Life, request: Request, reply: list[Any] | None = None) -> list[Verdict]:
        """The claims are in `life.taken` before anything else can fail: what is held has to be run, or given back. With
        `reply` it was sent before."""
        reply = reply or self._call(request)
        if reply[0] == "STALE" and not life.sure:
            life.number = request.arguments[2] = int(reply[1]) + 1
            reply = self._call(request)
        life.sure = True
        if reply[0] == "STALE":
            life.unanswered = None
            raise StoreUnavailable("a later request of this worker was answered before", code="stale")
        claims, spoilt, begun = self._claims(life, reply[3:])  # may ask for inputs: until then it is unanswered
        life.taken += claims
        life.unanswered = None
        verdicts = self._verdicts(life, request, reply[1]) if request.outcomes else []
        if len(reply) > 2 and reply[2]:
            left, fans, events = reply[2]
            self.s.take(left, [(run.encode(), idx, turn) for run, idx, turn in fans], events)
            if left:
                self.s.follow_up()
        self.s.changes += begun
        if spoilt:
            self._finish(life, spoilt, (), 0)
        return verdicts

    def _call(self, request: Request) -> list[Any]:
        return unpack_reply(self.s.client.run(self._script, request.touched, *request.arguments))

    def _verdicts(self, life: Life, request: Request, letters: str) -> list[Verdict]:
        verdicts = [Verdict.FENCED] * len(request.outcomes)
        for number, letter in zip(request.order, letters, strict=True):
            verdicts[number] = _VERDICTS[letter]
            self._tell(life, request.outcomes[number], letter)
        return verdicts

    def _tell(self, life: Life, outcome: Outcome, letter: str) -> None:
        """A plain end, which the script does not spend time on telling, or that it was refused."""
        fresh = life.fresh.pop(outcome)
        if letter == "F":
            task = f"{outcome.run}.{outcome.idx}"
            self.s.changes.append(Change("fenced", outcome.run, "", task=task, message=f"token {outcome.token}"))
        elif letter == "C" and fresh is not None:
            self.s.changes.append(fresh.finished(outcome))

    # --- claims ------------------------------------------------------------------------------------------------------

    def _claims(self, life: Life, told: Sequence[Any]) -> tuple[list[Claim], tuple[Outcome, ...], list[Change]]:
        """What was claimed, the ends of what cannot be read, and what is to be told of plain steps."""
        claims: list[Claim] = []
        spoilt: list[Outcome] = []
        begun: list[Change] = []
        for each in told:
            task, _, token = each[0].partition("@")
            run, idx = split_task(task)
            try:
                if len(each) == 4:
                    claims.append(self._solo(life, run, int(token), *each))
                elif len(each) == 3:
                    claims.append(self._plain_step(life, run, idx, int(token), *each))
                    begun.append(started(claims[-1], self.s.now() - int(each[2])))
                elif len(each) > 1:
                    claims.append(self._step(run, idx, int(token), *each[1:]))
                else:
                    raise ValueError("it is no text")
            except Unsigned as error:
                log.warning("a task was refused", task=task, cause=cause_of(error), reason=str(error))
                spoilt.append(Outcome(run, idx, int(token), TaskState.FAILED, cause_of(error), str(error)))
            except ReferenceMissing as error:
                spoilt.append(Outcome(run, idx, int(token), TaskState.FAILED, Cause.REFERENCE, str(error)))
            except (msgspec.DecodeError, CorruptDefinition, LookupError, TypeError, ValueError) as error:
                message = f"its record cannot be read: {error}"
                spoilt.append(Outcome(run, idx, int(token), TaskState.FAILED, Cause.CORRUPT, message))
        return claims, tuple(spoilt), begun

    def _solo(
        self, life: Life, run: str, token: int, name: str, work: str | None, state: str, extra: str | None
    ) -> Claim:
        timeout = self.task_timeout
        work = work or ""
        if len(work) > MOST_BYTES:
            raise ValueError(f"it has {len(work)} characters")
        if self.s.signatures is not None:
            self.s.signatures.check_task(run, work.encode(), extra.encode() if extra else None)
        label = decode_label(work).python or label_of(work)
        if extra:
            more = decode_extra(extra)
            label, timeout = more.label or label, timeout if more.timeout is None else more.timeout
        self.s.keep_label(run, label)
        fresh = state[:1] == "q"
        attempt = 1 if fresh else int(state)
        claim = Claim(run, 0, label, label, token, attempt, timeout, msgspec.Raw(work), None, "", True)
        if fresh:
            life.fresh.keep(name, Fresh.single(claim, self.s.now(), state))
        return claim

    def _plain_step(self, life: Life, run: str, idx: int, token: int, name: str, seen: str, queued: str) -> Claim:
        _, digest, number, scheduled_at, workflow = seen.split(" ", 4)
        scheduled = None if scheduled_at == "-" else scheduled_at
        claim = self._step(run, idx, token, 1, digest, idx, -1, workflow, int(number), scheduled)
        after = needed_by(self.s.plans.get(digest), idx)
        if after is not None:
            life.fresh.keep(name, Fresh(claim, self.s.now(), queued, after))
        return claim

    def _step(
        self, run: str, idx: int, token: int, attempt: int, digest: str, node: int, item: int, workflow: str,
        number: int, scheduled_at: str | None,
    ) -> Claim:  # fmt: skip
        child = None if item < 0 else item
        turn = Round(run, workflow, number, int(scheduled_at) if scheduled_at else None)
        plan = self._plan(turn, idx, digest, node, child)
        work, refers = plan.work(node)
        inputs = None
        if refers:
            found = self.s.inputs.of(plan, node, child, turn)
            inputs = msgspec.Raw(encode(found))
        timeout = plan.nodes[node].timeout
        return Claim(
            run, idx, plan.step_path(node, child), workflow, token, attempt,
            self.task_timeout if timeout is None else timeout, msgspec.Raw(work), inputs, plan.graph.directory,
        )  # fmt: skip

    def _plan(self, turn: Round, idx: int, digest: str, node: int, item: int | None) -> Plan:
        if self.s.signatures is None:
            return self.s.plans.get(digest)
        return self.s.signatures.plan_of_step(turn, idx, digest, node, item)

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

    def lapse(self, slot: str) -> list[bytes]:
        """A leader's duty: take back what a slot holds under locks that are gone; its worker may live on."""
        found: list[bytes] = self._take_back(slot, mode="lapse", cause=Cause.NODE_LOST.value, **self.s.duty())
        return found

    def recover(self, live: Sequence[Owner], started: dict[tuple[str, int], int]) -> int:
        """Of this instance; `adopt` does the same for a dead one."""
        keep = {slot_name(owner) for owner in live}
        return self.take_all(self.s.instance, keep, started)

    def take_all(self, instance: str, keep: set[str], started: dict[tuple[str, int], int] | None) -> int:
        """`started` None: it is not known what was running."""
        charged = {f"{run}.{idx}": token for (run, idx), token in (started or {}).items()}
        count = 0
        for slot in self.slots(instance):
            if slot not in keep:
                cause = Cause.NODE_LOST.value
                guess = started is None
                count += len(self._take_back(slot, mode="lose", cause=cause, started=charged, guess=guess))
        return count

    # --- what is held ------------------------------------------------------------------------------------------------

    def slots(self, instance: str | None = None) -> list[str]:
        names = [name.decode() for name in self.s.client.execute("SMEMBERS", keys.SLOTS)]
        return sorted(name for name in names if instance is None or name.startswith(f"{instance}:"))

    def records(self, slots: Sequence[str]) -> list[tuple[str, list[SlotClaim]]]:
        raws = self.s.client.execute("MGET", *map(keys.slot, slots)) if slots else []
        found = zip(slots, raws, strict=True)
        return [(slot, slot_claims(raw)) for slot, raw in found if raw and raw != b"retired"]

    def running(self) -> list[tuple[Owner, str, int, int]]:
        found = []
        for slot, claims in self.records(self.slots(self.s.instance)):
            found += [(owner_of(slot), claim.run, claim.idx, claim.token) for claim in claims]
        return found


def _told(outcome: Outcome, shift: Micros) -> tuple[Any, ...]:
    state = outcome.state
    if state is not None and state not in _ENDS:
        state = TaskState.FAILED
    output = outcome.output
    return (
        outcome.run, outcome.idx, outcome.token, -1 if state is None else NUMBERS[state.value],
        outcome.cause.value if outcome.cause is not None else "", outcome.message, detail_of(outcome),
        False if output is None else str(output, "utf-8"), outcome.stdout, outcome.stderr,
        outcome.started + shift if outcome.started else 0,
    )  # fmt: skip
