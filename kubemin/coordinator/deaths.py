"""What the death of a worker means for the task it was executing (engine rule 13)."""

from __future__ import annotations

import os
import signal

from kubemin.coordinator.control import Died
from kubemin.coordinator.link import Held, Link
from kubemin.exits import EXIT_CUT_OFF
from kubemin.model.states import Cause, TaskState
from kubemin.store.base import Blame

# A worker that dies by one of these did it to itself: the step's own failure, under its retry policy.
OWN_SIGNALS = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE})

BEGUN = ("running", "reporting")  # states of a slot's record in which a death is charged to its task


def blame_for(died: Died, link: Link) -> Blame | None:
    """Whom a death is charged to: the one task that was taken from the channel and not reported. Call it after
    reports and channel were drained, so that `link.held` is exactly what the worker had in its hands."""
    held = _executing(died, link)
    if held is None:
        return None
    state, cause, message = _verdict(died, held)
    status = died.status
    return Blame(
        run=held.run,
        idx=held.idx,
        token=held.token,
        state=state,
        cause=cause,
        message=message,
        exit_code=os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else None,
        signal=os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
    )


def _executing(died: Died, link: Link) -> Held | None:
    record = died.record
    if record is not None:
        # A worker that died between taking a packet and noting its start is blamed for nothing.
        return link.held.get(record["token"]) if record["state"] in BEGUN else None
    return next(iter(link.held.values()), None)  # torn: at most one can be in its hands


def _verdict(died: Died, held: Held) -> tuple[TaskState | None, Cause, str]:
    if died.reason == "deadline":
        return TaskState.TIMEOUT, Cause.TIMEOUT, "the step's time-out passed and its worker was killed"
    if died.reason == "fenced":  # stopped for longer than its lock lives, or silent after its step's end
        return None, Cause.WORKER_LOST, "the worker was killed: it did not keep its task's lock"
    if died.reason == "cancelled":
        return TaskState.CANCELLED, held.stop_cause or Cause.CANCELLED, "the step did not end and its worker was killed"
    if died.reason in ("drain", "stop"):
        return None, Cause.DRAIN, "the step did not end within the grace period"
    if os.WIFEXITED(died.status):
        code = os.waitstatus_to_exitcode(died.status)
        if code == EXIT_CUT_OFF:
            return (
                TaskState.FAILED,
                Cause.EXCEPTION,
                "the step closed file descriptors of its worker; its result is lost",
            )
        return TaskState.FAILED, Cause.EXIT, f"the step ended its worker process with exit code {code}"
    number = os.WTERMSIG(died.status)
    name = signal.Signals(number).name if number in signal.valid_signals() else str(number)
    if number in OWN_SIGNALS:
        return TaskState.FAILED, Cause.SIGNAL, f"the step killed its worker process with {name}"
    return None, Cause.WORKER_LOST, f"the worker was killed by {name}"
