"""The JSON contract of `-o json` (design section 7): camelCase, RFC 3339 in UTC, lists as {"items": […]}. Pure.

Runs and tasks have their form from `model/records.py` (RunView, TaskView) already; what is put together from several
sources gets its form here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from kubemin.cli.fleet import LeaderLine, NodeLine
from kubemin.cli.pool import PoolState, Worker
from kubemin.clock import rfc3339
from kubemin.model.records import RunView, TaskView
from kubemin.store.base import QueueView, WorkflowView
from kubemin.why import Reason


def items(values: Iterable[Any]) -> dict[str, Any]:
    return {"items": [msgspec.to_builtins(value) for value in values]}


def run(view: RunView) -> dict[str, Any]:
    return dict(msgspec.to_builtins(view))


def runs(views: Iterable[RunView]) -> dict[str, Any]:
    return items(views)


def workflows(views: Iterable[WorkflowView]) -> dict[str, Any]:
    return items(views)


def schedules(views: Iterable[WorkflowView]) -> dict[str, Any]:
    return items(view for view in views if view.schedule)


def queue(view: QueueView) -> dict[str, Any]:
    return {
        "name": view.name,
        "length": view.length,
        "paused": view.paused,
        "oldestSeconds": None if view.oldest_seconds is None else round(view.oldest_seconds, 3),
    }


def queues(views: Iterable[QueueView]) -> dict[str, Any]:
    return {"items": [queue(view) for view in views]}


def reasons(found: Sequence[Reason]) -> dict[str, Any]:
    return items(found)


def logs(tasks: Iterable[TaskView]) -> dict[str, Any]:
    kept = ("id", "step", "status", "attempt", "stdoutTail", "stderrTail")
    shown = (msgspec.to_builtins(task) for task in tasks)
    return {"items": [{name: task[name] for name in kept} for task in shown]}


def status(pool: PoolState, waiting: Iterable[QueueView]) -> dict[str, Any]:
    """The fields of design section 7, exactly."""
    return {
        "node": pool.node,
        "mode": pool.mode,
        "leader": pool.leader,
        "generation": pool.generation,
        "supervisorPid": pool.supervisor_pid,
        "workers": [worker(one) for one in pool.workers],
        "queues": [queue(view) for view in waiting],
    }


def nodes(found: Iterable[NodeLine]) -> dict[str, Any]:
    return items(found)


def leader(line: LeaderLine) -> dict[str, Any]:
    return {**msgspec.to_builtins(line), "since": rfc3339(line.since), "ageSeconds": round(line.age_seconds, 3)}


def worker(one: Worker) -> dict[str, Any]:
    return {
        "slot": one.slot,
        "pid": one.pid,
        "state": one.state,
        "run": one.run,
        "step": one.step,
        "task": one.task,
        "seconds": None if one.seconds is None else round(one.seconds, 3),
    }
