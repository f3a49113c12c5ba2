"""The metrics: one table that says what there is, and the cheap things that are counted with.

Code, `/metrics`, the guide, the dashboard and the alert rules all take names from `TABLE`. Counting costs a fraction of
a microsecond and needs no library; prometheus-client is imported when somebody asks. Counts are written by one thread
and read by another: a reader copies, and derives totals from its copy, so that a histogram is consistent in itself.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

SERIES: Final = 500  # of one labelled metric; what comes later is counted under OTHER
OTHER: Final = "other"
SECONDS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
RENEWALS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
COMMITS: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0)


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Metric(NamedTuple):
    """`name` as Prometheus shows it: a counter's ends in `_total`."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


_COUNTER, _GAUGE, _HISTOGRAM = Kind
TABLE: Final = (
    Metric("kubemin_build_info", _GAUGE, "Always 1: version, node, mode.", ("version", "node", "mode")),
    Metric("kubemin_start_time_seconds", _GAUGE, "When the daemon started, in seconds since the epoch."),
    Metric("kubemin_ready", _GAUGE, "1 when this node takes and starts work, as /readyz says."),
    Metric("kubemin_drained", _GAUGE, "1 while the node is drained."),
    Metric("kubemin_leader", _GAUGE, "1 when this node is the leader; alone on a machine it always is."),
    Metric("kubemin_leader_term", _GAUGE, "Number of the leader's term that this node knows of; 0 alone on a machine."),
    Metric("kubemin_leader_transitions", _GAUGE, "Changes of leader, as the lease counts them."),
    Metric("kubemin_leader_terms_total", _COUNTER, "Terms that this node has begun to lead."),
    Metric("kubemin_leader_renewals_total", _COUNTER, "Acquisitions and renewals of the lease by this node."),
    Metric("kubemin_leader_request_failures_total", _COUNTER, "Requests about the lease that failed."),
    Metric("kubemin_leader_renewal_seconds", _HISTOGRAM, "How long an acquisition or a renewal took."),
    Metric("kubemin_leader_renewed_seconds_ago", _GAUGE, "Time since the last renewal, while this node leads."),
    Metric("kubemin_leader_term_left_seconds", _GAUGE, "What is left of this node's term; 0 when it does not lead."),
    Metric("kubemin_leader_lease_up", _GAUGE, "1 while the lease can be reached and used."),
    Metric("kubemin_leader_duty_seconds", _HISTOGRAM, "How long a turn of a leader's duty took.", ("duty",)),
    Metric("kubemin_nodes", _GAUGE, "Nodes of the fleet by their heartbeats.", ("state",)),
    Metric("kubemin_redis_up", _GAUGE, "1 while Redis can be used; 0 also in the fall-back to local mode."),
    Metric("kubemin_redis_outages_total", _COUNTER, "Times that Redis could not be used."),
    Metric("kubemin_redis_outage_seconds_total", _COUNTER, "How long Redis could not be used, in all."),
    Metric("kubemin_redis_command_seconds", _HISTOGRAM, "Round trips of the coordinator's requests to Redis."),
    Metric("kubemin_redis_connects_total", _COUNTER, "Connections to Redis that the coordinator made for its work."),
    Metric("kubemin_redis_clients", _GAUGE, "Connections that the server has, of all nodes and others."),
    Metric("kubemin_redis_memory_bytes", _GAUGE, "Memory that the server uses."),
    Metric("kubemin_redis_memory_limit_bytes", _GAUGE, "Its maxmemory; 0: none."),
    Metric("kubemin_redis_replicas", _GAUGE, "Replicas that are connected to the server."),
    Metric("kubemin_locks_held", _GAUGE, "Locks of running tasks that this node held at its last renewal."),
    Metric("kubemin_locks_renewed_total", _COUNTER, "Renewals of tasks' locks."),
    Metric(
        "kubemin_locks_lapsed_total", _COUNTER, "Locks that had lapsed and were set again: nobody had taken the task."
    ),
    Metric("kubemin_locks_lost_total", _COUNTER, "Locks whose task was given to another worker; its step was ended."),
    Metric("kubemin_workers", _GAUGE, "Worker processes by what they do.", ("state",)),
    Metric("kubemin_workers_wanted", _GAUGE, "The size that the pool should have."),
    Metric("kubemin_worker_busy_seconds_total", _COUNTER, "Time that workers spent in steps that have ended."),
    Metric("kubemin_worker_ends_total", _COUNTER, "Workers that ended, replaced ones included."),
    Metric("kubemin_worker_deaths_total", _COUNTER, "Workers that were killed or crashed."),
    Metric("kubemin_coordinator_restarts_total", _COUNTER, "Coordinators that died and were replaced."),
    Metric("kubemin_reloads_total", _COUNTER, "Reloads by outcome.", ("result",)),
    Metric("kubemin_runs_total", _COUNTER, "Runs that ended, by how.", ("workflow", "status")),
    Metric("kubemin_tasks_total", _COUNTER, "Tasks that ended, by how.", ("status",)),
    Metric("kubemin_task_failures_total", _COUNTER, "Tasks that failed or timed out, by cause.", ("cause",)),
    Metric("kubemin_task_retries_total", _COUNTER, "Attempts that failed and are followed by another."),
    Metric("kubemin_tasks_requeued_total", _COUNTER, "Tasks put back into their queue, by cause.", ("cause",)),
    Metric("kubemin_tasks_recovered_total", _COUNTER, "Tasks taken back from a dead worker or daemon."),
    Metric("kubemin_tasks_quarantined_total", _COUNTER, "Tasks given up because their worker was killed too often."),
    Metric("kubemin_tasks_fenced_total", _COUNTER, "Results of superseded attempts that were refused."),
    Metric("kubemin_task_wait_seconds", _HISTOGRAM, "From ready to started.", ("workflow", "step")),
    Metric("kubemin_task_run_seconds", _HISTOGRAM, "From started to ended, of the last attempt.", ("workflow", "step")),
    Metric("kubemin_queue_length", _GAUGE, "Tasks ready to run and not started.", ("queue",)),
    Metric("kubemin_queue_oldest_seconds", _GAUGE, "For how long the oldest of them has been ready.", ("queue",)),
    Metric("kubemin_queue_paused", _GAUGE, "1 while the queue is paused.", ("queue",)),
    Metric("kubemin_store_up", _GAUGE, "1 when the last write to the store went through."),
    Metric("kubemin_store_failures_total", _COUNTER, "Transactions that the store did not take."),
    Metric("kubemin_store_commit_seconds", _HISTOGRAM, "Of a transaction, its commit to disk."),
    Metric("kubemin_store_bytes", _GAUGE, "Size of the store's files."),
)


