"""Accepting runs: validation here, the decision in one script; many single tasks travel in a few calls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from kubemin.clock import Micros
from kubemin.errors import KubeminError, NotFound
from kubemin.model.records import Accepted, Submission
from kubemin.store import admission
from kubemin.store.admission import Answer
from kubemin.store.codec import Extra, encode
from kubemin.store.plans import Plan
from kubemin.store.redis import keys
from kubemin.store.redis.records import encode_sorted, pack, read_schedule
from kubemin.store.redis.session import Session
from kubemin.store.redis.signatures import Seal, Signatures

AT_ONCE = 250  # single tasks in one script: about 1.5 ms


class Intake:
    def __init__(self, session: Session) -> None:
        self.s = session

    def submit(self, submissions: Sequence[Submission], *, staged: bool = False) -> list[Answer]:
        """`staged`: unpacked from a batch, with the signature that its sender gave each. A run that its concurrency
        policy would reject waits instead."""
        if len(submissions) == 1 and not staged and self._is_plain(submissions[0]):
            return [self.submit_plain(submissions[0])]
        answers: list[Answer | None] = [None] * len(submissions)
        solos: dict[str, list[int]] = {}
        for number, submission in enumerate(submissions):
            try:
                if submission.work is not None:
                    admission.check_single(submission)
                    solos.setdefault(submission.queue, []).append(number)
                else:
                    self._flush(solos, submissions, answers, staged)  # in the order given: a key may be shared
                    answers[number] = self.submit_run(submission, staged=staged)
            except KubeminError as error:
                answers[number] = admission.rejection(error)
        self._flush(solos, submissions, answers, staged)
        return [answer for answer in answers if answer is not None]

    # --- single tasks ------------------------------------------------------------------------------------------------

    def _is_plain(self, one: Submission) -> bool:
        """A single task with nothing beside its work."""
        return one.work is not None and self.s.signatures is None and not one.signature and has_nothing_beside(one)

    def submit_plain(self, one: Submission) -> Answer:
        """The way of most tasks that are submitted alone."""
        try:
            admission.check_single(one)
        except KubeminError as error:
            return admission.rejection(error)
        run, queue, version = one.id, one.queue, self.s.version
        now = "" if self.s.clock is None else self.s.clock()
        touched = (*_places(queue, version), keys.run(run))
        fresh = self.s.client.run("submit_solo", touched, keys.PREFIX, run, encode(one.work), queue, version, now)
        return Accepted(run, bool(fresh))

    def _flush(
        self,
        solos: dict[str, list[int]],
        submissions: Sequence[Submission],
        answers: list[Answer | None],
        staged: bool,
    ) -> None:
        signatures = None if staged else self.s.signatures
        for queue, numbers in solos.items():
            calls = [numbers[at : at + AT_ONCE] for at in range(0, len(numbers), AT_ONCE)]
            self._send(queue, calls, submissions, answers, signatures)
        solos.clear()

    def _send(
        self,
        queue: str,
        calls: Sequence[list[int]],
        submissions: Sequence[Submission],
        answers: list[Answer | None],
        signatures: Signatures | None,
    ) -> None:
        version = self.s.version
        touched = (
            keys.queue(queue, version), keys.pending(queue, version), keys.SEQ, keys.RUNS, keys.QUEUES, keys.KEYS,
            keys.due(version), keys.PAUSED,
        )  # fmt: skip
        head = self.s.request(queue=queue, held=keys.held(queue, version), name=f"{queue}@{version}", version=version)
        batches = (_arguments((submissions[number] for number in numbers), signatures) for numbers in calls)
        replies = self.s.run_many("submit_solos", touched, ((head, *batch) for batch in batches))
        for numbers, reply in zip(calls, replies, strict=True):
            for number, told in zip(numbers, reply, strict=True):
                answers[number] = solo_answer(submissions[number], told)

    # --- runs of a workflow ------------------------------------------------------------------------------------------

    def submit_run(
        self, submission: Submission, *, staged: bool = False, mark: tuple[str, Micros] | None = None
    ) -> Answer:
        """Raises what is wrong with it. With `mark` it is a schedule's: raises `MarkThere` when the slot has fired."""
        run = submission.id
        admission.check_id(run)
        plan = self.plan_of(submission)
        params = admission.bind(plan, submission.params)
        body = _body(params)
        signatures = None if staged else self.s.signatures
        rule, ckey = plan.graph.concurrency, admission.concurrency_key(plan, params)
        reply = self.s.engine(
            "submit_run",
            (keys.run(run), keys.graph(plan.hash), keys.RUNS, keys.KEYS, keys.HOLDERS),
            follow=len(plan.nodes) <= self.s.whole,
            id=run,
            hash=plan.hash,
            workflow=_name(submission, plan),
            params=body,
            signature=submission.signature
            if signatures is None
            else signatures.sign_run(_seal(submission, plan, body)),
            key=submission.key,
            digest=digest(submission.workflow, params),
            start_at=submission.start_at,
            scheduled_at=submission.scheduled_at,
            ckey=ckey,
            policy=None if rule is None else rule.policy,
            patient=staged,
            mark=mark,
        )
        return run_answer(submission, ckey, reply)

    def plan_of(self, submission: Submission) -> Plan:
        return admission.plan_of(self.s.plans, submission, self._published)

    def _published(self, workflow: str) -> str | None:
        raw = self.s.client.execute("HGET", keys.WORKFLOWS, workflow)
        if raw is None:
            return None
        digest_ = read_schedule(raw, self.s.version, workflow).h
        if self.s.signatures is not None:
            self.s.definition(digest_, workflow)  # trusted, or refused
        return digest_

    # --- batches in parts --------------------------------------------------------------------------------------------

    def stage(self, batch: str, body: bytes) -> None:
        import hashlib  # brings OpenSSL, 2 MB; most processes of a fleet need none

        submissions = admission.read_part(batch, body, self.plan_of)
        request = pack({"batch": batch, "digest": hashlib.sha1(body).hexdigest(), "count": len(submissions)})
        touched = (keys.inbox(batch), keys.parts(batch), keys.BATCHES)
        if (signatures := self.s.signatures) is not None:
            body = encode([self._signed(each, signatures) for each in submissions])
        self.s.client.run("stage", touched, keys.PREFIX, request, body)

    def _signed(self, submission: Submission, signatures: Signatures) -> Submission:
        """As it travels in a batch: who unpacks it has nothing to add."""
        if submission.work is not None:
            signature = signatures.sign_task(submission.id, encode(submission.work), beside(submission))
            return msgspec.structs.replace(submission, signature=signature)
        plan = self.plan_of(submission)
        params = admission.bind(plan, submission.params)
        signature = signatures.sign_run(_seal(submission, plan, _body(params)))
        return msgspec.structs.replace(submission, definition=plan.hash, params=params, signature=signature)

    def seal(self, batch: str) -> int:
        touched = (keys.inbox(batch), keys.BATCHES, keys.SEALED, keys.sealing(self.s.version))
        count = int(self.s.client.run("seal", touched, keys.PREFIX, self.s.request(batch=batch)))
        if count < 0:
            raise NotFound(f"there is no batch {batch}; send its parts again")
        return count

    def unpack(self, limit: int) -> bool:
        """Submit parts of sealed batches, whole ones, of about `limit` runs. True: more is left."""
        for version in self.s.versions:
            while limit > 0 and (batch := self.s.client.execute("LINDEX", keys.sealing(version), 0)) is not None:
                limit -= self._unpack_part(batch.decode(), version)
        return bool(self.s.client.execute("EXISTS", *map(keys.sealing, self.s.versions)))

    def _unpack_part(self, batch: str, version: int) -> int:
        part = self.s.client.execute("LINDEX", keys.inbox(batch), 0) or b"|[]"
        number, _, body = part.partition(b"|")
        submissions = admission.decode_submissions(body)
        self.submit(submissions, staged=True)
        request = pack({"batch": batch, "part": number.decode() + "|"})
        self.s.client.run("unpacked", (keys.inbox(batch), keys.sealing(version)), keys.PREFIX, request)
        return max(len(submissions), 1)

    def sealed_parts(self) -> Iterable[bytes]:
        """Bodies of what is sealed and not unpacked."""
        for version in self.s.versions:
            for batch in self.s.client.execute("LRANGE", keys.sealing(version), 0, -1):
                for part in self.s.client.execute("LRANGE", keys.inbox(batch.decode()), 0, -1):
                    yield part.partition(b"|")[2]


