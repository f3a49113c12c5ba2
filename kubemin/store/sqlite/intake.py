"""Accepting runs: one by one or as batches that come in parts, each once, whatever is repeated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kubemin.errors import KubeminError, NotFound
from kubemin.model.graph import Concurrency
from kubemin.model.records import Accepted, Submission
from kubemin.model.states import Cause
from kubemin.store import admission
from kubemin.store.admission import Answer
from kubemin.store.codec import QUEUED, WAITING, Extra, decode, decode_extra, encode
from kubemin.store.parcel import unpack_parcel
from kubemin.store.plans import Plan
from kubemin.store.sqlite.quarantine import CorruptRun
from kubemin.store.sqlite.ripples import BUILD, BUILDING
from kubemin.store.sqlite.rows import RunRow
from kubemin.store.sqlite.session import Session
from kubemin.store.sqlite.settle import Settler

INLINE_BYTES = 4096  # of a work kept in the task's row, which each transition writes again

SoloRow = tuple[Any, ...]


class Intake:
    def __init__(self, session: Session, settler: Settler) -> None:
        self.s = session
        self.settler = settler

    def submit(self, submissions: Sequence[Submission], *, patient: bool = False) -> list[Answer]:
        """`patient`: a run that its concurrency policy would reject waits instead."""
        answers: list[Answer] = []
        solos: list[SoloRow] = []
        for submission in submissions:
            try:
                if submission.work is not None:
                    answers.append(self._solo(submission, solos))
                else:
                    answers.append(self._graph(submission, patient=patient))
            except KubeminError as error:
                answers.append(admission.rejection(error))
        if solos:
            self._insert_solos(solos, answers)
        self.settler.settle()
        return answers

    # --- single tasks ------------------------------------------------------------------------------------------------

    def _solo(self, submission: Submission, solos: list[SoloRow]) -> Answer:
        admission.check_single(submission)
        if self.s.moves and self.s.one("move", (submission.id,)):
            return Accepted(submission.id, False)
        spec = encode(submission.work)
        if submission.key is not None or len(spec) > INLINE_BYTES:
            return self._solo_at_once(submission, spec)
        solos.append(self._solo_row(submission, spec))
        return Accepted(submission.id, True)

    def _solo_row(self, submission: Submission, spec: bytes) -> SoloRow:
        now, due = self.s.now, submission.start_at
        extra = self._extra(submission)
        if due is not None and due > now:
            return (submission.id, WAITING, submission.queue, None, due, None, now, submission.key, extra, spec)
        seq = self.s.numbers(1)
        return (submission.id, QUEUED, submission.queue, seq, None, now, now, submission.key, extra, spec)

    def _solo_at_once(self, submission: Submission, spec: bytes) -> Answer:
        """One with a key, which the next of the same batch has to find, or with a large work."""
        known = self._known_key(submission, spec)
        if known is not None:
            return known
        if self.s.one("known_id", (submission.id,)):
            return Accepted(submission.id, False)
        large = len(spec) > INLINE_BYTES
        row = self._solo_row(submission, b"" if large else spec)
        self._take_key(submission)
        if large:
            self.s.write("insert_payload", (submission.id, spec))
        self.s.write("insert_solo", row)
        return Accepted(submission.id, True)

    def _extra(self, submission: Submission) -> bytes | None:
        if (
            submission.timeout is None
            and submission.retry is None
            and submission.start_at is None
            and not submission.workflow
        ):
            return None
        return encode(Extra(submission.workflow, submission.timeout, submission.retry, submission.start_at))

    def _insert_solos(self, solos: list[SoloRow], answers: list[Answer]) -> None:
        self.s.flush()
        plain = [solo for solo in solos if solo[1] == QUEUED and solo[8] is None]
        others = [solo for solo in solos if solo[1] != QUEUED or solo[8] is not None] if len(plain) < len(solos) else []
        written = self.s.write_many("insert_plain_solo", map(_plain, plain)) if plain else 0
        if written + (self.s.write_many("insert_solo", others) if others else 0) == len(solos):
            return
        # Some were there already, or twice in this batch: new are those whose place in the queue is the one just given.
        new = {solo[0] for solo in solos if self._is_new(solo)}
        ours = {solo[0] for solo in solos}
        for number, answer in enumerate(answers):
            if isinstance(answer, Accepted) and answer.id in ours and answer.id not in new:
                answers[number] = Accepted(answer.id, False)
            elif isinstance(answer, Accepted):
                new.discard(answer.id)

    def _is_new(self, solo: SoloRow) -> bool:
        found = self.s.one("solo_place", (solo[0],))
        return found is not None and found == (solo[3], solo[6])

    # --- runs of a workflow ------------------------------------------------------------------------------------------

    def _graph(self, submission: Submission, *, patient: bool) -> Answer:
        run = submission.id
        admission.check_id(run)
        plan = self._plan(submission)
        params = admission.bind(plan, submission.params)
        body = encode(params) if params else b""
        known = self._known_key(submission, body)
        if known is not None:
            return known
        if self.s.find_run(run) is not None or self.s.one("known_id", (run,)):
            return Accepted(run, False)
        rule = plan.graph.concurrency
        ckey = admission.concurrency_key(plan, params)
        if rule is not None and rule.policy == "reject" and not patient:
            self.refuse_held(ckey)
        self._take_key(submission)
        if body:
            self.s.write("insert_payload", (run, body))
        row = self._new_run(submission, plan, ckey)
        if row.due is None or (rule is not None and rule.policy == "reject"):
            self.acquire(row, rule)
        self._begin_build(row, plan)
        return Accepted(run, True)

    def _plan(self, submission: Submission) -> Plan:
        return admission.plan_of(self.s.plans, submission, self._published)

    def _published(self, workflow: str) -> str | None:
        row = self.s.one("published_hash", (workflow,))
        return None if row is None else row[0]

    def _new_run(self, submission: Submission, plan: Plan, ckey: str | None) -> RunRow:
        start_at = submission.start_at
        due = start_at if start_at is not None and start_at > self.s.now else None
        row = RunRow(
            submission.id, plan.hash, submission.workflow or plan.graph.workflow, WAITING, None, None, 1, self.s.now,
            start_at, submission.scheduled_at, None, None, due, None, ckey, 0, 1, {}, 0, len(plan.nodes), BUILDING,
            None, submission.key, self.s.numbers(1),
        )  # fmt: skip
        self.s.add_run(row)
        return row

    def _begin_build(self, row: RunRow, plan: Plan) -> None:
        """A graph of at most a slice of nodes is unpacked now; of a larger one the first row, which keeps the id."""
        self.settler.push(BUILD, row.id)
        most = self.settler.slice
        self.settler.settle(2 * most if len(plan.nodes) <= most else 1)  # its rows, and the start of its roots

    # --- concurrency -------------------------------------------------------------------------------------------------

    def acquire(self, run: RunRow, rule: Concurrency | None) -> None:
        """A run that is due takes its concurrency key, or waits for it, or replaces those that have it."""
        if run.ckey is None or run.holds:
            return
        self.s.flush()
        if self.s.one("key_holder", (run.ckey,)) is None:
            run.holds = 1
            self.s.touch_run(run)
        elif rule is not None and rule.policy == "replace":
            for (other,) in self.s.all("key_others", (run.ckey, run.id)):  # those that only wait first
                row = self.s.run(other)
                if row.stop is None and not row.ended:
                    self._replace(row)

    def _replace(self, run: RunRow) -> None:
        try:
            self.settler.building.stop_run(run, Cause.REPLACED)
        except CorruptRun as corrupt:
            self.settler.put_aside(corrupt)

    def refuse_held(self, ckey: str | None) -> None:
        self.s.flush()
        holder = self.s.one("key_holder", (ckey,))
        if holder is not None:
            raise admission.concurrency_held(holder[0], ckey)

    # --- keys --------------------------------------------------------------------------------------------------------

    def _known_key(self, submission: Submission, body: bytes) -> Answer | None:
        """The answer when the key was used before. Raises when it was for something else."""
        row = None if submission.key is None else self.s.one("key", (submission.key,))
        if row is None:
            return None
        if not self._same(row[0], submission, body):
            raise admission.key_taken(submission.key, row[0])
        return Accepted(row[0], False)

    def _take_key(self, submission: Submission) -> None:
        if submission.key is not None:
            self.s.write("insert_key", (submission.key, submission.id))

    def _same(self, run: str, submission: Submission, body: bytes) -> bool:
        if self.s.moves and (left := self.s.one("move", (run,))) and left[0]:
            parcel = unpack_parcel(left[0])
            name, wanted = parcel.workflow, parcel.work or parcel.params
            return name == submission.workflow and decode(body or b"{}") == decode(wanted or b"{}")
        found = self.s.find_run(run)
        wanted = self._stored(run) if found else self._stored_spec(run)
        if (submission.work is None) != (found is not None):
            return False
        name = found.workflow if found else self._solo_label(run)
        return name == submission.workflow and decode(body or b"{}") == decode(wanted or b"{}")

    def _stored(self, run: str) -> bytes:
        row = self.s.one("payload", (run,))
        return row[0] if row else b""

    def _stored_spec(self, run: str) -> bytes:
        row = self.s.one("solo_spec", (run,))
        return (row[0] if row else b"") or self._stored(run)

    def _solo_label(self, run: str) -> str:
        row = self.s.one("solo_spec", (run,))
        return decode_extra(row[1]).label if row and row[1] else ""

    # --- batches in parts --------------------------------------------------------------------------------------------

    def stage(self, batch: str, body: bytes) -> None:
        count = len(admission.read_part(batch, body, self._plan))
        self.s.write("stage", (batch, self.s.now, count, body))

    def seal(self, batch: str) -> int:
        known = self.s.one("sealed", (batch,))
        if known is not None:
            return int(known[0])
        count = int(self.s.one("staged_count", (batch,))[0])
        if not count:
            raise NotFound(f"there is no batch {batch}; send its parts again")
        self.s.write("seal", (self.s.now, batch))
        self.s.write("insert_sealed", (batch, count, self.s.now))
        self.s.sealed = True
        return count

    def unpack(self, limit: int) -> int:
        """Submit sealed parts, whole ones, of about `limit` runs; returns how many runs it was."""
        done = 0
        while done < limit and self.s.sealed:
            part = self.s.one("next_part")
            if part is None:
                self.s.sealed = False
                break
            done += self._unpack_part(*part)
        return done

    def unpack_run(self, run: str) -> bool:
        """Unpack the part that holds this run, if one does."""
        if not self.s.sealed:
            return False
        wanted = run.encode()
        parts = self.s.db.execute(self.s.sql["sealed_parts"])  # one at a time: together they may be large
        part = next((part for part in parts if wanted in part[3]), None)
        parts.close()
        if part is None:
            return False
        self._unpack_part(*part)
        return True

    def _unpack_part(self, batch: str, part: int, count: int, body: bytes) -> int:
        self.submit(admission.decode_submissions(body), patient=True)
        self.s.write("delete_part", (batch, part))
        return count


def _plain(solo: SoloRow) -> SoloRow:
    """Of one that is ready at once and has nothing but its work: half of its columns are not bound one by one."""
    return (solo[0], solo[2], solo[3], solo[6], solo[6], bytearray(solo[9]))
