"""Transitions, counted: for `status`, and for `/metrics` where `httpAddr` is set. The counterpart of `telling`.

Whoever a store's reply came to counts what it says. Alone on a machine that is the coordinator. In a fleet most replies
come to workers: each keeps a `Tally` of its own and now and then sends to its coordinator what it has counted since
(`packet`), which adds it to its own (`add`). A killed worker takes along what it had not sent, a fraction of a second's
worth; a coordinator that is replaced begins anew, but for what `status` shows. Nothing here decides anything: a lost
count loses no task.

Counting a single task costs a worker less than 1 µs, held by tests/unit/test_counting.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from kubemin import clock
from kubemin.store.base import Change
from kubemin.telemetry.metrics import COMMITS, SERIES, Counts, Histogram, Histograms, Values

_FAILURES: Final = frozenset({"failed", "timeout"})
_LOST: Final = frozenset({"worker-lost", "node-lost"})
_ENDS: Final = frozenset({"finished", "cancelled", "skipped", "quarantined"})
# A run id begins with its milliseconds since the epoch, in nine digits of base 32 (model/ids.py).
_DIGITS: Final = str.maketrans("0123456789abcdefghjkmnpqrstvwxyz", "0123456789abcdefghijklmnopqrstuv")
_ID_DIGITS: Final = 9

Spread = tuple[list[int], float]  # a histogram: counts by bound, sum


class Totals(msgspec.Struct, array_like=True):
    """What `status` shows, with or without metrics."""

    finished: int = 0  # runs
    failed: int = 0  # of those: not completed
    requeued: int = 0
    recovered: int = 0  # of those: from a dead worker or node
    ended: int = 0  # tasks, whatever their end
    failures: dict[str, int] = {}  # runs that failed or timed out, by workflow (or function)

    def note(self, change: Change) -> None:
        event = change.event
        if event == "finished" and not change.step:
            self.finished += 1
            if change.state != "completed":
                self.failed += 1
                if change.state in _FAILURES:
                    self.failures[change.workflow] = self.failures.get(change.workflow, 0) + 1
            self.ended += change.quiet
        elif event == "requeued":
            self.requeued += 1
            self.recovered += change.cause in _LOST
        elif event in _ENDS and change.step and not change.quiet:
            self.ended += 1

    def add(self, other: Totals) -> None:
        self.finished += other.finished
        self.failed += other.failed
        self.requeued += other.requeued
        self.recovered += other.recovered
        self.ended += other.ended
        for name, count in other.failures.items():
            self.failures[name] = self.failures.get(name, 0) + count


class Measures(msgspec.Struct, array_like=True):
    """A meter's counts, as they travel."""

    runs: dict[tuple[str, ...], int]
    tasks: dict[tuple[str, ...], int]
    failures: dict[tuple[str, ...], int]
    requeued: dict[tuple[str, ...], int]
    waits: dict[tuple[str, ...], Spread]
    times: dict[tuple[str, ...], Spread]
    scalars: tuple[int, int, int, int, int, float]  # singles, retries, recovered, quarantined, fenced, busy


