"""When a schedule fires: cron expressions in a time zone, over changes of the clock (engine rule 22).

cronsim knows the calendar and is asked in plain local time only; what a local time means as an instant is decided here:

* a job at fixed hours fires once, the first time, at a local time that exists twice, and at the jump for one that
  does not exist;
* a job whose hour field begins with `*` goes on through the change, hour for hour, like UTC.

cronsim's own rule (Debian cron's) differs: it drops `*/15 2 * * *` in spring, fires it twice in autumn, leaves six
fields alone, and names the instant of a jump twice for `0 2,3 * * *`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from kubemin.clock import SECOND, Micros
from kubemin.model.graph import Schedule

NEVER: Micros = 253_402_300_799 * SECOND  # the last second that calendars know
_SECOND = timedelta(seconds=1)
_LOOK = timedelta(days=7)  # shorter than any pair of clock changes
_MAX_CRON = 256


def check_cron(expression: str) -> None:
    """Raises ValueError, saying what is wrong, unless the expression can be read and fires at some time."""
    if len(expression) > _MAX_CRON:
        raise ValueError(f"a cron expression has at most {_MAX_CRON} characters")
    if len(expression.split()) not in (5, 6):
        raise ValueError(f'"{expression}" is not a cron expression; write five fields, or six with seconds first')
    try:
        next(CronSim(expression, datetime(2000, 1, 1)))
    except StopIteration:
        raise ValueError(f'"{expression}" never fires; there is no such day') from None
    except (CronSimError, ValueError, TypeError, AssertionError) as exc:
        reason = f" ({exc})" if isinstance(exc, CronSimError) else ""
        raise ValueError(f'"{expression}" is not a cron expression{reason}; an example is 0 3 * * 1-5') from None


def check_timezone(name: str) -> None:
    """Raises ValueError unless there is such a time zone."""
    _zone(name)


def next_slot(schedule: Schedule, after: Micros) -> Micros:
    """The first slot later than `after`, or NEVER. Raises ValueError for a schedule that was not checked."""
    return next(_slots(schedule, after), NEVER)


def slots_between(schedule: Schedule, after: Micros, until: Micros, limit: int) -> list[Micros]:
    """The slots later than `after` and not later than `until`, rising, the first `limit` of them."""
    found: list[Micros] = []
    for slot in _slots(schedule, after):
        if slot > until or len(found) >= limit:
            break
        found.append(slot)
    return found


def _slots(schedule: Schedule, after: Micros) -> Iterator[Micros]:
    zone = _zone(schedule.timezone)
    start = datetime.fromtimestamp(after // SECOND, UTC)
    through = schedule.cron.split()[2 if len(schedule.cron.split()) == 6 else 1].startswith("*")
    instants = _through_changes if through else _at_fixed_hours
    try:
        for instant in instants(schedule.cron, zone, start):
            yield int(instant.timestamp()) * SECOND
    except OverflowError:  # past the year 9999
        return


def _at_fixed_hours(cron: str, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    last = after
    for local in CronSim(cron, _local(after, zone)):
        instant = _instant(local, zone)
        if instant > last:  # else it fired already: an hour that comes twice, or several slots in one jump
            yield instant
            last = instant


def _through_changes(cron: str, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """As if each span between two clock changes were a zone of its own, with a fixed offset."""
    position, local = after, _local(after, zone)
    while True:
        offset, change = _offset(position, zone), None
        for slot in CronSim(cron, local):
            instant = slot.replace(tzinfo=UTC) - offset
            change = _change(position, instant, zone)
            if change is not None:
                break
            yield instant
            position = instant
        if change is None:
            return
        position, local = change, _local(change, zone) - _SECOND  # the change itself may be a slot


def _change(since: datetime, until: datetime, zone: ZoneInfo) -> datetime | None:
    """The first instant in (since, until] at which the zone's offset changes."""
    offset = _offset(since, zone)
    while since < until:
        look = min(since + _LOOK, until)
        if _offset(look, zone) != offset:
            return _bisect(since, look, zone)
        since = look
    return None


def _bisect(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    offset = _offset(before, zone)
    while after - before > _SECOND:
        middle = before + timedelta(seconds=int((after - before).total_seconds()) // 2)
        if _offset(middle, zone) == offset:
            before = middle
        else:
            after = middle
    return after


def _instant(local: datetime, zone: ZoneInfo) -> datetime:
    """The first instant that a local time names; the jump for one that is skipped (PEP 495: fold 0: the old offset)."""
    aware = local.replace(tzinfo=zone)
    instant = aware.astimezone(UTC)
    if _local(instant, zone) == local:
        return instant
    return _bisect(aware.replace(fold=1).astimezone(UTC), instant, zone)


def _local(instant: datetime, zone: ZoneInfo) -> datetime:
    return instant.astimezone(zone).replace(tzinfo=None, fold=0)


def _offset(instant: datetime, zone: ZoneInfo) -> timedelta:
    offset = instant.astimezone(zone).utcoffset()
    assert offset is not None
    return offset


@lru_cache(maxsize=256)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        raise ValueError(f'there is no time zone "{name}"; an example is Europe/Berlin') from None
