"""The store interface: every state transition of runs and tasks is one of these operations.

A store makes each operation atomically, in one place (one SQLite transaction; one Lua script). Nothing outside a
store changes a state, and `model/transitions.py` is the oracle that both stores are held against. The leader's duties
(`kubemin/leader/`) and the coordinator are written against this interface and never see an engine.

Contract shared by all operations:

* They check everything first and write afterwards; what cannot be done raises `Refused`, `NotFound` or `Invalid` with
  nothing written, what the engine cannot do raises `StoreUnavailable` with the transaction undone.
* Batches answer item by item: one bad submission or one stale outcome never undoes its neighbours.
* A call touches at most about `SLICE` records. What is larger (a wide fan-out, a long skip cascade, unpacking a big
  graph) is left in the store as a cursor and goes on in `advance`, which survives a crash.
* Running a task twice is better than losing it; the fencing token makes one result the only one accepted. Tokens rise
  for each task over its whole life, across retries, restarts and crashes.

`group()` joins several calls into one transaction: none is durable before the block ends, and no reply or task may
leave the process before that ("commit, then send").
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from kubemin.clock import Micros
from kubemin.model.obstacles import Obstacles
from kubemin.model.records import Accepted, Claim, Definition, Outcome, Owner, Rejection, RunView, Submission
from kubemin.model.states import Cause, RunState, TaskState

SLICE = 1000  # records one call may touch
WINDOW = 64  # tasks of one run that stand in one queue at once; the others wait in the run (engine rule 10)
TASK_TIMEOUT = 1200.0  # seconds; the setting `taskTimeout`, of steps without a time-out of their own
CRASH_LIMIT = 3  # a started task whose worker was killed from outside this often is quarantined (promise P4)
LOSS_LIMIT = 10  # the same for lost nodes and supervisors; also drains that cost no attempt


class Verdict(StrEnum):
    """What became of an outcome."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"  # the same token's outcome was accepted before: a repeat after a lost acknowledgement
    FENCED = "fenced"  # the task is no longer this owner's: refused, to be logged


class Change(msgspec.Struct, frozen=True, gc=False):
    """A transition worth telling: logged and used to wake waiters, after the commit.

    `step` is empty for the run itself. `event` is a short word: started, finished, requeued, retrying, skipped,
    quarantined, cancelled, fenced; of a run also cancelling (it is being stopped, see `stops`), and its end is
    `finished`. `quiet` runs (single Python tasks from code) yield no start, and `step` is empty in what they yield.
    `waited`: seconds from ready to started, where the store knows them of what ended; below 0: it does not.
    """

    event: str
    run: str
    workflow: str
    step: str = ""
    task: str = ""
    state: str = ""
    cause: str = ""
    attempt: int = 0
    message: str = ""
    quiet: bool = False
    seconds: float = 0.0
    waited: float = -1.0


class Stop(msgspec.Struct, frozen=True):
    """A running task that has to be stopped at its worker: its run was cancelled, replaced or timed out."""

    owner: Owner
    run: str
    idx: int
    token: int
    cause: Cause


class Blame(msgspec.Struct, frozen=True):
    """The task that a dead worker was executing, and how it died (engine rule 13).

    state None: killed from outside, so requeue and count a crash; a state: that is the attempt's end (`failed`,
    `timeout`, `cancelled`) with `cause`.
    """

    run: str
    idx: int
    token: int
    state: TaskState | None = None
    cause: Cause = Cause.WORKER_LOST
    message: str = ""
    exit_code: int | None = None
    signal: int | None = None


class Retention(msgspec.Struct, frozen=True):
    """Terminal runs kept: `days`, at most `runs`, none younger than `minimum` seconds is dropped."""

    days: float = 7.0
    runs: int = 10_000
    minimum: float = 3600.0


class RunFilter(msgspec.Struct, frozen=True):
    status: RunState | None = None
    workflow: str | None = None
    since: Micros | None = None
    until: Micros | None = None
    key: str | None = None
    params: dict[str, str] = {}
    limit: int = 100


class QueueView(msgspec.Struct):
    """The whole backlog of one named queue: every ready task, handed out or waiting in its run. Running ones not
    counted.
    """

    name: str
    length: int
    paused: bool
    oldest_seconds: float | None


class WorkflowView(msgspec.Struct, rename="camel"):
    name: str
    hash: str
    steps: int
    schedule: str | None
    timezone: str | None
    next_at: str | None
    last_at: str | None
    published_at: str | None


