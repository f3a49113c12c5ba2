"""The facts that `kubemin.why` reasons about: what a store knows of one run that has not gone on.

Pure records. A store's `Reader.obstacles(run, step)` returns an `Obstacles`: a read of one consistent snapshot, and
small for any run (at most `TASKS` tasks, in graph order).
"""

from __future__ import annotations

import msgspec

from kubemin.clock import Micros
from kubemin.model.states import RunState, TaskState

TASKS = 100  # records in one answer; `more` counts what was left out


class OpenNeed(msgspec.Struct, frozen=True, array_like=True):
    """A need that has not ended: the step's path and its state."""

    step: str
    state: TaskState


class TaskFacts(msgspec.Struct):
    """One task. Gates are left out; joins and fan-outs are in.

    `listed`: it stands in the hand-out window of its queue (`seq` set), else it waits inside its run for the window
    (engine rule 10). `position`: queued tasks that are handed out before it, 0 = next; None when not listed.
    """

    idx: int
    step: str
    state: TaskState
    kind: str = "task"  # task | join | fanout
    queue: str = "default"
    listed: bool = False
    position: int | None = None
    due_at: Micros | None = None  # a retry's backoff ends then
    needs: list[OpenNeed] = []  # open ones only; at most 20
    attempt: int = 0  # attempts used up (waiting, queued), or the running one
    attempts: int | None = None  # all that the retry policy allows, None without a policy
    token: int = 0
    slot: int | None = None  # of the worker that holds it
    host: str = ""  # and its node, in a fleet
    started_at: Micros | None = None
    cause: str | None = None
    message: str = ""
    exit_code: int | None = None
    signal: int | None = None
    blamed: str | None = None  # skipped: the first step upstream that failed, timed out or was cancelled
    children_live: int | None = None  # a running fan-out: children queued or running
    children_total: int | None = None  # a running fan-out: its items
    children_ended: int | None = None
    max_parallel: int | None = None  # a fan-out's limit


class Obstacles(msgspec.Struct):
    """One run and its live tasks; with `step` that task alone (in whatever state it is)."""

    run: str
    workflow: str
    state: RunState
    cause: str | None = None
    round: int = 1
    submitted_at: Micros | None = None
    start_at: Micros | None = None  # --in, --at: not before then
    deadline: Micros | None = None  # of the whole run, once started
    concurrency_key: str | None = None
    held_by: str | None = None  # the run that holds the concurrency key, when it is another
    ahead: int = 0  # runs that wait for the same key before this one
    cancelling: str | None = None  # cause, when it is being stopped: cancelled, run-timeout, replaced
    unpacked: int = 0  # nodes whose records exist; below `total` while a large graph is unpacked
    total: int = 0
    tasks: list[TaskFacts] = []
    more: int = 0  # live tasks beyond those in `tasks`
    paused: list[str] = []  # names of paused queues
    failed: list[str] = []  # steps that ended failed or timeout (no joins), at most 20
