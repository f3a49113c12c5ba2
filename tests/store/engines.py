"""How the tests make a store of each engine, and how they crash it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kubemin.clock import SECOND, Micros
from kubemin.model.states import Cause, TaskState
from kubemin.store.base import Reader, Store
from kubemin.store.codec import STATES
from kubemin.store.sqlite.database import connect_reader
from kubemin.store.sqlite.reader import SqliteReader
from kubemin.store.sqlite.store import SqliteStore

START: Micros = 1_795_000_000 * SECOND


class Clock:
    """Wall time that the test moves."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> Micros:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += round(seconds * SECOND)


class Engine:
    """One store: `store` is the open one; `reopen` is a crash of its process and the start of the next."""

    store: Store
    clock: Clock
    transactional = True  # `group()` is one commit; else each call is
    drops_in_pieces = True  # what is pruned of a large run

    def reopen(self) -> Store:
        raise NotImplementedError

    def reader(self) -> Reader:
        raise NotImplementedError

    def check(self) -> None:
        """What must hold inside, between any two calls."""
        raise NotImplementedError

    def states(self, run: str) -> dict[str, tuple[TaskState, Cause | None]]:
        """Step -> state and cause, gates too."""
        raise NotImplementedError

    def spoil(self, run: str) -> None:
        """Break the record of a single task."""
        raise NotImplementedError

    def leftovers(self, runs: Sequence[str]) -> int:
        """Records that are kept of runs, of any kind."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class Sqlite(Engine):
    def __init__(self, folder: Path, **limits: Any) -> None:
        self.path = str(folder / "kubemin.db")
        self.clock = Clock()
        self._limits = limits
        self.store: SqliteStore = self._open()

    def _open(self) -> SqliteStore:
        return SqliteStore(self.path, instance="test", clock=self.clock, node="node-a", **self._limits)

    def reopen(self) -> SqliteStore:
        crashed = self.store
        crashed._session.db.close()  # nothing is written back: what was not committed is gone
        self.store = self._open()
        return self.store

    def reader(self) -> SqliteReader:
        return SqliteReader(self.path)

    def check(self) -> None:
        db = connect_reader(self.path)
        try:
            for what, sql in CHECKS.items():
                assert db.execute(sql).fetchall() == [], what
        finally:
            db.close()

    def states(self, run: str) -> dict[str, tuple[TaskState, Cause | None]]:
        db = connect_reader(self.path)
        digest = db.execute("SELECT definition FROM runs WHERE id = ?", (run,)).fetchone()[0]
        visible = """SELECT t.node, t.item, t.state, t.cause FROM tasks AS t
            LEFT JOIN tasks AS f ON f.run = t.run AND f.idx = t.node
            WHERE t.run = ? AND (t.item IS NULL OR t.idx BETWEEN f.base AND f.base + f.made - 1)"""
        rows = db.execute(visible, (run,)).fetchall()
        db.close()
        definition = self.store.definition(digest)
        assert definition is not None
        names = [node.step for node in definition.graph.nodes]
        return {
            names[node] + (f"[{item}]" if item is not None else ""): (STATES[state], Cause(cause) if cause else None)
            for node, item, state, cause in rows
        }

    def spoil(self, run: str) -> None:
        self.store._session.db.execute("UPDATE tasks SET spec = x'7b22ff' WHERE run = ?", (run,))

    def leftovers(self, runs: Sequence[str]) -> int:
        db = connect_reader(self.path)
        columns = {"runs": "id", "tasks": "run", "tails": "run", "payloads": "run", "keys": "run", "ripples": "run"}
        count = sum(
            db.execute(f"SELECT count(*) FROM {table} WHERE {column} = ?", (run,)).fetchone()[0]
            for table, column in columns.items()
            for run in runs
        )
        db.close()
        return int(count)

    def close(self) -> None:
        self.store.close()


# Each finds what must not be.
CHECKS = {
    "live counts what has not ended, and one more until the run is released": """
        SELECT r.id, r.live, r.stage, count(t.idx) FROM runs AS r LEFT JOIN tasks AS t ON t.run = r.id AND t.state < 3
        WHERE r.state < 3 AND r.stage = 2
            AND NOT EXISTS (SELECT 1 FROM ripples WHERE run = r.id AND kind IN (2, 3, 4, 5))
        GROUP BY r.id HAVING r.live <> count(t.idx)""",
    "a run that has ended has nothing alive": """
        SELECT r.id, t.idx FROM runs AS r JOIN tasks AS t ON t.run = r.id WHERE r.state >= 3 AND t.state < 3""",
    "a run that is released and has nothing alive has ended": """
        SELECT id FROM runs WHERE state < 3 AND live <= 0""",
    "listed counts the places in queues": """
        SELECT r.id, r.listed, count(t.idx) FROM runs AS r
        LEFT JOIN tasks AS t ON t.run = r.id AND t.state = 1 AND t.seq IS NOT NULL
        WHERE r.state < 3 AND r.stage = 2
        GROUP BY r.id HAVING (SELECT coalesce(sum(value), 0) FROM json_each(r.listed)) <> count(t.idx)""",
    "parked counts those that wait for one": """
        SELECT r.id, r.parked, count(t.idx) FROM runs AS r
        LEFT JOIN tasks AS t ON t.run = r.id AND t.state = 1 AND t.seq IS NULL
        WHERE r.state < 3 AND r.stage = 2 GROUP BY r.id HAVING r.parked <> count(t.idx)""",
    "only one holds a concurrency key": """
        SELECT ckey FROM runs WHERE ckey IS NOT NULL AND holds = 1 GROUP BY ckey HAVING count(*) > 1""",
    "a task that has ended is not due": "SELECT run, idx FROM tasks WHERE state >= 3 AND due IS NOT NULL",
    "who runs has an owner and a token": """
        SELECT run, idx FROM tasks WHERE state = 2 AND made IS NULL AND (owner IS NULL OR token = 0)""",
    "no two queued tasks share a place": """
        SELECT seq FROM tasks WHERE state = 1 AND seq IS NOT NULL GROUP BY seq HAVING count(*) > 1""",
}

ENGINES: dict[str, Callable[[Path], Engine]] = {"sqlite": Sqlite}
SMALL_ENGINES: dict[str, Callable[[Path], Engine]] = {"sqlite": lambda folder: Sqlite(folder, slice_size=3, window=2)}

from redis_engine import Redis, Valkey, engine_at  # noqa: E402  (it needs what is above)
from support.places import PLACES  # noqa: E402

ENGINES |= {"redis": Redis, "valkey": Valkey}
SMALL_ENGINES |= {
    "redis": lambda folder: Redis(folder, slice_size=3, window=2),
    "valkey": lambda folder: Valkey(folder, slice_size=3, window=2),
    "redis-plain": Redis,  # as large as they are, so that runs have plain steps
}

# Other ways to the same engine: the suite runs on them with `--topologies`.
ELSEWHERE: dict[str, Callable[[Path], Engine]] = {
    name: engine_at(name) for name in PLACES if not name.startswith("single-")
}
