"""Three whole daemons: a schedule of one-second slots under kills of its leaders, and fail-over times.

`--leader-seconds 3600` makes the first an hour long; `--leader-trials 20` measures fail-overs with the contract's
15 s / 10 s / 2 s (without it: three with short leases).
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from support.waiting import wait_until

from kubemin.coordinator.fleet.office import WISH_SECONDS
from leader.daemons import FULL, PATIENT, Daemons, freeze, thaw

SEED = int(os.environ.get("KUBEMIN_TEST_SEED", "20261124"))
TICK = """\
name: tick-{missed}
schedule: {{cron: "* * * * * *", missed: {missed}}}
steps:
  - {{name: effect, run: ["true"]}}
"""
MISSED = ("all", "skip")
Begin = Callable[..., Daemons]


class Kills:
    """One blow after the other against whoever leads; what it broke stands again afterwards."""

    def __init__(self, fleet: Daemons, chance: random.Random) -> None:
        self.fleet, self.chance = fleet, chance
        self.kinds = ("node", "coordinator", "stop", "freeze", "step_down")
        self.count = 0

    def strike(self) -> None:
        name = wait_until(self.fleet.leader, 60, what="a leader to be struck")
        at = time.time()
        kind = self.chance.choice(self.kinds)
        print(f"{datetime.now(UTC):%H:%M:%S} {kind} {name}", flush=True)
        getattr(self, kind)(name)
        self.fleet.wait_leader(after=at, timeout=60)
        self.count += 1

    def node(self, name: str) -> None:
        daemon = self.fleet.nodes[name]
        daemon.kill9(everything=True)
        daemon.start(ready=False)

    def coordinator(self, name: str) -> None:
        from kubemin.scoreboard import Scoreboard

        record = Scoreboard.open(str(self.fleet.nodes[name].run / "scoreboard")).read_coordinator()
        if record is not None and record.pid:
            os.kill(record.pid, signal.SIGKILL)

    def stop(self, name: str) -> None:
        self.fleet.nodes[name].stop()
        self.fleet.nodes[name].start(ready=False)

    def freeze(self, name: str) -> None:
        """For longer than the lease: another leads when it wakes."""
        at, tree = time.time(), freeze(self.fleet.nodes[name])
        try:
            self.fleet.wait_leader(but=name, after=at, timeout=60)
        finally:
            thaw(tree)

    def step_down(self, name: str) -> None:
        self.fleet.nodes[name].ctl("leader", "--step-down")


def test_each_slot_fires_once_under_kills_of_the_leader(begin: Begin, leader_seconds: float) -> None:
    """`missed: all`: exactly once; else at most once."""
    fleet = begin()
    for daemon in fleet.nodes.values():
        for missed in MISSED:
            daemon.workflow(f"tick-{missed}.yaml", TICK.format(missed=missed))
    fleet.start()
    kills = Kills(fleet, random.Random(SEED))
    until = time.monotonic() + leader_seconds
    while time.monotonic() < until:
        fired = len(slots(fleet, "all"))
        wait_until(lambda fired=fired: len(slots(fleet, "all")) >= fired + 2, 60, what="two slots")
        kills.strike()
    quiet = datetime.now(UTC).replace(microsecond=0)
    wait_until(lambda: slots(fleet, "all")[-1:] > [quiet + timedelta(seconds=2)], 60, what="the schedule to catch up")

    for missed in MISSED:
        fired = slots(fleet, missed)
        assert len(fired) == len(set(fired)), f"{missed}: a slot fired twice"
    fired = slots(fleet, "all")
    wanted = [fired[0] + timedelta(seconds=n) for n in range(len(fired))]
    assert fired == wanted, f"slots are missing: {sorted(set(wanted) - set(fired))[:5]}"
    fleet.check()
    print(f"seed {SEED}: {len(fired)} slots, each once; {kills.count} blows, {len(fleet.terms())} terms")


def slots(fleet: Daemons, missed: str) -> list[datetime]:
    client = next(iter(fleet.nodes.values())).client
    views = client.runs(workflow=f"tick-{missed}", limit=100_000)
    return sorted(datetime.fromisoformat(view.scheduled_at) for view in views if view.scheduled_at)


def test_fail_over_times(begin: Begin, leader_trials: int) -> None:
    """A leader that is killed with all its processes; what runs elsewhere goes on."""
    fleet = begin(**{"election": FULL} if leader_trials else {}).start()
    took = []
    for _ in range(leader_trials or 2):
        name = wait_until(fleet.leader, 60, what="a leader")
        at = time.time()
        fleet.nodes[name].kill9(everything=True)
        took.append(fleet.wait_leader(but=name, after=at, timeout=60)["at"] - at)
        print(f"fail-over after SIGKILL: {took[-1]:.2f} s", flush=True)
        fleet.nodes[name].start(ready=False)
        fleet.wait_event(f"Node {name} is follower", node=name, after=at)
    fleet.check()
    worst = sorted(took)[-1]  # of up to a hundred trials the 99th percentile
    print(
        f"{len(took)} trials: p99 {worst:.2f} s, median {sorted(took)[len(took) // 2]:.2f} s, bound {fleet.bound:g} s"
    )
    assert worst <= fleet.bound


def test_hand_over_times(begin: Begin, leader_trials: int) -> None:
    """Within 3 s, and the steps that run on every node finish untouched. Who takes over from a step-down is stopped at
    once: two of the three nodes have just given the lease up."""
    fleet = begin(**{"election": FULL} if leader_trials else {}, gracefulTimeout="60s").start()
    for _ in range(max(leader_trials // 4, 1)):
        for how in ("--step-down", "SIGTERM"):
            name = wait_until(fleet.leader, 60, what="a leader")
            runs = fleet.begin_tasks()
            took = _hand_over(fleet, name, how)
            print(f"hand-over by {how}: {took:.2f} s", flush=True)
            assert took <= 3.0
            fleet.untouched(runs)
            if how == "SIGTERM":
                assert fleet.nodes[name].wait(90) == 0
                fleet.nodes[name].start()
    fleet.check()


RARE = {"leaseDuration": "60s", "renewDeadline": "40s", "retryPeriod": "20s"}


def test_a_hand_over_does_not_wait_for_the_next_look(begin: Begin) -> None:
    """Candidates that would ask 20 s later are told through Redis; and so is the node that has just stepped down."""
    fleet = begin(election=RARE).start()
    for how in ("--step-down", "SIGTERM"):
        took = _hand_over(fleet, wait_until(fleet.leader, 60, what="a leader"), how)
        print(f"hand-over by {how}: {took:.2f} s")
        assert took <= 3.0
    fleet.check()


def test_a_leader_that_dies_before_it_could_tell_of_its_release(begin: Begin) -> None:
    """The others look by themselves: the lease is free, and not to be waited out."""
    fleet = begin(election=PATIENT, fault="leader.released=kill").start()
    at = time.time()
    assert fleet.nodes["a"].ctl("leader", "--step-down").code == 0
    given_up = fleet.wait_event("leadership given up", node="a", after=at)
    took = fleet.wait_leader(after=at)["at"] - given_up["at"]
    assert Path(f"{fleet.redis.folder}/struck.leader.released").exists()
    assert took <= 3.0
    fleet.check()


def _hand_over(fleet: Daemons, name: str, how: str) -> float:
    """Seconds until another leads. A wish is seen within half a second; `kubeminctl`'s start is not counted."""
    at = time.time()
    if how == "SIGTERM":
        fleet.nodes[name].send(signal.SIGTERM)
        return float(fleet.wait_leader(but=name, after=at)["at"] - at)
    assert fleet.nodes[name].ctl("leader", how).code == 0
    given_up = fleet.wait_event("leadership given up", node=name, after=at)
    return float(fleet.wait_leader(but=name, after=at)["at"] - given_up["at"] + WISH_SECONDS)
