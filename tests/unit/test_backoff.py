"""The pauses of the client of Redis: bounded, jittered, and not forgotten when something succeeds in between."""

from __future__ import annotations

import pytest

from kubemin.store.redis import backoff
from kubemin.store.redis.backoff import CALM_SECONDS, FIRST_PAUSE, LONGEST_PAUSE, Backoff


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(backoff, "clock", made)
    return made


def test_pauses_double_up_to_a_bound_and_end(time: Time) -> None:
    pauses = Backoff()
    assert pauses.left() == 0.0
    longest = FIRST_PAUSE
    for _ in range(12):
        pauses.failed()
        assert longest / 2 <= pauses.left() <= longest
        time.now += pauses.left()
        assert pauses.left() == 0.0
        longest = min(longest * 2, LONGEST_PAUSE)
    assert longest == LONGEST_PAUSE


def test_a_calm_time_or_a_reset_begins_again(time: Time) -> None:
    pauses = Backoff()
    for _ in range(12):
        pauses.failed()
    time.now += CALM_SECONDS + 0.1
    pauses.failed()
    assert pauses.left() <= FIRST_PAUSE
    for _ in range(12):
        pauses.failed()
    pauses.reset()
    assert pauses.left() == 0.0
    pauses.failed()
    assert pauses.left() <= FIRST_PAUSE


def test_many_that_fail_together_do_not_come_back_together(time: Time) -> None:
    clients = [Backoff() for _ in range(1000)]
    for _ in range(12):
        for each in clients:
            each.failed()
    left = sorted(each.left() for each in clients)
    crowd = max(sum(at <= one < at + 0.1 for one in left) for at in left)
    assert crowd < 200, f"{crowd} of 1000 within a tenth of a second"
