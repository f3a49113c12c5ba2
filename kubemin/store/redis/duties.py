"""The leader's duties: what is due, what is late, what was left unfinished, schedules, definitions, what may go."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kubemin.clock import SECOND, Micros
from kubemin.errors import KubeminError
from kubemin.model.records import Definition, Submission
from kubemin.signing import Unsigned
from kubemin.store.base import Change, Retention
from kubemin.store.codec import encode
from kubemin.store.plans import CorruptDefinition
from kubemin.store.redis import keys
from kubemin.store.redis.definitions import fields
from kubemin.store.redis.intake import Intake, MarkThere
from kubemin.store.redis.records import NewerRecord, Spoilt, pack, read_schedule
from kubemin.store.redis.session import Session

DAY = 86_400.0
FIELDS_AT_ONCE = 200
BATCHES_AT_ONCE = 200  # looked at in one turn
SEALED_LIFE = DAY  # that a sealed batch is known to be one, so that a late repeat is told so


class Duties:
    def __init__(self, session: Session, intake: Intake) -> None:
        self.s = session
        self.intake = intake
        self._fired: dict[str, Micros] = {}  # of each workflow the last slot that was fired over this connection
        self._cursors: dict[str, bytes] = {}  # where the next look into a large hash goes on

    # --- time --------------------------------------------------------------------------------------------------------

    def promote(self, limit: int) -> int:
        return self._of_each_version("promote", keys.due, limit)

    def expire(self, limit: int) -> int:
        return self._of_each_version("expire", keys.deadlines, limit)

    def _of_each_version(self, duty: str, key: Callable[[int], str], limit: int) -> int:
        request = self.s.duty(limit=min(limit, self.s.slice))
        return sum(int(self.s.engine(duty, (key(version),), **request)) for version in self.s.versions)

    def next_due(self) -> Micros | None:
        firsts = self.s.client.pipeline(
            [
                ("ZRANGE", key(version), 0, 0, "WITHSCORES")
                for key in (keys.due, keys.deadlines)
                for version in self.s.versions
            ]
        )
        return min((int(float(first[1])) for first in firsts if first), default=None)

    # --- what was left -----------------------------------------------------------------------------------------------

    def advance(self, limit: int) -> bool:
        left, more = limit, False
        for version in self.s.versions:
            left = self._go_on(version, left)
            more = more or self.s.left
        self.s.left = False
        if self.intake.unpack(max(left, 1)):
            more = True
        return more or self.s.left

    def _go_on(self, version: int, left: int) -> int:
        """What is left of the limit; `Session.left` says whether there is more to do."""
        self.s.left = False
        while left > 0:
            step = min(left, self.s.slice)
            self.s.left = False
            rest = int(self.s.engine("advance", self.s.cursors(version), follow=False, limit=step))
            left -= max(step - rest, 1)
            if not self.s.left:
                break
        return left

    # --- definitions and schedules -----------------------------------------------------------------------------------

    def define(self, definitions: Sequence[Definition]) -> None:
        now = self.s.now()
        for each in definitions:
            self.s.client.execute("ZADD", keys.DEFINITIONS, now, each.hash)
            if not self.s.client.execute("HEXISTS", keys.graph(each.hash), "meta"):
                self._write(each)

    def _write(self, definition: Definition) -> None:
        packed: list[bytes | str] = []
        queues = {f"{node.queue}@{self.s.version}" for node in definition.graph.nodes}
        for name, value in fields(definition, self.s.version):
            packed += (name, value)
            if len(packed) >= 2 * FIELDS_AT_ONCE:
                self.s.client.execute("HSET", keys.graph(definition.hash), *packed)
                packed = []
        self.s.client.pipeline([("SADD", keys.QUEUES, *sorted(queues)), ("HSET", keys.graph(definition.hash), *packed)])

    def publish(self, definitions: Sequence[Definition]) -> dict[str, list[str]]:
        self.define(definitions)
        self._vouch(definitions)
        entries = [
            [
                each.graph.workflow,
                each.hash,
                encode(each.graph.schedule).decode() if each.graph.schedule else "",
                self.s.version,
            ]
            for each in definitions
        ]
        touched = (keys.WORKFLOWS, keys.PUBLISHERS, keys.files(self.s.node))
        request = self.s.request(node=self.s.node, entries=entries)
        told = self.s.client.run("publish", touched, keys.PREFIX, request)
        names = [sorted(name.decode() for name in each) for each in told]
        return dict(zip(("added", "changed", "removed"), names, strict=True))

    def _vouch(self, definitions: Sequence[Definition]) -> None:
        """So that whoever submits one of them by its name knows that a key holder published it."""
        if (signatures := self.s.signatures) is not None and definitions:
            self.s.client.pipeline(
                [("HSET", keys.graph(each.hash), "sig", signatures.vouch(each.hash)) for each in definitions]
            )

    def fire(self, workflow: str, slot: Micros, submission: Submission | None) -> bool:
        mark = (workflow, slot)
        if submission is None or self._was_fired(workflow, slot):
            return self._raise_mark(mark)
        try:
            self.intake.submit_run(submission, mark=mark)
        except MarkThere:
            return False
        except KubeminError as error:
            if error.exit_code not in (2, 4, 5) or error.code == "fenced":
                raise
            fired = self._raise_mark(mark)
            told = Change("skipped", submission.id, workflow, cause=error.code, message=str(error))
            self.s.changes.append(told)
            return fired or error.code == "concurrency"
        self._fired[workflow] = slot
        return True

    def _was_fired(self, workflow: str, slot: Micros) -> bool:
        """In a fleet that signs a mark which was put back makes nothing run that this leader fired, nor what is long
        past: its runs are signed here."""
        signatures = self.s.signatures
        return signatures is not None and (slot <= self._fired.get(workflow, 0) or signatures.is_past(slot))

    def _raise_mark(self, mark: tuple[str, Micros]) -> bool:
        request = pack(self.s.engine_request(**self.s.duty(mark=mark)))
        return bool(self.s.client.run("pass_slot", (keys.WORKFLOWS,), keys.PREFIX, request))

    def schedule_marks(self) -> dict[str, tuple[Definition, Micros]]:
        raw = self.s.client.execute("HGETALL", keys.WORKFLOWS)
        marks = {}
        for name, packed in sorted(zip(raw[::2], raw[1::2], strict=True)):
            try:
                known = read_schedule(packed, self.s.version, name.decode())
                if known.s and (definition := self.s.definition(known.h, name.decode())) is not None:
                    marks[name.decode()] = (definition, known.m)
            except (NewerRecord, Spoilt, CorruptDefinition, Unsigned) as error:
                self.s.leave_out(name.decode(), error)
        return marks

    # --- pruning -----------------------------------------------------------------------------------------------------

    def prune(self, retention: Retention, limit: int) -> int:
        request = self.s.request(
            **self.s.duty(
                runs=retention.runs,
                aged=round(retention.days * DAY * SECOND),
                young=round(retention.minimum * SECOND),
                limit=min(limit, self.s.slice),
                version=self.s.version,
            )
        )
        touched = (keys.SLOTS, keys.RUNS, keys.KEYS, keys.REFERENCES)
        gone = sum(
            int(self.s.client.run("prune", (keys.ended(version), *touched), keys.PREFIX, request))
            for version in self.s.versions
        )
        self._forget_batches()
        self._prune_definitions(retention)
        return gone

    def _forget_batches(self) -> None:
        """That a batch was sealed, after a day; and of one that never was, what its parts left when they expired: as
        long as it is there no definition is dropped. What a late part of it adds after this is refused at its seal."""
        old = self.s.now() / SECOND - SEALED_LIFE
        self._drop(keys.SEALED, [name for name, said in self._page(keys.SEALED) if int(said.split()[-1]) < old])
        batches = [name for name, _ in self._page(keys.BATCHES)]
        kept = self.s.client.pipeline([("EXISTS", keys.inbox(name.decode())) for name in batches]) if batches else []
        self._drop(keys.BATCHES, [name for name, there in zip(batches, kept, strict=True) if not there])

    def _page(self, key: str) -> list[tuple[bytes, bytes]]:
        """Some fields of a hash, others the next time."""
        cursor, found = self.s.client.execute("HSCAN", key, self._cursors.get(key, b"0"), "COUNT", BATCHES_AT_ONCE)
        self._cursors[key] = cursor
        return list(zip(found[::2], found[1::2], strict=True))

    def _drop(self, key: str, fields: Sequence[bytes]) -> None:
        if fields:
            self.s.client.execute("HDEL", key, *fields)

    def _prune_definitions(self, retention: Retention) -> None:
        """Those that no run, no published workflow and no waiting batch names, and nobody sent lately."""
        before = self.s.now() - round(max(retention.minimum, 0) * SECOND)
        old = self.s.client.execute("ZRANGEBYSCORE", keys.DEFINITIONS, "-inf", f"({before}", "LIMIT", 0, 20)
        if not old or self.s.client.execute("EXISTS", keys.BATCHES, *map(keys.sealing, self.s.versions)):
            return
        touched = (keys.DEFINITIONS, keys.REFERENCES, keys.WORKFLOWS)
        self.s.client.run(
            "prune_definitions",
            touched,
            keys.PREFIX,
            pack({"hashes": [each.decode() for each in old], "before": before}),
        )
