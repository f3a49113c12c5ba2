"""One transaction at a time over the writer's connection, with the rows it touches kept as objects.

Rows are read once, changed in memory and written together at the end (or before a query that has to see them). What
was committed stays in memory, since this process is the only writer; a transaction that fails drops all of it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from kubemin.clock import WallClock
from kubemin.errors import StoreUnavailable
from kubemin.model.states import STARTS_IN_STOPPED_RUN, Cause
from kubemin.pulse import DISK, WORK, Beat, unwatched
from kubemin.store.base import Change
from kubemin.store.codec import STOPPING, label_of
from kubemin.store.plans import CorruptDefinition, Plan, Plans
from kubemin.store.sqlite import rows
from kubemin.store.sqlite.database import connect, identity, queries
from kubemin.store.sqlite.group import Group
from kubemin.store.sqlite.owners import Owners
from kubemin.store.sqlite.quarantine import CorruptRun
from kubemin.store.sqlite.rows import Held, RunRow, TaskRow

CACHED_ROWS = 20_000  # task rows in memory between transactions
NUMBERS_RESERVED = 100_000  # tokens and queue places reserved by one write
BEAT_INSTRUCTIONS = 100_000  # of SQLite's machine between two signs of life: some milliseconds

LOCAL = "local"  # mode of a file that accepts runs; in a fleet it is `carrying` or `distributed`

TaskKey = tuple[str, int]


class Session:
    def __init__(self, path: str, *, instance: str, clock: WallClock, node: str, beat: Beat = unwatched) -> None:
        self.path = path
        self.beat = beat
        self.instance = instance
        self.node = node
        self.clock = clock
        self.sql = queries()
        self.db = self._connect()
        self._identity = identity(path)
        self.plans = Plans(self._definition)
        self.group = Group(self)
        self.now = clock()
        self.changes: list[Change] = []
        self.on_rollback: Callable[[], None] = lambda: None
        self._broken = False
        self._next = 0
        self._changes_before = 0
        self._forget()
        try:
            with self.group:
                pass
        except BaseException:
            self.db.close()
            raise

    def _connect(self) -> sqlite3.Connection:
        db = connect(self.path)
        db.set_progress_handler(lambda: self.beat(WORK), BEAT_INSTRUCTIONS)
        return db

    # --- transactions ----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        self._mark = len(self.changes)
        self.beat(DISK)
        if self._broken:
            self._check_place()  # not made anew where it has been moved away
            self.db = self._connect()
            self._broken = False
        self.db.execute("BEGIN IMMEDIATE")
        self._changes_before = self.db.total_changes
        self.beat(WORK)
        if not self.loaded:
            self._load()

    def commit(self) -> None:
        self.flush()
        self._check_place()
        self.beat(DISK)
        self.db.execute("COMMIT")
        self.beat(WORK)
        for run in self._ended_runs:
            self.forget_run(run)
        self._ended_runs.clear()
        if len(self.tasks) > CACHED_ROWS:
            self.tasks.clear()
            self.runs.clear()

    def _check_place(self) -> None:
        """What is committed to a file that was moved away would be gone at the next start. Raises StoreUnavailable."""
        if identity(self.path) != self._identity:
            raise StoreUnavailable(
                f"{self.path}: was moved away or replaced while kubemin works on it; put it back, or restart kubemin"
            )

    def untouched(self) -> bool:
        """Whether the open transaction has changed nothing."""
        pending = self._new_tasks or self._new_runs or self._changed_tasks or self._changed_runs
        return not pending and self.db.total_changes == self._changes_before

    def rollback(self) -> None:
        del self.changes[self._mark :]
        self._forget()
        self.on_rollback()
        try:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
        except sqlite3.Error:  # it is replaced at the next begin; the file's log undoes the rest
            self.db.close()
            self._broken = True

    def _forget(self) -> None:
        self.loaded = False
        self.plans.clear()
        self.tasks: dict[TaskKey, TaskRow] = {}
        self.runs: dict[str, RunRow] = {}
        self.claims: dict[TaskKey, Held] = {}
        self.stopping: dict[TaskKey, Cause] = {}
        self.paused: set[str] = set()
        self.owners = Owners(self)
        self.unfinished = False  # there are ripples
        self.sealed = False  # there are batches to unpack
        self.mode = LOCAL  # whether runs are accepted here
        self.moves = False  # runs have left for a fleet's store, or are on their way
        self._reserved = 0
        self._new_tasks: list[TaskRow] = []
        self._new_runs: list[RunRow] = []
        self._changed_tasks: list[TaskRow] = []
        self._changed_runs: list[RunRow] = []
        self._ended_runs: list[str] = []
        self._mark = 0

    def _load(self) -> None:
        row = self.one("counter")
        self._reserved = row[0] if row else 0
        self._next = max(self._next, self._reserved)
        self.unfinished = self.one("any_ripple") is not None
        self.sealed = self.one("any_sealed") is not None
        self.moves = self.one("any_move") is not None
        row = self.one("mode")
        self.mode = row[0] if row else LOCAL
        self.paused.update(name for (name,) in self.all("paused"))
        self.owners.load()
        for run, idx, token, owner, started, flags, cause, stop, spec, extra in self.all("held"):
            label = label_of(spec, extra) if flags & rows.SOLO else ""
            self.claims[run, idx] = Held(token, owner, False, label, started or 0)
            if flags & STOPPING:
                self.stopping[run, idx] = Cause(cause)
            elif stop is not None and not self.always(run, idx):
                self.stopping[run, idx] = Cause(stop)
        self.loaded = True

    def enter(self, mode: str) -> None:
        if mode != self.mode:
            self.write("put_mode", (mode,))
            self.mode = mode

    def take_changes(self) -> list[Change]:
        changes, self.changes = self.changes, []
        self._mark = 0
        return changes

    def close(self) -> None:
        self.db.close()

    def release_memory(self) -> None:
        self.tasks.clear()
        self.runs.clear()
        self.db.execute("PRAGMA shrink_memory")

    # --- SQL ---------------------------------------------------------------------------------------------------------

    def all(self, name: str, arguments: Sequence[Any] = ()) -> list[Any]:
        return self.db.execute(self.sql[name], arguments).fetchall()

    def one(self, name: str, arguments: Sequence[Any] = ()) -> Any:
        return self.db.execute(self.sql[name], arguments).fetchone()

    def write(self, name: str, arguments: Sequence[Any] = ()) -> int:
        return self.db.execute(self.sql[name], arguments).rowcount

    def write_many(self, name: str, many: Iterable[Sequence[Any]]) -> int:
        return self.db.executemany(self.sql[name], many).rowcount

    # --- rows --------------------------------------------------------------------------------------------------------

    def find_task(self, run: str, idx: int) -> TaskRow | None:
        task = self.tasks.get((run, idx))
        if task is None:
            found = self.one("task", (run, idx))
            if found is not None:
                task = TaskRow(*found)
                if not task.flags & rows.SOLO:  # those are also written past these objects
                    self.tasks[run, idx] = task
        return task

    def task(self, run: str, idx: int) -> TaskRow:
        task = self.find_task(run, idx)
        if task is None:
            raise StoreUnavailable(f"{self.path}: task {run}.{idx} is missing; the database is damaged", fatal=True)
        return task

    def find_run(self, run: str) -> RunRow | None:
        found = self.runs.get(run)
        if found is None:
            row = self.one("run", (run,))
            if row is not None:
                found = self.runs[run] = rows.run_row(row)
        return found

    def run(self, run: str) -> RunRow:
        found = self.find_run(run)
        if found is None:
            raise StoreUnavailable(f"{self.path}: run {run} is missing; the database is damaged", fatal=True)
        return found

    def touch(self, task: TaskRow, parts: int = rows.ALL) -> None:
        """It was changed, in these parts of its row."""
        if not task.dirty:
            self.tasks[task.run, task.idx] = task
            self._changed_tasks.append(task)
        task.dirty |= parts

    def touch_run(self, run: RunRow) -> None:
        if not run.dirty:
            self._changed_runs.append(run)
        run.dirty = 2

    def count(self, run: RunRow) -> None:
        """Only its counters changed: no index has to be looked at when it is written."""
        if not run.dirty:
            run.dirty = 1
            self._changed_runs.append(run)

    def add_task(self, task: TaskRow) -> None:
        task.dirty = rows.ALL
        self.tasks[task.run, task.idx] = task
        self._new_tasks.append(task)

    def add_run(self, run: RunRow) -> None:
        run.dirty = 2
        self.runs[run.id] = run
        self._new_runs.append(run)

    def flush(self) -> None:
        """Write what was changed in memory."""
        if self._new_runs or self._changed_runs:
            self._flush_runs()
        self.flush_tasks()

    def flush_tasks(self) -> None:
        """For a query that looks at tasks only: runs change often, and are written once."""
        if self._new_tasks:
            begun = [task for task in self._new_tasks if task.finished is not None or task.started is not None]
            if begun:
                self.write_many("insert_task", map(rows.task_insert, begun))
            fresh = (task for task in self._new_tasks if task.finished is None and task.started is None)
            self.write_many("insert_fresh_task", map(rows.fresh_task_insert, fresh))
            self._written(self._new_tasks)
        if self._changed_tasks:
            self._flush_tasks()

    def _flush_tasks(self) -> None:
        by_parts: dict[int, list[TaskRow]] = {}
        for task in self._changed_tasks:
            by_parts.setdefault(task.dirty, []).append(task)
        for parts, tasks in by_parts.items():
            name, arguments = rows.TASK_WRITES[parts]
            self.write_many(name, map(arguments, tasks))
        self._written(self._changed_tasks)

    def _flush_runs(self) -> None:
        if self._new_runs:
            self.write_many("insert_run", map(rows.run_insert, self._new_runs))
        if self._changed_runs:
            changed = self._changed_runs
            self.write_many("update_run", [rows.run_update(run) for run in changed if run.dirty == 2])
            self.write_many("count_run", [rows.run_counters(run) for run in changed if run.dirty == 1])
        for run in self._new_runs + self._changed_runs:
            run.dirty = 0
        self._new_runs.clear()
        self._changed_runs.clear()

    def _written(self, tasks: list[TaskRow]) -> None:
        for task in tasks:
            task.dirty = 0
            task.output = None
            if task.flags & rows.SOLO:
                self.tasks.pop((task.run, task.idx), None)
        tasks.clear()

    def run_ended(self, run: RunRow) -> None:
        """Nobody will look at it soon."""
        self._ended_runs.append(run.id)

    def forget_run(self, run: str) -> None:
        """Drop a run's rows, all of them written, from memory."""
        known = self.runs.pop(run, None)
        if known is not None:
            for idx in range(known.next):
                self.tasks.pop((run, idx), None)

    # --- graphs ------------------------------------------------------------------------------------------------------

    def _definition(self, digest: str) -> bytes | None:
        row = self.one("graph", (digest,))
        return None if row is None else row[0]

    def plan(self, run: RunRow) -> Plan:
        plan: Plan | None = run.plan
        if plan is None:
            try:
                plan = run.plan = self.plans.get(run.definition)
            except CorruptDefinition as error:
                raise CorruptRun(run.id, str(error)) from error
        return plan

    def always(self, run: str, idx: int) -> bool:
        """Whether a task goes on in a stopped run: of a `when: always` step, or a plain member of such a group."""
        node = self.task(run, idx).node
        try:
            return self.plan(self.run(run)).nodes[node].when in STARTS_IN_STOPPED_RUN
        except CorruptRun:
            return False

    # --- numbers -----------------------------------------------------------------------------------------------------

    def numbers(self, count: int) -> int:
        """The first of `count` numbers never given out before, durably: tokens and places in queues."""
        first = self._next + 1
        self._next += count
        if self._next > self._reserved:
            self._reserved = self._next + NUMBERS_RESERVED
            self.write("reserve", (self._reserved,))
        return first