@lru_cache(64)
def _places(queue: str, version: int) -> tuple[str, str]:
    """Where each task of this queue gets its place."""
    return keys.queue(queue, version), keys.pending(queue, version)


def has_nothing_beside(one: Submission) -> bool:
    plain = one.key is None and one.timeout is None and one.retry is None and one.start_at is None
    return plain and not one.workflow


def _arguments(submissions: Iterable[Submission], signatures: Signatures | None) -> list[Any]:
    arguments: list[Any] = []
    for each in submissions:
        if signatures is None and not each.signature and has_nothing_beside(each):
            arguments += (each.id, encode(each.work), b"", b"", b"", b"")
            continue
        extra, work = beside(each), encode(each.work)
        if signatures is not None:
            extra.sig = signatures.sign_task(each.id, work, extra)
        key = each.key or ""
        mark = digest(each.workflow, each.work) if key else ""
        arguments += (each.id, work, encode(extra), key, mark, each.start_at or "")
    return arguments


def beside(task: Submission) -> Extra:
    return Extra(task.workflow, task.timeout, task.retry, task.start_at, task.key, task.signature)


def _name(submission: Submission, plan: Plan) -> str:
    return submission.workflow or plan.graph.workflow


def _body(params: dict[str, Any]) -> str:
    return encode(params).decode() if params else ""


def _seal(one: Submission, plan: Plan, body: str) -> Seal:
    return Seal(one.id, _name(one, plan), plan.hash, body.encode(), one.key, one.start_at, one.scheduled_at, 1)


def digest(workflow: str, content: Any) -> str:
    """What a key stands for: the same key with another digest is refused."""
    import hashlib

    return hashlib.blake2b(encode_sorted([workflow, content or {}]), digest_size=10).hexdigest()


def solo_answer(submission: Submission, told: Any) -> Answer:
    if told == 1:
        return Accepted(submission.id, True)
    if told == 0:
        return Accepted(submission.id, False)
    return _known_key(submission, told.decode())


def run_answer(submission: Submission, ckey: str | None, told: Any) -> Answer:
    if isinstance(told, int):
        return Accepted(submission.id, bool(told))
    text = told.decode()
    if text == "?":
        raise NotFound(f"the definition of workflow {submission.workflow!r} was removed meanwhile; send it along")
    if text == "m":
        raise MarkThere("the slot has fired")
    if text.startswith("%"):
        raise admission.concurrency_held(text[1:], ckey)
    return _known_key(submission, text)


class MarkThere(KubeminError):
    """A schedule's slot has fired already."""


def _known_key(submission: Submission, text: str) -> Answer:
    if text.startswith("="):
        return Accepted(text[1:], False)
    return admission.rejection(admission.key_taken(submission.key, text[1:]))
