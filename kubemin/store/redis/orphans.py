"""Work that somebody deleted the only lead to, sought in its own records: the leader goes through all runs, a page a
second, and on as fast as it may where something tells that it has to.

Leads are the record of the slot that holds a claim, a place in `pending`, in `due`, in `deadlines`, or among those who
wait for a concurrency key. Whatever meets such a hole sets a mark: lapsed.lua and lose.lua, a slot without a record;
finish_and_claim.lua, results of a worker without one, and entries of queued tasks that have no place. What is read is
not one snapshot: the script that takes a task back holds it against everything again. The mark goes when the walk that
began with it has come to its end; a leader that dies on the way leaves it, and the next one begins anew.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from kubemin.errors import StoreUnavailable
from kubemin.store.codec import NUMBERS
from kubemin.store.redis import keys
from kubemin.store.redis.claims import Claims
from kubemin.store.redis.records import NewerRecord, Spoilt, read_run, read_state, unpack_task
from kubemin.store.redis.session import Session

RUNS_AT_ONCE = 200
TASKS_AT_ONCE = 200  # of one run: the walk goes on all the time, and its scripts are to take a millisecond

_WAITING, _QUEUED, _RUNNING = NUMBERS["waiting"], NUMBERS["queued"], NUMBERS["running"]

Page = tuple[list[str], list[tuple[str, int]]]  # runs, and tasks of them, that may have lost their lead


class Orphans:
    def __init__(self, session: Session, claims: Claims) -> None:
        self.s = session
        self._claims = claims
        self._mark = b""  # with which the walk began
        self._walk: Iterator[Page] | None = None

    def take_back(self) -> tuple[int, bool]:
        """A page: what was queued again, and whether there is reason to go on at once."""
        mark = self.s.client.execute("GET", keys.ORPHANS) or b""
        if self._walk is None or (mark and not self._mark):
            self._walk, self._mark = self._pages(), mark
        walk, self._walk = self._walk, None  # one that an error ended is not gone on with
        page = next(walk, None)
        if page is not None:
            self._walk = walk
            return (self._take(*page) if page[0] or page[1] else 0), bool(self._mark)
        if self._mark:
            self._take([], [], done=self._mark.decode())
        return 0, False

    def _take(self, runs: list[str], tasks: list[tuple[str, int]], done: str | None = None) -> int:
        request = self.s.duty(runs=runs, tasks=tasks, done=done)
        return len(self.s.engine("orphans", (keys.SLOTS, keys.ORPHANS), **request))

    def _pages(self) -> Iterator[Page]:
        start = "-"
        while page := self.s.client.execute("ZRANGEBYLEX", keys.RUNS, start, "+", "LIMIT", 0, RUNS_AT_ONCE):
            start = "(" + page[-1].decode()
            held = self._held()
            live, singles = self._look([run.decode() for run in page])
            yield live, [(run, 0) for run in singles if (run, 0) not in held]
            for run in live:
                for idxs in self._tasks(run):
                    yield [], [(run, idx) for idx in idxs if (run, idx) not in held]

    def _held(self) -> set[tuple[str, int]]:
        return {(claim.run, claim.idx) for _, claims in self._claims.records(self._claims.slots()) for claim in claims}

    def _look(self, runs: list[str]) -> tuple[list[str], list[str]]:
        """Runs of workflows, and single tasks, that have not ended. What cannot be read is not for us."""
        live: list[str] = []
        singles: list[str] = []
        try:
            records = self.s.client.pipeline([("HMGET", keys.run(run), "r", "s") for run in runs])
        except StoreUnavailable as error:
            if not _is_strange(error):
                raise
            if len(runs) == 1:
                return [], []
            found = [self._look([run]) for run in runs]
            return [run for some, _ in found for run in some], [run for _, some in found for run in some]
        for run, (record, state) in zip(runs, records, strict=True):
            try:
                if state is not None and read_state(state, self.s.version, run).s <= _QUEUED:
                    singles.append(run)
                elif record is not None and read_run(record, self.s.version, run).s <= _RUNNING:
                    live.append(run)
            except (NewerRecord, Spoilt):
                continue
        return live, singles

    def _tasks(self, run: str) -> Iterator[list[int]]:
        """Those that wait for their time, are queued or run; a page of a large run each."""
        cursor = b"0"
        while True:
            try:
                cursor, found = self.s.client.execute("HSCAN", keys.tasks(run), cursor, "COUNT", TASKS_AT_ONCE)
            except StoreUnavailable as error:
                if _is_strange(error):
                    return
                raise
            some = [int(name) for name, raw in zip(found[::2], found[1::2], strict=True) if _has_lead(name, raw)]
            if some:
                yield some
            if cursor == b"0":
                return


def _is_strange(error: StoreUnavailable) -> bool:
    """Of one key alone: it is of another type than ours."""
    return error.code == "redis_error"


def _has_lead(name: bytes, raw: bytes) -> bool:
    try:
        task = unpack_task(raw) if name.isdigit() else None
    except msgspec.DecodeError:
        return False
    return task is not None and (task.s in (_QUEUED, _RUNNING) or (task.s == _WAITING and task.d is not None))
