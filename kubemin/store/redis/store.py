"""`RedisStore`: the store interface of `store/base.py` over Redis. Each method is one script, or a few that may be
repeated.

Here is only what joins the modules beside this one; what a fleet needs beyond the interface is in `fleet.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kubemin.clock import Micros, WallClock
from kubemin.errors import Refused
from kubemin.model.obstacles import Obstacles
from kubemin.model.records import Accepted, Claim, Definition, Outcome, Owner, Rejection, RunView, Submission
from kubemin.model.states import Cause, RunState
from kubemin.store.base import (
    SLICE,
    TASK_TIMEOUT,
    WINDOW,
    Blame,
    Change,
    QueueView,
    Retention,
    RunFilter,
    Stop,
    Verdict,
    WorkflowView,
)
from kubemin.store.redis import address as addresses
from kubemin.store.redis.arrivals import Arrivals
from kubemin.store.redis.claims import Claims
from kubemin.store.redis.client import Client
from kubemin.store.redis.control import Control
from kubemin.store.redis.duties import Duties
from kubemin.store.redis.intake import Intake
from kubemin.store.redis.obstacles import obstacles
from kubemin.store.redis.reading import Reads
from kubemin.store.redis.records import VERSION
from kubemin.store.redis.session import Session


class RedisReader:
    """Reads alone. `address` is what `redisAddr` takes."""

    def __init__(
        self,
        address: str,
        *,
        password: str | None = None,
        instance: str = "",
        clock: WallClock | None = None,
        node: str = "",
        slice_size: int = SLICE,
        window: int = WINDOW,
        version: int = VERSION,
        client: Client | None = None,
    ) -> None:
        self.client = client or Client(addresses.parse(address, password=password))
        self._session = Session(
            self.client,
            instance=instance,
            node=node,
            clock=clock,
            slice_size=slice_size,
            window=window,
            version=version,
        )
        self._intake = Intake(self._session)
        self._reads = Reads(self._session, self._intake)

    def run(self, run: str) -> RunView:
        return self._reads.run(run)

    def runs(self, where: RunFilter) -> list[RunView]:
        return self._reads.runs(where)

    def states(self, ids: Sequence[str]) -> dict[str, RunState]:
        return self._reads.states(ids)

    def outputs(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        return self._reads.outputs(ids)

    def queues(self) -> list[QueueView]:
        return self._reads.queues()

    def workflows(self) -> list[WorkflowView]:
        return self._reads.workflows()

    def definition(self, name_or_hash: str) -> Definition | None:
        return self._reads.definition(name_or_hash)

    def obstacles(self, run: str, step: str | None = None) -> Obstacles:
        return obstacles(self._reads, run, step)

    def close(self) -> None:
        self.client.close()


class RedisStore(RedisReader):
    """`instance` and `node` name this daemon and its machine; `task_timeout` (seconds) may be changed at any time."""

    def __init__(self, address: str, *, task_timeout: float = TASK_TIMEOUT, **options: Any) -> None:
        super().__init__(address, **options)
        self._claims = Claims(self._session, task_timeout)
        self._control = Control(self._session, self._claims, self._intake)
        self._duties = Duties(self._session, self._intake)
        self.arrivals = Arrivals(self._session, self._claims)

    @contextmanager
    def group(self) -> Iterator[None]:
        """Nothing is held back: each script commits by itself, and its reply says what is done."""
        yield

    def changes(self) -> list[Change]:
        told = list(self._session.changes)
        self._session.changes.clear()
        return told

    @property
    def task_timeout(self) -> float:
        return self._claims.task_timeout

    @task_timeout.setter
    def task_timeout(self, seconds: float) -> None:
        self._claims.task_timeout = seconds

    def backup(self, path: str) -> None:
        raise Refused("a fleet's ledger is Redis: back it up there (BGSAVE, the AOF, or a replica)", code="fleet")

    # --- definitions and accepting -----------------------------------------------------------------------------------

    def define(self, definitions: Sequence[Definition]) -> None:
        self._duties.define(definitions)

    def publish(self, definitions: Sequence[Definition]) -> dict[str, list[str]]:
        return self._duties.publish(definitions)

    def submit(self, submissions: Sequence[Submission]) -> list[Accepted | Rejection]:
        return self._intake.submit(submissions)

    def stage(self, batch: str, submissions: bytes) -> None:
        self._intake.stage(batch, submissions)

    def seal(self, batch: str) -> int:
        return self._intake.seal(batch)

    # --- workers -----------------------------------------------------------------------------------------------------

    def claim(self, owner: Owner, queues: Sequence[str], limit: int) -> list[Claim]:
        return self._claims.finish_and_claim(owner, (), queues, limit)[1]

    def finish(self, owner: Owner, outcomes: Sequence[Outcome]) -> list[Verdict]:
        return self._claims.finish(owner, outcomes)

    def finish_and_claim(
        self, owner: Owner, outcomes: Sequence[Outcome], queues: Sequence[str], limit: int
    ) -> tuple[list[Verdict], list[Claim]]:
        return self._claims.finish_and_claim(owner, outcomes, queues, limit)

    def owes(self, owner: Owner) -> bool:
        return self._claims.owes(owner)

    def give_back(self, owner: Owner, claims: Sequence[tuple[str, int, int]]) -> int:
        return self._claims.give_back(owner, claims)

    def lose(self, owner: Owner, blame: Blame | None) -> list[tuple[str, int]]:
        return self._claims.lose(owner, blame)

    def recover(self, live: Sequence[Owner], started: dict[tuple[str, int], int]) -> int:
        return self._claims.recover(live, started)

    def running(self) -> list[tuple[Owner, str, int, int]]:
        return self._claims.running()

    # --- control -----------------------------------------------------------------------------------------------------

    def cancel(self, run: str, cause: Cause = Cause.CANCELLED) -> bool:
        return self._control.cancel(run, cause)

    def retry(self, run: str, step: str | None = None) -> int:
        return self._control.retry(run, step)

    def pause(self, queue: str) -> None:
        self._control.pause(queue, on=True)

    def resume(self, queue: str) -> None:
        self._control.pause(queue, on=False)

    def stops(self) -> list[Stop]:
        return self._control.stops()

    # --- duties ------------------------------------------------------------------------------------------------------

    def promote(self, limit: int = SLICE) -> int:
        return self._duties.promote(limit)

    def expire(self, limit: int = SLICE) -> int:
        return self._duties.expire(limit)

    def advance(self, limit: int = SLICE) -> bool:
        return self._duties.advance(limit)

    def fire(self, workflow: str, slot: Micros, submission: Submission | None) -> bool:
        return self._duties.fire(workflow, slot, submission)

    def schedule_marks(self) -> dict[str, tuple[Definition, Micros]]:
        return self._duties.schedule_marks()

    def prune(self, retention: Retention, limit: int = SLICE) -> int:
        return self._duties.prune(retention, limit)

    def next_due(self) -> Micros | None:
        return self._duties.next_due()
