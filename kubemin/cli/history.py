"""How long running steps usually take, from the runs of the same workflow that the store still has."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec

from kubemin.cli import render
from kubemin.cli.pool import Worker
from kubemin.client import Client
from kubemin.errors import NotFound, StoreUnavailable
from kubemin.model.records import TaskView

SAMPLES = 10  # completed runs that are looked at, the newest


class Expected(msgspec.Struct, frozen=True, rename="camel"):
    """One running step. `usual` and `left` in seconds; None: it has no history, or takes longer than ever."""

    slot: int
    task: str | None
    label: str
    seconds: float
    usual: float | None
    left: float | None


class History:
    """Of one look at the store: each workflow is read once."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._tasks: dict[str, list[list[TaskView]]] = {}

    def expect(self, worker: Worker) -> Expected:
        seconds = worker.seconds or 0.0
        taken = self._durations(worker)
        usual = statistics.median(taken) if taken else None
        left = None
        if taken and seconds <= max(taken):  # past the usual: as long as the longest took
            left = max((usual or 0.0) - seconds, 0.0) if seconds <= (usual or 0.0) else max(taken) - seconds
        return Expected(worker.slot, worker.task, worker.label, round(seconds, 3), _rounded(usual), _rounded(left))

    def _durations(self, worker: Worker) -> list[float]:
        workflow, _, step = worker.label.partition("/")
        name = step.partition("[")[0]
        found = []
        for tasks in self._runs(workflow):
            for task in tasks:
                same = not step or task.step.partition("[")[0] == name
                if same and task.status == "completed" and task.started_at and task.finished_at:
                    found.append(render.seconds_between(task.started_at, task.finished_at) or 0.0)
        return found

    def _runs(self, workflow: str) -> list[list[TaskView]]:
        if workflow not in self._tasks:
            self._tasks[workflow] = self._read(workflow)
        return self._tasks[workflow]

    def _read(self, workflow: str) -> list[list[TaskView]]:
        try:
            runs = self._client.runs(workflow=workflow, status="completed", limit=SAMPLES)
            return [self._client.run(run.id).view().tasks for run in runs]
        except (NotFound, StoreUnavailable):
            return []


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def total_left(steps: Sequence[Expected]) -> float | None:
    """Until all have ended; None: not known."""
    lefts = [step.left for step in steps]
    known = [left for left in lefts if left is not None]
    return max(known, default=0.0) if len(known) == len(lefts) else None
