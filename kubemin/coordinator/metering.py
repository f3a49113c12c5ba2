"""What the coordinator counts for `/metrics`: made only when `httpAddr` is set, fed after each commit.

The loop's thread writes, the thread of `http.py` reads.
"""

from __future__ import annotations

from collections.abc import Iterable

from kubemin import clock
from kubemin.store.base import Change
from kubemin.telemetry.metrics import COMMITS, Counts, Histogram, Histograms, Values

_FAILURES = frozenset({"failed", "timeout"})
_LOST = frozenset({"worker-lost", "node-lost"})
# A run id begins with its milliseconds since the epoch, in nine digits of base 32 (model/ids.py).
_DIGITS = str.maketrans("0123456789abcdefghjkmnpqrstvwxyz", "0123456789abcdefghijklmnopqrstuv")
_ID_DIGITS = 9


class Meter:
    """Totals of this coordinator. Steps of one forEach are one series."""

    def __init__(self) -> None:
        self.runs = Counts()
        self.tasks = Counts()
        self.failures = Counts()
        self.requeued = Counts()
        self.waits = Histograms()
        self.times = Histograms()
        self.commits = Histogram(COMMITS)
        self.retries = self.recovered = self.quarantined = self.fenced = 0
        self.busy = 0.0
        self.singles = 0  # single Python tasks that completed: counted apart, they are many
        self.store_failures = 0

    def note(self, changes: Iterable[Change]) -> None:
        """One transaction's, after its commit."""
        now = clock.wall()
        for change in changes:
            if change.quiet and change.event == "finished":
                self._single_task(change, now)
            elif change.step:
                self._step(change)
            elif change.event in ("finished", "cancelled"):
                self.runs.add(change.workflow, change.state or "cancelled")

    def _single_task(self, change: Change, now: clock.Micros) -> None:
        """A run of one Python task from code: it is ready when it is submitted, which its id tells."""
        key, seconds = ("", change.workflow), change.seconds
        self.times.observe(key, seconds)
        self.waits.observe(key, max(0.0, (now - _submitted_at(change.run)) / clock.SECOND - seconds))
        self.busy += seconds
        if change.state == "completed":
            self.singles += 1
        else:
            self.runs.add("", change.state)
            self._ended(change)

    def _step(self, change: Change) -> None:
        event = change.event
        if event == "started":
            self.waits.observe(_labels(change), change.seconds)
        elif event == "requeued":
            self.requeued.add(change.cause)
            self.recovered += change.cause in _LOST
        elif event == "retrying":
            self.retries += 1
        elif event == "fenced":
            self.fenced += 1
        else:
            if event == "quarantined":
                self.quarantined += 1
            if event in ("finished", "quarantined"):
                self.times.observe(_labels(change), change.seconds)
                self.busy += change.seconds
            self._ended(change)

    def _ended(self, change: Change) -> None:
        state = change.state or "cancelled"
        self.tasks.add(state)
        if state in _FAILURES:
            self.failures.add(change.cause or state)

    def values(self) -> Values:
        none: tuple[str, ...] = ()
        return {
            "kubemin_runs_total": _with(self.runs, ("", "completed"), self.singles),
            "kubemin_tasks_total": _with(self.tasks, ("completed",), self.singles),
            "kubemin_task_failures_total": self.failures,
            "kubemin_task_retries_total": {none: self.retries},
            "kubemin_tasks_requeued_total": self.requeued,
            "kubemin_tasks_recovered_total": {none: self.recovered},
            "kubemin_tasks_quarantined_total": {none: self.quarantined},
            "kubemin_tasks_fenced_total": {none: self.fenced},
            "kubemin_task_wait_seconds": self.waits,
            "kubemin_task_run_seconds": self.times,
            "kubemin_worker_busy_seconds_total": {none: self.busy},
            "kubemin_store_failures_total": {none: self.store_failures},
            "kubemin_store_commit_seconds": {none: self.commits},
        }


def _with(counts: Counts, labels: tuple[str, ...], more: int) -> dict[tuple[str, ...], int]:
    return {**counts, labels: counts.get(labels, 0) + more}


def _submitted_at(run: str) -> clock.Micros:
    return int(run[:_ID_DIGITS].translate(_DIGITS), 32) * 1000


def _labels(change: Change) -> tuple[str, str]:
    return change.workflow, change.step.partition("[")[0]
