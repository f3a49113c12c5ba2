"""Which of a schedule's due slots are fired: `kubemin/leader/schedule.py`."""

from __future__ import annotations

import pytest

from kubemin.clock import SECOND
from kubemin.leader.schedule import SLOTS_A_CALL, wanted_slots
from kubemin.model.graph import Schedule

HOUR = 3600 * SECOND
NOW = 1_000 * HOUR
OLD = [NOW - 3 * HOUR, NOW - 2 * HOUR, NOW - HOUR]
FRESH = [NOW - 10 * SECOND]


@pytest.mark.parametrize(
    ("missed", "slots", "fired"),
    [
        ("skip", OLD + FRESH, FRESH),
        ("skip", OLD, []),
        ("once", OLD, OLD[-1:]),
        ("once", OLD + FRESH, FRESH),
        ("all", OLD + FRESH, OLD + FRESH),
        ("skip", FRESH, FRESH),
    ],
)
def test_missed_policy(missed: str, slots: list[int], fired: list[int]) -> None:
    assert wanted_slots(Schedule(cron="0 * * * *", missed=missed, grace=300), slots, NOW, all_seen=True) == fired


def test_once_waits_for_the_end_of_a_long_gap() -> None:
    slots = [NOW - (SLOTS_A_CALL * 2 - n) * HOUR for n in range(SLOTS_A_CALL)]
    assert wanted_slots(Schedule(cron="0 * * * *", missed="once"), slots, NOW, all_seen=False) == []
