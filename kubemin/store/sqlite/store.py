"""`SqliteStore`: the store interface of `store/base.py` over one SQLite file. Its reads are those of `reader.py`.

Each method of the store is one transaction, or part of the one that `group()` holds open. The work is done by the
modules beside this one; here is only what joins them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from kubemin import clock as clocks
from kubemin.clock import Micros, WallClock
from kubemin.errors import Refused
from kubemin.model.records import Accepted, Claim, Definition, Outcome, Owner, Rejection, Submission
from kubemin.model.states import Cause
from kubemin.pulse import DISK, OPENING, WORK, Beat, unwatched
from kubemin.store.base import (
    SLICE,
    TASK_TIMEOUT,
    WINDOW,
    Blame,
    Change,
    Retention,
    Stop,
    Verdict,
)
from kubemin.store.sqlite.claims import Claims
from kubemin.store.sqlite.control import Control
from kubemin.store.sqlite.database import copy, reserve_log
from kubemin.store.sqlite.duties import Duties
from kubemin.store.sqlite.inputs import Inputs
from kubemin.store.sqlite.intake import Intake
from kubemin.store.sqlite.losses import Losses
from kubemin.store.sqlite.outcomes import Outcomes
from kubemin.store.sqlite.reader import Snapshots
from kubemin.store.sqlite.reading import Reads
from kubemin.store.sqlite.session import LOCAL, Session
from kubemin.store.sqlite.settle import Settler

T = TypeVar("T")


class SqliteStore(Snapshots):
    """The one writer of the file; the caller holds the state-directory lock.

    `instance` and `node` name this daemon and its machine; `task_timeout` (seconds) may be changed at any time.
    `slice_size` and `window` are `SLICE` and `WINDOW` of `store/base.py`. `beat` is the pulse of the loop that uses it.
    """

    def __init__(
        self,
        path: str,
        *,
        instance: str,
        clock: WallClock = clocks.wall,
        node: str = "",
        task_timeout: float = TASK_TIMEOUT,
        slice_size: int = SLICE,
        window: int = WINDOW,
        beat: Beat = unwatched,
    ) -> None:
        self._session = Session(str(path), instance=instance, clock=clock, node=node, beat=beat)
        self._inputs = Inputs(self._session)
        self._settler = Settler(self._session, self._inputs, slice_size=slice_size, window=window)
        self._intake = Intake(self._session, self._settler)
        self._claims = Claims(self._session, self._settler, self._inputs, task_timeout)
        self._outcomes = Outcomes(self._session, self._settler, self._inputs)
        self._losses = Losses(self._session, self._settler, self._outcomes)
        self._control = Control(self._session, self._settler, self._inputs, self._intake)
        self._duties = Duties(self._session, self._settler, self._intake)
        self._session.on_rollback = self._forget
        self._reads: Reads | None = None

    def _forget(self) -> None:
        self._settler.forget()
        self._inputs.forget()
        self._reads = None

    def close(self) -> None:
        self._session.close()

    def reserve_log(self) -> None:
        """For a process that will write for long: commits take half the time."""
        self._session.beat(DISK)
        reserve_log(self._session.path)

    def release_memory(self) -> None:
        """Drop what is only cached; the next operations read it again."""
        self._session.release_memory()

    def group(self) -> AbstractContextManager[None]:
        return self._session.group

    def _call(self, operation: Callable[..., T], *arguments: Any) -> T:
        with self._session.group:
            return operation(*arguments)

    @contextmanager
    def _snapshot(self) -> Iterator[Reads]:
        with self._session.group:
            self._session.flush()
            if self._reads is None:
                self._reads = Reads(self._session.db, self._session.sql)
            yield self._reads

    def changes(self) -> list[Change]:
        return self._session.take_changes()

    @property
    def task_timeout(self) -> float:
        return self._claims.task_timeout

    @task_timeout.setter
    def task_timeout(self, seconds: float) -> None:
        self._claims.task_timeout = seconds

    def backup(self, path: str) -> None:
        """A consistent copy of everything committed, complete or not there at all. Not inside `group()`."""
        if self._session.group.active:
            raise Refused("a backup cannot be made inside a transaction")
        self._session.beat(OPENING)
        copy(self._session.db, str(path), self._session.path)
        self._session.beat(WORK)

    # --- definitions and accepting -----------------------------------------------------------------------------------

    def define(self, definitions: Sequence[Definition]) -> None:
        self._call(self._duties.define, definitions)

    def publish(self, definitions: Sequence[Definition]) -> dict[str, list[str]]:
        return self._call(self._duties.publish, definitions)

    def enter(self, mode: str) -> None:
        """Whose ledger this is from now on: this file's alone (`local`), or a fleet's (`carrying`, `distributed`)."""
        self._call(self._session.enter, mode)

    def submit(self, submissions: Sequence[Submission]) -> list[Accepted | Rejection]:
        return self._call(self._accept, submissions)

    def _accept(self, submissions: Sequence[Submission]) -> list[Accepted | Rejection]:
        """Nothing new in a file whose runs are a fleet's: it would be seen by nobody until the next move."""
        if self._session.mode != LOCAL:
            raise Refused("this machine is in a fleet: runs are accepted in its Redis", code="in_fleet")
        return self._intake.submit(submissions)

    def stage(self, batch: str, submissions: bytes) -> None:
        self._call(self._intake.stage, batch, submissions)

    def seal(self, batch: str) -> int:
        return self._call(self._intake.seal, batch)

    # --- workers -----------------------------------------------------------------------------------------------------

    def claim(self, owner: Owner, queues: Sequence[str], limit: int) -> list[Claim]:
        return self._call(self._claims.claim, owner, queues, limit)

    def finish(self, owner: Owner, outcomes: Sequence[Outcome]) -> list[Verdict]:
        return self._call(self._outcomes.finish, owner, outcomes)

    def give_back(self, owner: Owner, claims: Sequence[tuple[str, int, int]]) -> int:
        return self._call(self._losses.give_back, owner, claims)

    def lose(self, owner: Owner, blame: Blame | None) -> list[tuple[str, int]]:
        return self._call(self._losses.lose, owner, blame)

    def recover(self, live: Sequence[Owner], started: dict[tuple[str, int], int]) -> int:
        return self._call(self._losses.recover, live, started)

    def running(self) -> list[tuple[Owner, str, int, int]]:
        return self._call(self._control.running)

    # --- control -----------------------------------------------------------------------------------------------------

    def cancel(self, run: str, cause: Cause = Cause.CANCELLED) -> bool:
        return self._call(self._control.cancel, run, cause)

    def retry(self, run: str, step: str | None = None) -> int:
        return self._call(self._control.retry, run, step)

    def pause(self, queue: str) -> None:
        self._call(self._control.pause, queue)

    def resume(self, queue: str) -> None:
        self._call(self._control.resume, queue)

    def stops(self) -> list[Stop]:
        return self._call(self._control.stops)

    # --- duties ------------------------------------------------------------------------------------------------------

    def promote(self, limit: int = SLICE) -> int:
        return self._call(self._duties.promote, limit)

    def expire(self, limit: int = SLICE) -> int:
        return self._call(self._duties.expire, limit)

    def advance(self, limit: int = SLICE) -> bool:
        return self._call(self._duties.advance, limit)

    def fire(self, workflow: str, slot: Micros, submission: Submission | None) -> bool:
        return self._call(self._duties.fire, workflow, slot, submission)

    def schedule_marks(self) -> dict[str, tuple[Definition, Micros]]:
        return self._call(self._duties.schedule_marks)

    def prune(self, retention: Retention, limit: int = SLICE) -> int:
        return self._call(self._duties.prune, retention, limit)

    def next_due(self) -> Micros | None:
        return self._call(self._duties.next_due)
