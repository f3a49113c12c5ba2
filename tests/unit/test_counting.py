"""Counting of transitions: what it adds up to, across processes too, and what it costs a worker."""

from __future__ import annotations

import pytest
from support.costs import fastest

from kubemin.coordinator.history import HOUR, STEP, History
from kubemin.model import ids
from kubemin.store.base import Change
from kubemin.store.counting import Tally, Totals
from kubemin.telemetry.metrics import OTHER, SERIES, Histogram

RUN = ids.run_id()


def single(state: str = "completed", *, function: str = "math:sqrt", waited: float = 0.2, cause: str = "") -> Change:
    return Change("finished", RUN, function, "", "", state, cause, 1, "", True, 0.05, waited)


def step(event: str, state: str, cause: str = "") -> Change:
    return Change(event, RUN, "work", "load[3]", f"{RUN}.4", state, cause, 1, "", False, 2.0)


STORY = [
    step("started", "running"),
    step("requeued", "queued", "worker-lost"),
    step("started", "running"),
    step("retrying", "waiting", "exit"),
    step("started", "running"),
    step("finished", "failed", "exit"),
    Change("finished", RUN, "work", state="failed", cause="exit"),
    Change("retrying", RUN, "work", state="running"),
    single(),
    single("failed", cause="exception"),
    Change("requeued", RUN, "math:sqrt", state="queued", cause="drain", quiet=True),
    Change("retrying", RUN, "math:sqrt", state="waiting", cause="exception", quiet=True),
    Change("quarantined", RUN, "math:sqrt", state="failed", cause="crash", quiet=True),
    single("failed", cause="crash"),
    Change("fenced", RUN, "", task=f"{RUN}.4", message="token 4"),
]


def flat(tally: Tally) -> dict[str, object]:
    """Every series as plain numbers."""
    assert tally.meter is not None
    return {
        f"{name}{labels}": (value.counts, round(value.sum, 6)) if isinstance(value, Histogram) else value
        for name, series in tally.meter.values().items()
        for labels, value in series.items()
    }


def test_a_story_adds_up() -> None:
    tally = Tally(metered=True)
    tally.note(STORY)
    assert tally.totals == Totals(4, 3, 2, 1, 4, {"work": 1, "math:sqrt": 2})
    found = flat(tally)
    assert found["kubemin_tasks_total('failed',)"] == 3 and found["kubemin_tasks_total('completed',)"] == 1
    assert found["kubemin_task_failures_total('crash',)"] == 1 and found["kubemin_task_failures_total('exit',)"] == 1
    assert found["kubemin_runs_total('work', 'failed')"] == 1 and found["kubemin_runs_total('', 'completed')"] == 1
    assert found["kubemin_task_retries_total()"] == 2, "a step's and a single task's; a run that is retried is none"
    assert found["kubemin_tasks_requeued_total('drain',)"] == 1
    assert found["kubemin_tasks_recovered_total()"] == 1
    assert found["kubemin_tasks_quarantined_total()"] == 1 and found["kubemin_tasks_fenced_total()"] == 1
    assert found["kubemin_task_wait_seconds('work', 'load')"] == ([0] * 7 + [3] + [0] * 7, 6.0)
    assert found["kubemin_task_wait_seconds('', 'math:sqrt')"] == ([0] * 5 + [3] + [0] * 9, 0.6)


def test_what_processes_counted_is_added_up() -> None:
    """However it is cut up, and once each."""
    alone, whole = Tally(metered=True), Tally(metered=True)
    alone.note(STORY * 3)
    for _ in range(3):
        part = Tally(metered=True)
        part.note(STORY[:5])
        whole.add(part.packet())
        part.clear()
        assert part.empty
        part.note(STORY[5:])
        whole.add(part.packet())
    assert whole.totals == alone.totals
    assert flat(whole) == flat(alone)


def test_without_metrics_only_totals_travel() -> None:
    tally, other = Tally(metered=False), Tally(metered=True)
    tally.note(STORY)
    assert other.add(tally.packet()).finished == 4
    assert other.totals == tally.totals
    with pytest.raises(ValueError, match="cannot be read"):
        other.add(b"what?")


def test_the_number_of_series_is_bounded() -> None:
    tally, other = Tally(metered=True), Tally(metered=True)
    tally.note([single(function=f"mod:f{n}") for n in range(SERIES + 50)])
    assert tally.meter is not None and len(tally.meter.times) == SERIES + 1
    assert sum(tally.meter.times[OTHER, OTHER].counts) == 50
    other.note([single(function=f"mod:g{n}") for n in range(SERIES)])
    other.add(tally.packet())
    assert other.meter is not None and len(other.meter.times) == SERIES + 1


def test_failures_of_the_last_hour() -> None:
    history, totals = History(), Totals()
    for minute in range(3):
        totals.failures["load"] = minute + 1
        history.measure(totals, minute * STEP)
    assert history.failures() == {"load": 3}
    history.measure(totals, HOUR + STEP / 2)
    assert history.failures() == {"load": 2}, "the first is more than an hour old"
    history.measure(totals, 2 * HOUR)
    assert history.failures() == {}


@pytest.mark.parametrize("metered", [False, True])
def test_a_single_task_costs_a_worker_next_to_nothing(metered: bool) -> None:
    tally, told = Tally(metered=metered), [single()]
    cost = fastest(lambda: tally.note(told), 20_000)
    print(f"counting a single task, metrics {'on' if metered else 'off'}: {cost * 1e6:.2f} µs")
    assert cost < 2e-6  # promised: 1 µs on a machine of its own