class Meter:
    """For `/metrics`. Steps of one forEach are one series. One thread writes, another may read."""

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
        self._kinds: dict[str, tuple[Histogram, Histogram]] = {}  # waits and times of single tasks, by function

    def note(self, changes: Sequence[Change]) -> None:
        """One transaction's, after its commit."""
        for change in changes:
            event = change.event
            if event == "finished" and change.quiet:
                self._single_task(change)
            elif event == "requeued":
                self.requeued.add(change.cause)
                self.recovered += change.cause in _LOST
            elif event == "retrying":
                self.retries += bool(change.step or change.quiet)  # a run that is retried by hand is no attempt
            elif event == "fenced":
                self.fenced += 1
            elif event == "quarantined" and change.quiet:
                self.quarantined += 1
            elif change.step:
                self._step(change)
            elif event in ("finished", "cancelled"):
                self.runs.add(change.workflow, change.state or "cancelled")

    def _single_task(self, change: Change) -> None:
        """A run of one Python task from code."""
        seconds, waited = change.seconds, change.waited
        waits, times = self._kinds.get(change.workflow) or self._kind(change.workflow)
        times.observe(seconds)
        if waited < 0.0:  # it was ready when it was submitted, which its id tells
            waited = max(0.0, (clock.wall() - _submitted_at(change.run)) / clock.SECOND - seconds)
        waits.observe(waited)
        self.busy += seconds
        if change.state == "completed":
            self.singles += 1
        else:
            self.runs.add("", change.state)
            self._ended(change)

    def _kind(self, function: str) -> tuple[Histogram, Histogram]:
        pair = self.waits.of(("", function)), self.times.of(("", function))
        if len(self._kinds) < SERIES:
            self._kinds[function] = pair
        return pair

    def _step(self, change: Change) -> None:
        event = change.event
        if event == "started":
            self.waits.observe(_labels(change), change.seconds)
            return
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

    # --- between processes --------------------------------------------------------------------------------------------

    def measures(self) -> Measures:
        scalars = (self.singles, self.retries, self.recovered, self.quarantined, self.fenced, self.busy)
        return Measures(
            self.runs, self.tasks, self.failures, self.requeued, _spreads(self.waits), _spreads(self.times), scalars
        )

    def add(self, other: Measures) -> None:
        self.runs.merge(other.runs)
        self.tasks.merge(other.tasks)
        self.failures.merge(other.failures)
        self.requeued.merge(other.requeued)
        for histograms, spreads in ((self.waits, other.waits), (self.times, other.times)):
            for labels, (counts, total) in spreads.items():
                histograms.of(labels).merge(counts, total)
        singles, retries, recovered, quarantined, fenced, busy = other.scalars
        self.singles += singles
        self.retries += retries
        self.recovered += recovered
        self.quarantined += quarantined
        self.fenced += fenced
        self.busy += busy

    # --- for the exposition -------------------------------------------------------------------------------------------

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


class _Packet(msgspec.Struct, array_like=True):
    totals: Totals
    measures: Measures | None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Packet).decode


class Tally:
    """What one process has counted. `metered`: for `/metrics`, too."""

    def __init__(self, *, metered: bool) -> None:
        self.totals = Totals()
        self.meter = Meter() if metered else None
        self.empty = True

    def note(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self.totals.note(change)
        if self.meter is not None:
            self.meter.note(changes)
        self.empty = False

    def packet(self) -> bytes:
        """All of it, for `add` in another process; then `clear`, once it is on its way."""
        return _encode(_Packet(self.totals, None if self.meter is None else self.meter.measures()))

    def clear(self) -> None:
        self.totals = Totals()
        if self.meter is not None:
            self.meter = Meter()
        self.empty = True

    def add(self, packet: bytes) -> Totals:
        """Another process' packet; returns its totals. Raises ValueError: what no process of this version sent."""
        try:
            other = _decode(packet)
        except msgspec.MsgspecError as exc:
            raise ValueError(f"counts that cannot be read: {exc}") from exc
        self.totals.add(other.totals)
        if self.meter is not None and other.measures is not None:
            self.meter.add(other.measures)
        self.empty = False
        return other.totals


def _spreads(histograms: Histograms) -> dict[tuple[str, ...], Spread]:
    return {labels: (one.counts, one.sum) for labels, one in histograms.items()}


def _with(counts: Counts, labels: tuple[str, ...], more: int) -> dict[tuple[str, ...], int]:
    return {**counts, labels: counts.get(labels, 0) + more}


def _submitted_at(run: str) -> clock.Micros:
    return int(run[:_ID_DIGITS].translate(_DIGITS), 32) * 1000


def _labels(change: Change) -> tuple[str, str]:
    return change.workflow, change.step.partition("[")[0]
