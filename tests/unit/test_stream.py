"""When a worker of a fleet lets short tasks gather, and for how long."""

from __future__ import annotations

import pytest

from kubemin.worker.fleet.stream import LOOKS, MOST_MILLIS, STREAM_SECONDS, Stream


@pytest.fixture
def flowing() -> Stream:
    stream = Stream()
    stream.popped(STREAM_SECONDS / 2)
    return stream


def test_a_task_that_comes_alone_is_no_stream() -> None:
    stream = Stream()
    stream.popped(STREAM_SECONDS * 2)
    stream.claimed(64, 1)
    assert not stream.flows
    assert not stream.gathers


def test_it_ends_after_looks_in_vain(flowing: Stream) -> None:
    for _ in range(LOOKS):
        assert flowing.flows
        flowing.looked(0)
    assert not flowing.flows


def test_a_look_that_finds_something_lets_it_go_on(flowing: Stream) -> None:
    for _ in range(3 * LOOKS):
        flowing.looked(0)
        flowing.looked(1)
    assert flowing.flows


def test_the_more_come_the_longer_it_sleeps_up_to_a_limit(flowing: Stream) -> None:
    slept = []
    for found in (1, 2, 3, 60):
        flowing.claimed(64, found)
        slept.append(flowing.millis)
    assert slept == [1, 2, 3, MOST_MILLIS]


def test_in_vain_it_looks_less_often(flowing: Stream) -> None:
    flowing.claimed(64, 1)
    slept = []
    for _ in range(4):
        slept.append(flowing.millis)
        flowing.looked(0)
    assert slept == [1, 2, 4, MOST_MILLIS]
    flowing.claimed(64, 1)
    assert flowing.millis == 1


def test_a_backlog_is_taken_as_it_stands(flowing: Stream) -> None:
    flowing.claimed(64, 64)
    assert flowing.flows
    assert not flowing.gathers
    flowing.claimed(64, 63)
    assert flowing.gathers


def test_a_report_that_claims_nothing_leaves_all_to_gather(flowing: Stream) -> None:
    flowing.claimed(64, 10)
    flowing.claimed(0, 0)
    assert flowing.gathers
    assert flowing.millis == MOST_MILLIS


def test_a_rehearsal_sleeps_for_none() -> None:
    """It stands before the forks: what it sleeps, every start of a daemon takes longer."""
    stream = Stream(most_millis=0)
    stream.popped(0)
    assert stream.flows and stream.millis == 0
    for found in (1, 64, 0, 0):
        stream.claimed(64, found)
        stream.looked(found)
        assert stream.millis == 0
