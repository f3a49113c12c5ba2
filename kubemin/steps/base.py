"""What a worker gives an executor, and what it gets back. Plain data between `worker/` and `steps/`; no I/O here."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import msgspec

from kubemin.model.records import Claim, Usage
from kubemin.model.states import Cause, TaskState

_SCARCE = frozenset(
    {errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE}  # another time it may work
)
MESSAGE_CHARACTERS = 2000  # of the sentence about an end that is kept
KILL_GRACE = 5.0  # seconds from TERM to KILL: long enough for a database client to roll back


class Interrupt(msgspec.Struct, frozen=True):
    """Why a running step has to end early: CANCELLED, RUN_TIMEOUT, REPLACED, or DRAIN (put back, not charged)."""

    cause: Cause


class Ended(msgspec.Struct):
    """How a step ended. `state` None: put it back (`cause` says why). Tails are text of at most TAIL_BYTES each."""

    state: TaskState | None
    cause: Cause | None = None
    message: str = ""
    exit_code: int | None = None
    signal: int | None = None
    stdout: str = ""
    stderr: str = ""
    usage: Usage | None = None
    unenforced: tuple[str, ...] = ()  # limits with bestEffort that this machine could not enforce


class Step(msgspec.Struct):
    """One attempt of one step, ready to start: references rendered, environment complete, secrets read."""

    claim: Claim
    work: dict[str, Any]
    directory: str  # it starts here
    environ: dict[str, str]  # the complete environment
    masks: tuple[str, ...]  # secret values, longest first: shown as *** in output
    deadline: float  # clock.monotonic seconds
    output_file: str  # $KUBEMIN_OUTPUT
    emit: Callable[[str, str], None]  # (stream, line): one line of output into the log
    interrupt_fd: int  # readable when an interrupt may have come
    interrupted: Callable[[], Interrupt | None]
    tick: Callable[[], None]  # called about once a second while waiting
    slot: int
    kill_grace: float = KILL_GRACE
    user: str | None = None  # whose credentials a command takes; None: the daemon's own


def storable(text: str) -> str:
    """Text that every store takes. What an exception says may hold half surrogate pairs, as file names that are not
    UTF-8 do: they become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


class StartFailed(Exception):
    """The step cannot be started or its result cannot be taken; the text says what to do about it."""

    def __init__(self, message: str, cause: Cause = Cause.START) -> None:
        super().__init__(message)
        self.cause = cause

    def ended(self) -> Ended:
        return Ended(TaskState.FAILED, self.cause, str(self))


def start_failed(what: str, error: OSError) -> StartFailed:
    """`what` could not be done to start a step: for good, or because the machine has no room for it now."""
    cause = Cause.RESOURCES if error.errno in _SCARCE else Cause.START
    return StartFailed(f"{what}: {error.strerror or error}", cause)
