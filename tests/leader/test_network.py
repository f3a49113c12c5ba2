"""API servers and networks that fail: scenarios 4, 5, 7 and 13, with real nodes, real sockets and a server in its own
process."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.apiserver import ApiServer
from support.faultproxy import FaultProxy
from support.waiting import wait_until

from kubemin.clock import boottime
from leader.fleet import Fleet

StartFleet = Callable[..., Fleet]


def wait_struck(api: ApiServer, kind: str, count: int = 1) -> None:
    wait_until(lambda: api.struck(kind) >= count, 15, what=f"{count} requests hit by {kind!r}")


@pytest.mark.parametrize("how", ["hole", "refuse", "half-open"])
def test_the_leader_alone_is_cut_off(api: ApiServer, start_fleet: StartFleet, how: str) -> None:
    """Its term ends by itself before another's begins, whether its requests are refused or hang."""
    with FaultProxy(api.port) as proxy:
        fleet = start_fleet("ab", api=api, kubeconfig=lambda name: _path(api, name, proxy), started=False)
        fleet["a"].start()
        fleet.wait_leader()
        fleet["b"].start()
        fleet.wait_event("follower", node="b")
        at = boottime()
        proxy.cut(how)
        if how == "half-open":  # the next connection works: the request that hung costs its time-out, not the term
            fleet.wait_effects(20)
            fleet.check()
            return
        fleet.wait_leader(after=at, but="a")
        lost = fleet.wait_event("lost", node="a", after=at)
        assert lost["at"] - at < fleet.election["renew_deadline"] + 1.0
        took = fleet.failover(at)
        print(f"fail-over of a leader that was cut off ({how}): {took:.2f} s")
        assert took < fleet.bound
        proxy.heal()
        fleet.wait_event("outage over", node="a")
        assert len(fleet.events("outage", node="a")) == 1, "told once"
        fleet.check()


def _path(api: ApiServer, name: str, proxy: FaultProxy) -> object:
    return api.kubeconfig(name, port=proxy.port if name == "a" else None)


def test_the_server_hangs(api: ApiServer, start_fleet: StartFleet) -> None:
    """Nobody leads while it hangs for longer than the term, and somebody does soon after."""
    fleet = start_fleet("abc", api=api)
    old = fleet.wait_leader()
    at = boottime()
    api.pause()
    lost = fleet.wait_event("lost", node=old.name, after=at)
    assert lost["at"] - at < fleet.election["renew_deadline"] + 1.0
    wait_until(lambda: boottime() - at > 3.0, 20)
    api.resume()
    back = boottime()
    fleet.wait_leader(after=at)
    took = max(fleet.failover(at) + at - back, 0.0)
    print(f"leading again {took:.2f} s after a server that hung answers")
    assert took < fleet.bound
    fleet.check()


def test_the_server_is_killed_and_restarted(api: ApiServer, start_fleet: StartFleet) -> None:
    """Within the term: the leader stays. The outage is told once at its start and once at its end."""
    fleet = start_fleet("ab", api=api, election={"lease_duration": 6.0, "renew_deadline": 4.0, "retry_period": 0.2})
    leader = fleet.wait_leader()
    api.kill()
    fleet.wait_event("outage", node=leader.name)
    api.start()
    fleet.wait_event("outage over", node=leader.name)
    fleet.wait_effects()
    assert len(fleet.events("leader")) == 1
    assert len(fleet.events("outage", node=leader.name)) == 1
    fleet.check()


@pytest.mark.parametrize(
    "order",
    [
        {"kind": "status", "status": 429, "retry_after": 30},
        {"kind": "status", "status": 500},
        {"kind": "status", "status": 503},
        {"kind": "drop"},
        {"kind": "drip", "seconds": 0.3},
    ],
    ids=["429", "500", "503", "drop", "drip"],
)
def test_a_burst_within_the_term_costs_nothing(
    api: ApiServer, start_fleet: StartFleet, order: dict[str, object]
) -> None:
    """Also with Retry-After: 30, which a leader cannot wait for, and a body that drips past every time-out of a
    socket."""
    fleet = start_fleet("a", api=api, election={"lease_duration": 6.0, "renew_deadline": 4.0, "retry_period": 0.2})
    fleet.wait_leader()
    kind = str(order["kind"])
    api.fault(**order, count=1 if kind == "drip" else 4)
    wait_struck(api, kind, 1 if kind == "drip" else 4)
    fleet.wait_event("outage over")
    fleet.wait_effects()
    assert len(fleet.events("leader")) == 1
    fleet.check()


def test_a_storm_of_conflicts(api: ApiServer, start_fleet: StartFleet) -> None:
    """A 409 is no loss while the record is the leader's; and it is not answered by a storm of requests."""
    fleet = start_fleet("a", api=api, election={"lease_duration": 6.0, "renew_deadline": 4.0, "retry_period": 0.2})
    fleet.wait_leader()
    api.fault("status", status=409, methods=["PUT"], count=8)
    wait_struck(api, "status", 8)
    fleet.wait_effects()
    assert len(fleet.events("leader")) == 1
    fleet.check()


def test_a_write_that_landed_and_was_not_answered(api: ApiServer, start_fleet: StartFleet) -> None:
    """Renewals and the acquisition: the 409 that follows is our own doing."""
    fleet = start_fleet("a", api=api, started=False)
    api.fault("lose", methods=["POST"], count=1)
    fleet["a"].start()
    fleet.wait_leader()
    assert [one["epoch"] for one in fleet.events("leader")] == [2], (
        "its own acquisition that nobody heard of is one, too"
    )
    api.fault("lose", methods=["PUT"], count=3)
    wait_struck(api, "lose", 4)
    fleet.wait_effects()
    assert len(fleet.events("leader")) == 1
    fleet.check()


def test_an_answer_after_the_term_revives_nothing(api: ApiServer, start_fleet: StartFleet) -> None:
    """The renewal lands and is answered when the term is over: this node is not the leader until it acquires again."""
    fleet = start_fleet("ab", api=api)
    old = fleet.wait_leader()
    at = boottime()
    api.fault("late", seconds=1.8, methods=["PUT"], client=old.name, count=1)
    lost = fleet.wait_event("lost", node=old.name, after=at)
    fleet.wait_leader(after=lost["at"])
    quiet = [one for one in fleet.ledger.effects() if lost["at"] < one["checked"] < lost["at"] + 0.001]
    assert not quiet
    fleet.wait_effects()
    fleet.check()
