"""Schedules over a change to and from summer time, in a fleet that loses its leader then: each slot fires once.

All time in a fleet is Redis' own, so it is Redis that believes in such a night here (a library before the C library).
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.preload import wall_clock
from support.waiting import wait_until

from leader.daemons import Daemons

SCHEDULE = """\
name: {name}
schedule: {{cron: "{cron}", timezone: Europe/Berlin, missed: all}}
steps:
  - {{name: effect, run: ["true"]}}
"""
STEP = 2  # seconds between the slots that go through the change
LEAD = 10  # seconds from the start of the fleet to the change
AFTER = timedelta(seconds=4)
SPRING, AUTUMN = datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("change", "cron", "fires"),
    [
        pytest.param(SPRING, "30 30 2 * * *", [SPRING], id="a time that does not exist fires at the jump"),
        pytest.param(AUTUMN, f"*/{STEP} 0 2 * * *", [], id="times that come again have fired an hour ago"),
    ],
)
def test_each_slot_once_over_a_change_of_the_clock(change: datetime, cron: str, fires: list[datetime]) -> None:
    with Daemons(api=None) as fleet:
        for daemon in fleet.nodes.values():
            daemon.workflow("through.yaml", SCHEDULE.format(name="through", cron=f"*/{STEP} * * * * *"))
            daemon.workflow("fixed.yaml", SCHEDULE.format(name="fixed", cron=cron))
        _set_redis(fleet, change)
        fleet.start()
        at = time.time()
        fleet.nodes["a"].kill9(everything=True)
        fleet.wait_leader(but="a", after=at)
        wait_until(lambda: _slots(fleet, "through")[-1:] > [change + AFTER], 60, what="slots after the change")
        through = _slots(fleet, "through")
        assert through[0] < change
        assert through == [through[0] + timedelta(seconds=STEP * n) for n in range(len(through))]
        assert _slots(fleet, "fixed") == fires
        fleet.check()


def _set_redis(fleet: Daemons, change: datetime) -> None:
    """A server that believes it to be a few seconds before the change."""
    folder = Path(fleet.redis.folder)
    fleet.redis.stop()
    fleet.redis.environ = wall_clock(folder, folder / "clock")
    (folder / "clock").write_text(str(int(change.timestamp() - time.time()) - LEAD))
    fleet.redis.start()


def _slots(fleet: Daemons, workflow: str) -> list[datetime]:
    views = fleet.nodes["b"].client.runs(workflow=workflow, limit=1000)
    return sorted(datetime.fromisoformat(view.scheduled_at) for view in views if view.scheduled_at)
