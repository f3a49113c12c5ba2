"""The states of tasks and runs, as enums with named sets (design section 4).

Transitions are made by a store and by nothing else; `model/transitions.py` says what follows from what.
"""

from __future__ import annotations

from enum import StrEnum


class TaskState(StrEnum):
    WAITING = "waiting"  # for its needs, its retry's due time, or its run's start
    QUEUED = "queued"  # ready: a worker may claim it
    RUNNING = "running"  # claimed by a worker; a fan-out: its items are in progress
    COMPLETED = "completed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"  # a step it needs failed, or its condition is false


class RunState(StrEnum):
    WAITING = "waiting"  # accepted; not due, held by a concurrency key, or not yet started
    RUNNING = "running"  # a task of it was claimed
    COMPLETED = "completed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"


TASK_TERMINAL = frozenset(
    {TaskState.COMPLETED, TaskState.FAILED, TaskState.TIMEOUT, TaskState.CANCELLED, TaskState.SKIPPED}
)
TASK_LIVE = frozenset(TaskState) - TASK_TERMINAL
TASK_FAILURES = frozenset({TaskState.FAILED, TaskState.TIMEOUT})
RUN_TERMINAL = frozenset({RunState.COMPLETED, RunState.FAILED, RunState.TIMEOUT, RunState.CANCELLED})


class Cause(StrEnum):
    """Why a task ended as it did, or was put back. Stable words, shown to users.

    A condition that is false, and a need that failed, are told apart because the first is ordinary
    and the second is part of a failure.
    """

    EXIT = "exit"  # its own exit code, not 0
    EXCEPTION = "exception"  # a Python step raised
    SIGNAL = "signal"  # killed by SEGV, ABRT, BUS, ILL, FPE, or a signal of its own making
    OOM = "oom"  # killed for memory, or MemoryError
    TIMEOUT = "timeout"  # the step's own time-out
    RUN_TIMEOUT = "run-timeout"
    CANCELLED = "cancelled"
    CRASH = "crash"  # quarantine: its worker was killed under it too often
    WORKER_LOST = "worker-lost"  # requeued: its worker was killed from outside
    NODE_LOST = "node-lost"  # requeued: the supervisor or the machine went away
    DRAIN = "drain"  # requeued: did not end within the grace period
    OUTPUT = "output"  # output too large, not JSON, a link or a FIFO
    START = "start"  # could not be started: no such file, not admitted, a limit that cannot be enforced
    RESOURCES = "resources"  # could not be started for lack of disk, memory, processes or descriptors
    REFERENCE = "reference"  # a reference had no value when the step was about to start
    CONDITION = "condition"  # skipped: its `when` does not hold and nothing failed
    UPSTREAM = "upstream"  # skipped: something it needs failed, was cancelled, or was skipped for that
    GROUP = "group"  # a group or fan-out with a failure in it
    REPLACED = "replaced"  # cancelled by a newer run with the same concurrency key
    CORRUPT = "corrupt"  # its record cannot be read; the bytes are kept
    UNSIGNED = "unsigned"  # in a fleet that signs: no key holder signed it, or what it reads, as it stands
    REPLAYED = "replayed"  # in a fleet that signs: begun here before under this token, or signed too long ago


class When(StrEnum):
    SUCCESS = "success"
    FAILURE = "failure"
    ALWAYS = "always"
    CLEANUP = "cleanup"  # not written in files: a plain step of an `always` group. Like success, also in a stopped run


WRITTEN_WHENS = (When.SUCCESS, When.FAILURE, When.ALWAYS)
STARTS_IN_STOPPED_RUN = frozenset({When.ALWAYS, When.CLEANUP})


class Kind(StrEnum):
    """What a node of the compiled graph does when its turn comes."""

    TASK = "task"  # a worker executes it
    GATE = "gate"  # a group begins: ends at once, no worker (hidden from users)
    JOIN = "join"  # a group ends: its status is its members', no worker
    FANOUT = "fanout"  # forEach: makes one child task an item, ends when they have
