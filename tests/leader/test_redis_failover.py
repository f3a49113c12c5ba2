"""15: the Redis elector's server is lost, and a replica is promoted: with whole daemons, over Sentinel."""

from __future__ import annotations

import time

from support.topologies import Sentinels
from support.waiting import wait_until

from kubemin.store.redis import keys
from leader.daemons import Daemons, seconds


def test_a_leader_goes_on_or_is_followed_when_a_replica_takes_over() -> None:
    """What the replica knows of the lock decides; in the new server, too, one term alone is in force."""
    with Sentinels() as sentinels, Daemons(api=None, redisAddr=sentinels.address) as fleet:
        fleet.start()
        runs = fleet.begin_tasks()
        before = fleet.terms()[-1]["epoch"]
        sentinels.fail_over()
        at = time.time()

        def in_force() -> bool:
            if time.time() < at + seconds(fleet.election["leaseDuration"]):
                return False  # what was replicated lives so long
            name = fleet.leader()
            told = sentinels.replica.command("GET", keys.LEADER)
            return bool(name) and f" {name}_".encode() in told

        wait_until(in_force, 40, what="a leader by the new server's lock")
        print(f"{len(fleet.terms())} terms over a fail-over of Redis")
        assert fleet.terms()[-1]["epoch"] >= before
        assert int(sentinels.replica.command("GET", keys.EPOCH).split(b"\r\n")[1].split()[0]) == _newest(fleet)
        fleet.untouched(runs)
        fleet.check()


def _newest(fleet: Daemons) -> int:
    return int(max(one["epoch"] for one in fleet.terms()))
