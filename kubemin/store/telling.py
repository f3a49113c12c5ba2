"""Transitions, told: one log record an event. Whoever a store's reply came to tells what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kubemin.store.base import Change
from kubemin.telemetry import log

_WARN = frozenset({"quarantined", "fenced"})
_OF_WORKERS = frozenset({"started", "finished"})  # of a step: its worker tells, with the duration


def tell(changes: Iterable[Change]) -> None:
    """Log them: warnings for what an operator should look at, debug for single Python tasks that went well."""
    for change in changes:
        if change.event == "locked":
            log.warning(f"Failed to acquire lock: {change.message}", task=change.task)
        elif change.event == "newer":
            said = "a task of a newer version is left to nodes that know it"
            log.warning(said, task=change.task, version=change.message)
        elif change.event == "left":
            log.error("left out of the leader's work", workflow=change.workflow, reason=change.message)
        elif change.event in _WARN or (not change.step and change.state in ("failed", "timeout")):
            _emit(log.warning, change)
        elif change.quiet or (change.step and change.event in _OF_WORKERS):
            if log.enabled("debug"):
                _emit(log.debug, change)
        else:
            _emit(log.info, change)


def _emit(write: Callable[..., None], change: Change) -> None:
    fields = {
        "run": change.run,
        "workflow": change.workflow,
        "step": change.step,
        "task": change.task,
        "state": change.state,
        "cause": change.cause,
        "attempt": change.attempt,
        "reason": change.message,
    }
    subject = "task" if change.step or change.task else "run"
    write(f"{subject} {change.event}", **{name: value for name, value in fields.items() if value})
