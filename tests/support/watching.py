"""What a daemon's scoreboard shows, as tests wait for it; and the figures that promises are held against."""

from __future__ import annotations

import time

from kubemin.scoreboard import CoordinatorRecord, Scoreboard, SlotRecord, SlotState
from support.daemon import Daemon
from support.waiting import wait_until

SLOTS = 8


def slots(daemon: Daemon) -> list[SlotRecord]:
    """Of all workers that live."""
    board = Scoreboard.open(str(daemon.run / "scoreboard"))
    records = [record for n in range(SLOTS) if (record := board.read_slot(n)) is not None]
    board.close()
    return [record for record in records if record.state is not SlotState.DEAD and record.pid]


def coordinator(daemon: Daemon) -> CoordinatorRecord | None:
    board = Scoreboard.open(str(daemon.run / "scoreboard"))
    record = board.read_coordinator()
    board.close()
    return record


def look(daemon: Daemon, run: str, beyond: int = 0) -> SlotRecord | None:
    """The slot that runs this run with a token above `beyond`, if one does."""
    running = (record for record in slots(daemon) if record.state is SlotState.RUNNING)
    return next((record for record in running if record.run == run and record.token > beyond), None)


def running(daemon: Daemon, run: str, beyond: int = 0, timeout: float = 10.0) -> SlotRecord:
    """The same, as soon as there is one."""
    return wait_until(lambda: look(daemon, run, beyond), timeout, what=f"run {run} on a worker")


def coordinator_pid(daemon: Daemon, but: int = 0) -> int:
    """Of one that is ready, and is not the one named."""

    def found() -> int:
        record = coordinator(daemon)
        return record.pid if record is not None and record.ready and record.pid != but else 0

    return wait_until(found, 10, what="a coordinator")


def printed(what: str, began: float, limit: float) -> None:
    """Print how long it took since the monotonic instant `began`, and hold it against the promise."""
    seconds = time.monotonic() - began
    print(f"{what}: {seconds:.3f} s (promised {limit:g} s)")
    assert seconds < limit, f"{what}: {seconds:.3f} s"
