"""Runs that leave this file for a fleet's store, each once, with everything that is known of them.

```
here ──pack──▶ carrying ──carried──▶ carried ──confirmed──▶ (a mark, for whoever asks where the run is)
```

* `pack` turns runs of which no task is claimed, and no cursor is left, into parcels: in one transaction each is written
  down as it stands and taken out of the tables that the engine works on. Nothing can change, start, cancel or prune it
  from then on: what is sent twice is the same.
* `carried` forgets the parcels that the other store has. Whoever dies between the arrival there and this commit sends
  the parcel again, and is told that it is there.
* `confirmed` notes that the other store was told to forget where they came from; until then it remembers.

Only the process that holds the file writes here (the coordinator in a fleet). A node that leaves the fleet with parcels
on their way does not run them: whether they arrived, only the fleet's store knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from kubemin.clock import Micros
from kubemin.model import transitions as rules
from kubemin.model.records import Definition
from kubemin.model.states import Cause
from kubemin.store.base import SLICE
from kubemin.store.codec import COMPLETED, RUN_STATES, RUNNING, SETTLED, STATES, decode_extra, decode_graph
from kubemin.store.parcel import Parcel, ParcelTask, in_parts, pack_parcel, pack_part, unpack_parcel, unpack_part
from kubemin.store.plans import Plan
from kubemin.store.sqlite.quarantine import CorruptRun
from kubemin.store.sqlite.rows import CRASH, DRAIN, FRESH, KEPT, LOSS, MOST_STRIKES, ROUND, RunRow
from kubemin.store.sqlite.session import Session
from kubemin.store.sqlite.settle import Settler
from kubemin.store.sqlite.store import SqliteStore

PAGE = 200  # runs looked at in one query


class Moving:
    """Of a store that hands out nothing any more."""

    def __init__(self, store: SqliteStore) -> None:
        self.s: Session = store._session
        self._settler: Settler = store._settler
        self._after = ""  # runs up to this id were looked at in this circle

    def now(self) -> Micros:
        return self.s.clock()

    # --- packing -----------------------------------------------------------------------------------------------------

    def pack(self, limit: int) -> int:
        """Make parcels of at most `limit` runs and about SLICE tasks (a larger run alone); how many it made."""
        with self.s.group:
            self.s.flush()
            count = self._pack_singles(limit)
            return count or self._pack_runs(limit)

    def _pack_singles(self, limit: int) -> int:
        rows = self.s.all("movable_singles", (limit,))
        if len(rows) < limit:
            rows += self.s.all("delayed_singles", (limit - len(rows),))
        first = self.s.numbers(len(rows)) if rows else 0
        for number, row in enumerate(rows, first):
            parcel = self._single(row)
            self.s.write("insert_move", (parcel.id, number, self.s.now, pack_parcel(parcel)))
            self._let_go(parcel.id)
        return len(rows)

    def _single(self, row: Sequence[Any]) -> Parcel:
        run, queue, submitted, key, extra, spec = row[23:]
        task = _task(row[:23])
        more = decode_extra(extra) if extra else None
        return Parcel(
            id=run,
            workflow=more.label if more else "",
            key=key,
            state=rules.run_state(task.state, claimed=task.token > 0),
            round=row[4] // ROUND + 1,
            submitted=submitted,
            start_at=more.start_at if more else None,
            floor=task.token,
            work=spec or self._payload(run),
            queue=queue,
            timeout=more.timeout if more else None,
            retry=more.retry if more else None,
            task=task,
        )

    def _pack_runs(self, limit: int) -> int:
        count = tasks = 0
        claimed = {run for run, _ in self.s.claims}
        for run in self._next_runs():
            if run.id in claimed or not self._may_go(run):
                continue
            try:
                parcel = self._pack_run(run)
            except CorruptRun as corrupt:
                self._settler.put_aside(corrupt)
                continue
            count, tasks = count + 1, tasks + parcel.next
            if count >= limit or tasks >= SLICE:
                break
        return count

    def _next_runs(self) -> Iterator[RunRow]:
        """Those that have not ended, a page at most, in order from where the last call stopped; then from the start."""
        found = self.s.all("unfinished_runs", (self._after, PAGE))
        for (run,) in found:
            self._after = run
            yield self.s.run(run)
        if len(found) < PAGE:
            self._after = ""

    def _may_go(self, run: RunRow) -> bool:
        """Nothing of it is half done; and who waits for a concurrency key stays behind its holder."""
        if self.s.one("has_ripples", (run.id,)):
            return False
        return run.ckey is None or bool(run.holds) or run.due is not None or not self._held(run.ckey)

    def _held(self, ckey: str) -> bool:
        return self.s.one("key_holder", (ckey,)) is not None

    def _pack_run(self, run: RunRow) -> Parcel:
        plan = self.s.plan(run)
        rows = self.s.all("tasks_to_move", (run.id,))
        tasks = [_task(row) for row in rows]
        parts = in_parts(tasks)
        parcel = _parcel(run, plan, rows, self._payload(run.id))
        parcel.parts, parcel.tasks = len(parts), len(tasks)
        self.s.write("insert_move", (run.id, self.s.numbers(1), self.s.now, pack_parcel(parcel)))
        self.s.write_many("insert_part", ((run.id, n, pack_part(part)) for n, part in enumerate(parts)))
        self.s.forget_run(run.id)
        self.s.write("delete_run", (run.id,))
        self._let_go(run.id)
        return parcel

    def _let_go(self, run: str) -> None:
        """Its key stays, so that nobody uses it for something else meanwhile."""
        for query in ("delete_tasks_of", "delete_tails_of", "delete_payload"):
            self.s.write(query, (run,))
        self.s.moves = True

    def _payload(self, run: str) -> bytes:
        row = self.s.one("payload", (run,))
        return b"" if row is None else bytes(row[0])

    # --- on their way ------------------------------------------------------------------------------------------------

    def parcels(self, limit: int) -> list[Parcel]:
        """Those that are carried and not known to have arrived, in the order in which they were packed."""
        with self.s.group:
            return [unpack_parcel(head) for (head,) in self.s.all("carrying", (limit,))]

    def part(self, parcel: Parcel, number: int) -> list[ParcelTask]:
        with self.s.group:
            return unpack_part(self.s.one("part", (parcel.id, number))[0])

    def definition(self, digest: str) -> Definition | None:
        with self.s.group:
            row = self.s.one("definition", (digest,))
        return None if row is None else Definition(row[0], decode_graph(row[1]), row[2])

    def carried(self, parcels: Iterable[Parcel]) -> None:
        """The other store has them: forget them here, in one commit."""
        with self.s.group:
            for each in parcels:
                self.s.write("carried", (each.id,))
                self.s.write("delete_parts", (each.id,))
                if each.key is not None:
                    self.s.write("delete_key", (each.key, each.id))

    def unconfirmed(self, limit: int) -> list[str]:
        with self.s.group:
            return [run for (run,) in self.s.all("unconfirmed", (limit,))]

    def confirmed(self, runs: Iterable[str], forget_before: Micros) -> None:
        """The other store has forgotten where they came from. Marks from before `forget_before` go."""
        with self.s.group:
            self.s.write_many("confirm", ((run,) for run in runs))
            self.s.write("prune_moves", (forget_before,))

    def carrying(self) -> int:
        """Parcels that are not known to have arrived."""
        with self.s.group:
            return int(self.s.one("count_carrying")[0])

    def left(self) -> int:
        """Runs, and parcels, that are still here and have not ended."""
        with self.s.group:
            self.s.flush()
            return int(self.s.one("unfinished")[0])


def _task(row: Sequence[Any]) -> ParcelTask:
    """From the columns of the query `tasks_to_move`."""
    (
        idx, node, item, state, flags, opened, due, attempt, token, strikes, cause, queued, started, finished, base,
        made, total, detail, output, machine, slot, stdout, stderr,
    ) = row  # fmt: skip
    return ParcelTask(
        idx, node, STATES[state], item, flags & rules.PASSED, bool(flags & SETTLED), bool(flags & KEPT),
        bool(flags & FRESH), opened, due, attempt, token, strikes // CRASH & MOST_STRIKES,
        strikes // LOSS & MOST_STRIKES, strikes // DRAIN & MOST_STRIKES, cause, queued, started, finished, base, made,
        total, detail.decode() if detail else "", output, stdout or "", stderr or "",
        "" if machine is None else f"{machine}|{slot}",
    )  # fmt: skip


def _parcel(run: RunRow, plan: Plan, rows: Sequence[Sequence[Any]], params: bytes) -> Parcel:
    rule = plan.graph.concurrency
    unmade: dict[str, int] = {}
    for row in rows:
        node, state, made, total = row[1], row[3], row[15], row[16]
        if state == RUNNING and total is not None and made < total:
            queue = plan.nodes[node].queue
            unmade[queue] = unmade.get(queue, 0) + total - made
    return Parcel(
        id=run.id,
        workflow=run.workflow,
        definition=run.definition,
        params=params,
        key=run.key,
        state=RUN_STATES[run.state],
        round=run.round,
        submitted=run.submitted,
        start_at=run.start_at,
        scheduled_at=run.scheduled_at,
        started=run.started,
        due=run.due,
        deadline=run.deadline,
        stop=None if run.stop is None else Cause(run.stop),
        cause=run.cause,
        ckey=run.ckey,
        policy=None if rule is None else rule.policy,
        live=sum(row[3] < COMPLETED for row in rows),
        next=run.next,
        unmade=unmade,
        floor=max((row[8] for row in rows), default=0),
    )