class Reader(Protocol):
    """Reads. Each answers from one consistent snapshot, takes no lock, and costs the writers nothing."""

    def run(self, run: str) -> RunView:
        """The run with its tasks in graph order, outputs and tails included. Raises NotFound."""

    def runs(self, where: RunFilter) -> list[RunView]:
        """Newest first, without tasks."""

    def states(self, ids: Sequence[str]) -> dict[str, RunState]:
        """States of many runs at once; unknown ids are absent. Any number of ids."""

    def outputs(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """run -> {step path -> JSON value} of completed steps; a forEach step's value is the list of its items'."""

    def queues(self) -> list[QueueView]: ...

    def workflows(self) -> list[WorkflowView]:
        """Published definitions by name."""

    def definition(self, name_or_hash: str) -> Definition | None: ...

    def obstacles(self, run: str, step: str | None = None) -> Obstacles:
        """The facts `kubemin.why` reasons about: the run's row, its live tasks with open needs, holder of its
        concurrency key, paused queues, positions. Raises NotFound.
        """

    def close(self) -> None: ...


class Store(Reader, Protocol):
    """Every transition. One process at a time holds a SQLite store; see `store/sqlite/`."""

    task_timeout: float  # seconds, of steps without a time-out of their own; may be changed at any time

    def group(self) -> AbstractContextManager[None]:
        """One transaction around several calls; nested use joins the outer one. A call that raises Refused, NotFound or
        Invalid leaves the others intact."""

    def changes(self) -> list[Change]:
        """Transitions since the last call, for logs and waiters. To be read after the commit."""

    def backup(self, path: str) -> None:
        """A consistent copy of everything committed, complete or not there at all. Not inside `group()`."""

    # --- definitions -------------------------------------------------------------------------------------------------

    def define(self, definitions: Sequence[Definition]) -> None:
        """Keep definitions by hash, so that submissions can name them. Idempotent; unreferenced ones are
        pruned later.
        """

    def publish(self, definitions: Sequence[Definition]) -> dict[str, list[str]]:
        """The node's workflow files as they are now: -> {"added": […], "changed": […], "removed": […]} names.
        A schedule that is new or changed starts from now; running runs keep their definition.
        """

    # --- accepting ---------------------------------------------------------------------------------------------------

    def submit(self, submissions: Sequence[Submission]) -> list[Accepted | Rejection]:
        """Accept runs. Idempotent by id and by key; the same key with another workflow or parameters is rejected (5).
        Ready tasks are queued in the same transaction. A graph of more than SLICE nodes is accepted at once
        and unpacked by `advance`."""

    def stage(self, batch: str, submissions: bytes) -> None:
        """Keep one part (a JSON list of Submission, at most SLICE) of a large batch; invisible until sealed."""

    def seal(self, batch: str) -> int:
        """Accept a staged batch as a whole, in one commit; returns the number of runs. `advance` unpacks it.
        Idempotent.
        """

    # --- workers -----------------------------------------------------------------------------------------------------

    def claim(self, owner: Owner, queues: Sequence[str], limit: int) -> list[Claim]:
        """Up to `limit` ready tasks, `queues` in priority order, each with a new token; they are this owner's until it
        finishes, gives back or is lost."""

    def finish(self, owner: Owner, outcomes: Sequence[Outcome]) -> list[Verdict]:
        """Record how attempts ended: check owner and token, apply the retry policy, count down what needs the
        step, queue or skip what follows, end the run when nothing of it is left. state None requeues (DRAIN:
        free up to LOSS_LIMIT).
        """

    def give_back(self, owner: Owner, claims: Sequence[tuple[str, int, int]]) -> int:
        """(run, idx, token) that the owner never started: queued again at their old place, nothing charged."""

    def lose(self, owner: Owner, blame: Blame | None) -> list[tuple[str, int]]:
        """The owner is dead: its incarnation is retired, what it held is queued again, the blamed task is charged.
        Returns what was requeued."""

    def recover(self, live: Sequence[Owner], started: dict[tuple[str, int], int]) -> int:
        """At start: every running task whose owner is not in `live` is requeued; those in `started` (task ->
        token, from the dead instance's scoreboard) are charged with a loss, quarantined at LOSS_LIMIT.
        Returns how many.
        """

    def running(self) -> list[tuple[Owner, str, int, int]]:
        """(owner, run, idx, token) of every claimed task: what a restarted coordinator takes note of."""

    # --- control -----------------------------------------------------------------------------------------------------

    def cancel(self, run: str, cause: Cause = Cause.CANCELLED) -> bool:
        """Stop a run: waiting and queued tasks are cancelled, running ones appear in `stops`, `always` steps still run.
        False when it was cancelled already; Refused when terminal; NotFound."""

    def retry(self, run: str, step: str | None = None) -> int:
        """Run the failed, skipped and cancelled steps of a terminal run again (or `step` and all after it);
        completed ones are kept. Returns the new round. Refused while it is not terminal.
        """

    def pause(self, queue: str) -> None: ...

    def resume(self, queue: str) -> None: ...

    def stops(self) -> list[Stop]:
        """Running tasks that are to be stopped; each is returned until its outcome arrives."""

    # --- duties (see kubemin/leader) ---------------------------------------------------------------------------------

    def promote(self, limit: int = SLICE) -> int:
        """Queue what is due: delayed runs, retries whose backoff is over. Returns how many records it touched."""

    def expire(self, limit: int = SLICE) -> int:
        """Time out runs past their deadline: like cancel, with the run's end `timeout`."""

    def advance(self, limit: int = SLICE) -> bool:
        """Go on with what one call could not finish: staged batches, large graphs, fan-outs, cascades. True:
        more is left.
        """

    def fire(self, workflow: str, slot: Micros, submission: Submission | None) -> bool:
        """Raise the schedule's mark to `slot` and, with a submission, create its run, in one act. False when
        the mark is there already: a slot fires at most once. None: the slot is passed over (missed).
        """

    def schedule_marks(self) -> dict[str, tuple[Definition, Micros]]:
        """name -> (definition, last slot or publication time) of every published workflow with a schedule."""

    def prune(self, retention: Retention, limit: int = SLICE) -> int:
        """Drop terminal runs outside the retention, at most `limit`, oldest first. Returns how many."""

    def next_due(self) -> Micros | None:
        """When `promote` or `expire` next has work; None: nothing is waiting for a time."""
