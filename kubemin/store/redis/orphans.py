"""Tasks whose claim is lost: somebody deleted the record of the slot that held it, the only place where it stands.

Whatever meets such a hole sets a mark: lapsed.lua and lose.lua, a slot without a record; finish_and_claim.lua, results
of a worker without one. Then the leader goes through all runs once, a page a turn. What is read here is not one
snapshot: the script that takes a task back holds it against all slots again. A leader that dies on the way leaves the
mark, and the next one begins anew.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from kubemin.store.codec import NUMBERS
from kubemin.store.redis import keys
from kubemin.store.redis.claims import Claims
from kubemin.store.redis.records import NewerRecord, Spoilt, read_run, read_state, unpack_task
from kubemin.store.redis.session import Session

RUNS_AT_ONCE = 200
TASKS_AT_ONCE = 500

_QUEUED, _RUNNING = NUMBERS["queued"], NUMBERS["running"]


class Orphans:
    def __init__(self, session: Session, claims: Claims) -> None:
        self.s = session
        self._claims = claims
        self._mark = b""
        self._after = b""  # the last run that was looked at

    def take_back(self) -> tuple[int, bool]:
        """A page, where such a search is due: tasks queued again, and whether there is more to look at."""
        mark = self.s.client.execute("GET", keys.ORPHANS)
        if mark is None:
            return 0, False
        if mark != self._mark:
            self._mark, self._after = mark, b""
        start = b"(" + self._after if self._after else b"-"
        page = self.s.client.execute("ZRANGEBYLEX", keys.RUNS, start, "+", "LIMIT", 0, RUNS_AT_ONCE)
        more = len(page) == RUNS_AT_ONCE
        tasks = list(self._suspects([run.decode() for run in page]))
        count = 0
        for at in range(0, len(tasks), TASKS_AT_ONCE):
            count += self._take(tasks[at : at + TASKS_AT_ONCE])
        if more:
            self._after = page[-1]
        else:
            self._take([], done=mark.decode())
            self._mark = b""
        return count, more

    def _take(self, tasks: list[tuple[str, int]], done: str | None = None) -> int:
        request = self.s.duty(tasks=tasks, done=done)
        return len(self.s.engine("orphans", (keys.SLOTS, keys.ORPHANS), **request))

    def _suspects(self, runs: list[str]) -> Iterator[tuple[str, int]]:
        held = {(claim.run, claim.idx) for _, claims in self._claims.records(self._claims.slots()) for claim in claims}
        records = self.s.client.pipeline([("HMGET", keys.run(run), "r", "s") for run in runs]) if runs else []
        for run, (record, state) in zip(runs, records, strict=True):
            for idx in self._claimed(run, record, state):
                if (run, idx) not in held:
                    yield run, idx

    def _claimed(self, run: str, record: bytes | None, state: bytes | None) -> Iterator[int]:
        """Tasks that a worker may have. What cannot be read is not for us."""
        try:
            if state is not None and read_state(state, self.s.version, run).s == _QUEUED:
                yield 0
            elif record is not None and read_run(record, self.s.version, run).s == _RUNNING:
                yield from self._running(run)
        except (NewerRecord, Spoilt, msgspec.DecodeError):
            return

    def _running(self, run: str) -> Iterator[int]:
        cursor = b"0"
        while True:
            cursor, found = self.s.client.execute("HSCAN", keys.tasks(run), cursor, "COUNT", TASKS_AT_ONCE)
            for name, raw in zip(found[::2], found[1::2], strict=True):
                if name.isdigit() and unpack_task(raw).s == _RUNNING:
                    yield int(name)
            if cursor == b"0":
                return
