"""Tasks that come one by one, faster than each is waited for: their worker lets them gather (fleet/stream.py)."""

from __future__ import annotations

import time

from nodes import Fleet
from support import Daemon

WINDOW = 300  # tasks between two looks at the server's counts
APART = 0.0006  # seconds from task to task: a worker that waits for each is done with it before the next comes
MOST_CALLS = 0.7  # of the server by the worker, for each task; 2 to 3 where each is waited for, claimed and reported


def test_they_are_claimed_together(fleet: Fleet) -> None:
    """On a busy machine a window may have no stream: one that has it shows it."""
    daemon = fleet.node(maxWorkers=1)
    daemon.client.enqueue("fleetfunctions:token").wait(20)
    deadline = time.monotonic() + 20
    found = [_calls_of_a_window(fleet, daemon)]
    while min(found) > MOST_CALLS and time.monotonic() < deadline:
        found.append(_calls_of_a_window(fleet, daemon))
    print(f"calls of the server by the worker for each task of a stream: {min(found):.2f}")
    assert min(found) <= MOST_CALLS, found


def _calls_of_a_window(fleet: Fleet, daemon: Daemon) -> float:
    before, runs, due = _calls(fleet), [], time.monotonic()
    for _ in range(WINDOW):
        while time.monotonic() < due:
            pass
        runs.append(daemon.client.enqueue("fleetfunctions:token"))
        due = max(due + APART, time.monotonic())
    after = _calls(fleet)
    assert set(daemon.client.wait(runs, 20).values()) == {"completed"}
    return (after - before - WINDOW) / WINDOW  # each submission is a script as well


def _calls(fleet: Fleet) -> int:
    """Scripts and waits."""
    told = fleet.server.command("INFO", "commandstats").decode().splitlines()
    wanted = ("cmdstat_evalsha:", "cmdstat_blpop:")
    return sum(int(line.partition("calls=")[2].partition(",")[0]) for line in told if line.startswith(wanted))
