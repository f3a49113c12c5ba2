"""Schedules over changes of the clock: engine rule 22, by the dates on which clocks really changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubemin.clock import SECOND, Micros
from kubemin.model.graph import Schedule
from kubemin.model.schedule import NEVER, check_cron, check_timezone, next_slot, slots_between

BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"
HOUR = 3600 * SECOND


def at(text: str) -> Micros:
    return int(datetime.fromisoformat(text).timestamp()) * SECOND


def fired(cron: str, zone: str, after: str, until: str) -> list[str]:
    """Slots as local time with offset."""
    slots = slots_between(Schedule(cron=cron, timezone=zone), at(after), at(until), 1000)
    return [datetime.fromtimestamp(slot // SECOND, ZoneInfo(zone)).strftime("%d %H:%M%z") for slot in slots]


SPRING = ("2026-03-28T12:00Z", "2026-03-30T12:00Z")  # Berlin: 02:00 -> 03:00 on the 29th
AUTUMN = ("2026-10-24T12:00Z", "2026-10-26T12:00Z")  # Berlin: 03:00 -> 02:00 on the 25th


@pytest.mark.parametrize(
    ("cron", "slots"),
    [
        ("30 2 * * *", ["29 03:00+0200", "30 02:30+0200"]),
        ("0 30 2 * * *", ["29 03:00+0200", "30 02:30+0200"]),
        ("*/15 2 * * *", ["29 03:00+0200"] + [f"30 02:{m}+0200" for m in ("00", "15", "30", "45")]),
        ("0 2,3 * * *", ["29 03:00+0200", "30 02:00+0200", "30 03:00+0200"]),
        ("0 3 * * *", ["29 03:00+0200", "30 03:00+0200"]),
    ],
)
def test_a_time_that_is_skipped_fires_at_the_jump(cron: str, slots: list[str]) -> None:
    assert fired(cron, BERLIN, *SPRING) == slots


@pytest.mark.parametrize(
    ("cron", "slots"),
    [
        ("30 2 * * *", ["25 02:30+0200", "26 02:30+0100"]),
        ("0 30 2 * * *", ["25 02:30+0200", "26 02:30+0100"]),
        ("*/30 2 * * *", ["25 02:00+0200", "25 02:30+0200", "26 02:00+0100", "26 02:30+0100"]),
        ("0 3 * * *", ["25 03:00+0100", "26 03:00+0100"]),
    ],
)
def test_a_time_that_exists_twice_fires_once(cron: str, slots: list[str]) -> None:
    assert fired(cron, BERLIN, *AUTUMN) == slots


@pytest.mark.parametrize("span", [SPRING, AUTUMN])
@pytest.mark.parametrize(("cron", "step"), [("0 * * * *", 60), ("*/15 * * * *", 15), ("0 */20 * * * *", 20)])
def test_star_hours_follow_utc(cron: str, step: int, span: tuple[str, str]) -> None:
    slots = slots_between(Schedule(cron=cron, timezone=BERLIN), at(span[0]), at(span[1]), 10_000)
    assert slots == list(range(at(span[0]) + step * 60 * SECOND, at(span[1]) + 1, step * 60 * SECOND))


def test_half_an_hour_of_change() -> None:
    assert fired("15 2 * * *", LORD_HOWE, "2026-10-03T12:00Z", "2026-10-04T15:00Z") == ["04 02:30+1100"]
    assert fired("45 1 * * *", LORD_HOWE, "2026-04-04T12:00Z", "2026-04-05T12:00Z") == ["05 01:45+1100"]
    # 02:00 falls back to 01:30: cronsim alone misses the 02:00 that follows
    assert fired("0 */2 * * *", LORD_HOWE, "2026-04-04T12:30Z", "2026-04-04T18:00Z") == [
        "05 00:00+1100", "05 02:00+1030", "05 04:00+1030"
    ]  # fmt: skip


def test_a_day_that_never_was() -> None:
    assert fired("0 12 30 12 *", "Pacific/Apia", "2011-12-28T00:00Z", "2012-01-02T00:00Z") == ["31 00:00+1400"]


def test_midnight_that_never_was() -> None:
    assert fired("0 0 * * *", "Africa/Cairo", "2026-04-23T12:00Z", "2026-04-24T12:00Z") == ["24 01:00+0300"]
    assert fired("0 * * * *", "Africa/Cairo", "2026-04-23T20:30Z", "2026-04-23T23:30Z") == [
        "23 23:00+0200", "24 01:00+0300", "24 02:00+0300"
    ]  # fmt: skip


def test_within_the_hour_that_comes_twice() -> None:
    schedule = Schedule(cron="45 2 * * *", timezone=BERLIN)
    first, second = at("2026-10-25T02:45+02:00"), at("2026-10-25T02:30+01:00")
    assert next_slot(schedule, first - 1) == first
    assert next_slot(schedule, first) == at("2026-10-26T02:45+01:00")
    assert next_slot(schedule, second) == at("2026-10-26T02:45+01:00")


def test_a_slot_is_later_than_what_it_comes_after() -> None:
    schedule = Schedule(cron="0 3 * * *")
    slot = at("2026-01-01T03:00Z")
    assert next_slot(schedule, slot - 1) == slot
    assert next_slot(schedule, slot) == next_slot(schedule, slot + 1) == slot + 24 * HOUR
    assert slots_between(schedule, slot - 1, slot, 5) == [slot]
    assert slots_between(schedule, slot, slot + 24 * HOUR - 1, 5) == []


def test_seconds_come_first() -> None:
    schedule = Schedule(cron="5 0 3 * * *")
    assert next_slot(schedule, at("2026-01-01T00:00Z")) == at("2026-01-01T03:00:05Z")


def test_the_end_of_time() -> None:
    assert next_slot(Schedule(cron="0 0 * * *"), NEVER) == NEVER
    assert next_slot(Schedule(cron="0 0 * * *", timezone=BERLIN), NEVER - 1) == NEVER
    assert next_slot(Schedule(cron="0 * * * *", timezone=BERLIN), NEVER - 1) == NEVER


@pytest.mark.parametrize("cron", ["", "@daily", "* * * *", "* * * * * * *", "60 * * * *", "0 0 30 2 *", "a b c d e",
                                  "1L/2 * * * *", "0 0 * * 5L/2", "0 0 29 2 1#6", "9" * 300])  # fmt: skip
def test_bad_cron(cron: str) -> None:
    with pytest.raises(ValueError, match=r"cron expression|never fires"):
        check_cron(cron)


@pytest.mark.parametrize(
    "cron", ["0 3 * * *", "0 0 29 2 *", "*/5 * * * * *", "0 0 L * *", "0 9 * * MON-FRI", "0 0 * * 5L"]
)
def test_good_cron(cron: str) -> None:
    check_cron(cron)


@pytest.mark.parametrize(
    "name", ["", "Mars/Olympus", "Europe", "../etc/passwd", "/etc/localtime", "a\0b", "Europe/Berlin\n"]
)
def test_bad_timezone(name: str) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        check_timezone(name)


@given(st.text(max_size=40))
def test_any_cron_text(text: str) -> None:
    try:
        check_cron(text)
    except ValueError as problem:
        assert "\n" not in str(problem) or "\n" in text


minutes = st.sampled_from(["0", "30", "15", "*/15", "5,35", "*", "59", "10-12"])
hours = st.sampled_from(["*", "2", "1,2,3", "*/2", "0", "23", "1-3", "0-23", "3"])
days = st.sampled_from(["* * *", "1 * *", "* * 0", "* 3,10 *", "29 2 *", "* 4,10 SUN"])
crons = st.builds(
    lambda s, m, h, d: f"{s} {m} {h} {d}".strip(), st.sampled_from(["", "0", "7,30"]), minutes, hours, days
)
zones = st.sampled_from([BERLIN, NEW_YORK, LORD_HOWE, "UTC"])
instants = st.one_of(
    st.datetimes(datetime(2020, 1, 1), datetime(2032, 1, 1)),
    # Near changes of the clock, where it matters.
    st.builds(
        lambda day, minutes: day + timedelta(minutes=minutes),
        st.sampled_from([datetime(2026, 3, 29, 1), datetime(2026, 10, 25, 1), datetime(2026, 3, 8, 7),
                         datetime(2026, 11, 1, 6), datetime(2026, 4, 4, 15), datetime(2026, 10, 3, 15, 30)]),
        st.integers(-200, 200),
    ),
).map(lambda moment: int(moment.replace(tzinfo=UTC).timestamp() * SECOND))  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(crons, zones, instants)
def test_slots_rise_and_agree(cron: str, zone: str, after: Micros) -> None:
    schedule = Schedule(cron=cron, timezone=zone)
    slots = slots_between(schedule, after, NEVER, 12)
    assert all(later > earlier for earlier, later in zip([after, *slots], slots, strict=False))
    position = after
    for slot in slots:
        assert next_slot(schedule, position) == slot == next_slot(schedule, slot - 1)
        position = slot
    middle = slots[len(slots) // 2]
    assert slots_between(schedule, after, middle, 100) == slots[: slots.index(middle) + 1]


@settings(max_examples=200, deadline=None)
@given(crons, zones, instants)
def test_no_local_minute_fires_twice_at_fixed_hours(cron: str, zone: str, after: Micros) -> None:
    fields = cron.split()
    if fields[-4].startswith("*"):
        return
    slots = slots_between(Schedule(cron=cron, timezone=zone), after, after + 48 * HOUR, 500)
    local = [datetime.fromtimestamp(slot // SECOND, ZoneInfo(zone)).replace(tzinfo=None, fold=0) for slot in slots]
    assert len(set(local)) == len(local)


@settings(max_examples=200, deadline=None)
@given(crons, instants)
def test_in_utc_it_is_plain_cron(cron: str, after: Micros) -> None:
    from cronsim import CronSim

    expected = next(CronSim(cron, datetime.fromtimestamp(after // SECOND, UTC)))
    assert next_slot(Schedule(cron=cron), after) == int(expected.timestamp()) * SECOND