class Histogram:
    """Counts by upper bound; the last is for what is above all bounds."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def merge(self, counts: Sequence[int], total: float) -> None:
        """Another's of the same bounds."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, counts, strict=True)]
        self.sum += total

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound, count up to it), as Prometheus wants them."""
        seen, pairs = 0, []
        for bound, count in zip((*self.bounds, "+Inf"), list(self.counts), strict=True):
            seen += count
            pairs.append((str(bound), float(seen)))
        return pairs


class Counts(dict[tuple[str, ...], int]):
    """Counts by labels, a bounded number of them."""

    def add(self, *labels: str) -> None:
        self._raise(labels, 1)

    def merge(self, counts: Mapping[tuple[str, ...], int]) -> None:
        for labels, count in counts.items():
            self._raise(labels, count)

    def _raise(self, labels: tuple[str, ...], count: int) -> None:
        if labels not in self and len(self) >= SERIES:
            labels = (OTHER,) * len(labels)
        self[labels] = self.get(labels, 0) + count


class Histograms(dict[tuple[str, ...], Histogram]):
    """Histograms by labels, a bounded number of them."""

    def observe(self, labels: tuple[str, ...], value: float) -> None:
        self.of(labels).observe(value)

    def of(self, labels: tuple[str, ...]) -> Histogram:
        found = self.get(labels)
        if found is None:
            if len(self) >= SERIES:
                labels = (OTHER,) * len(labels)
            found = self.setdefault(labels, Histogram())
        return found


Value = float | Histogram
Values = Mapping[str, Mapping[tuple[str, ...], Value]]


def expose(values: Values) -> bytes:
    """The text that Prometheus reads (exposition format 0.0.4). Names have to be of `TABLE`."""
    from prometheus_client.exposition import generate_latest

    class Collected:
        def collect(self) -> Iterator[Family]:
            return _families(values)

    text: bytes = generate_latest(Collected())
    return text


CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def _families(values: Values) -> Iterator[Family]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    kinds = {
        Kind.COUNTER: CounterMetricFamily,
        Kind.GAUGE: GaugeMetricFamily,
        Kind.HISTOGRAM: HistogramMetricFamily,
    }
    for metric in TABLE:
        family = kinds[metric.kind](metric.name.removesuffix("_total"), metric.help, labels=metric.labels)
        for labels, value in _copied(values.get(metric.name, {})):
            if isinstance(value, Histogram):
                family.add_metric(labels, buckets=value.cumulative(), sum_value=value.sum)
            else:
                family.add_metric(labels, value)
        yield family


def _copied(series: Mapping[tuple[str, ...], Value]) -> Iterable[tuple[Sequence[str], Value]]:
    return list(series.items())


def markdown() -> str:
    """The table of docs/operations.md."""
    rows = ["| metric | kind | labels | |", "|---|---|---|---|"]
    rows += [f"| `{m.name}` | {m.kind} | {', '.join(m.labels)} | {m.help} |" for m in TABLE]
    return "\n".join(rows) + "\n"
