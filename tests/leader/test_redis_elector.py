"""The Redis elector: scenario 15, with a real redis-server and the store's own client; and the agreement on one
backend."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest
from support.apiserver import ApiServer
from support.waiting import wait_until

from kubemin.clock import boottime
from kubemin.leader.lease.base import Claim, Conflict, Misconfigured, Missing, Unanswered
from kubemin.leader.lease.caller import FLEET_KEYS, StoreCaller
from kubemin.leader.lease.redis import Agreement, RedisLease
from kubemin.store.redis.address import parse
from leader.fleet import Fleet, vanish
from leader.ledger import RedisProcess

StartFleet = Callable[..., Fleet]


@pytest.fixture
def lease_redis() -> Iterator[RedisProcess]:
    server = RedisProcess()
    yield server
    server.close()


def connect(server: RedisProcess) -> StoreCaller:
    return StoreCaller(parse(f"unix://{server.socket}"))


@pytest.fixture
def lock(lease_redis: RedisProcess) -> RedisLease:
    return RedisLease(lambda: connect(lease_redis), FLEET_KEYS, 15.0)


def claim(holder: str, transitions: int = 0) -> Claim:
    return Claim(holder, 15.0, transitions, 1_700_000_000_123_456)


# --- the scripts ------------------------------------------------------------------------------------------------------


def test_acquired_by_one_renewed_and_released_by_its_owner(lock: RedisLease) -> None:
    assert lock.read(3) is None
    mine = lock.acquire(None, claim("a"), 3)
    assert (mine.holder, mine.transitions) == ("a", 0)
    with pytest.raises(Conflict):
        lock.acquire(None, claim("b"), 3)
    seen = lock.read(3)
    assert seen is not None and seen.holder == "a" and 14 < (seen.expires_in or 0) <= 15
    assert lock.renew(mine, 0, 3).transitions == 0
    lock.release(mine, 0, 3)
    assert (lock.read(3) or mine).holder == ""
    theirs = lock.acquire(None, claim("b"), 3)
    assert theirs.transitions == 1
    for act in (lock.renew, lock.release):
        with pytest.raises(Conflict):
            act(mine, 0, 3)


def test_each_acquisition_has_a_higher_epoch_above_what_the_store_says(lock: RedisLease) -> None:
    first = lock.acquire(None, claim("a"), 3)
    again = lock.acquire(None, claim("a"), 3)
    assert again.transitions == first.transitions + 1
    with pytest.raises(Conflict):
        lock.renew(first, 0, 3)  # an old term of the same process
    assert lock.acquire(None, claim("a", 40), 3).transitions == 40
    assert lock.acquire(None, claim("a"), 3).transitions == 41


def test_a_lock_that_is_gone_is_no_longer_ours(lock: RedisLease, lease_redis: RedisProcess) -> None:
    mine = lock.acquire(None, claim("a"), 3)
    connect(lease_redis).call("redis.call('FLUSHALL')", [], [], 3)
    with pytest.raises(Missing):
        lock.renew(mine, 0, 3)


def test_keys_that_somebody_else_wrote(lock: RedisLease, lease_redis: RedisProcess) -> None:
    caller = connect(lease_redis)
    caller.call("redis.call('SET', KEYS[1], 'what?')", [FLEET_KEYS.lock], [], 3)
    with pytest.raises(Misconfigured, match="delete it"):
        lock.read(3)
    caller.call("redis.call('SET', KEYS[1], '3 0 x')", [FLEET_KEYS.lock], [], 3)
    with pytest.raises(Misconfigured, match="no life time"):
        lock.read(3)


def test_a_server_that_is_away_is_an_outage(lock: RedisLease, lease_redis: RedisProcess) -> None:
    lease_redis.stop()
    with pytest.raises(Unanswered):
        lock.read(3)


def test_one_backend_for_the_fleet(lease_redis: RedisProcess) -> None:
    agreement = Agreement(lambda: connect(lease_redis), FLEET_KEYS.backend)
    agreement.check("Lease min-cli-system/apiserver-lock", 3)
    agreement.check("Lease min-cli-system/apiserver-lock", 3)
    with pytest.raises(Misconfigured, match="elects its leader by Lease min-cli-system/apiserver-lock"):
        agreement.check("Redis lock x", 3)


# --- fleets -----------------------------------------------------------------------------------------------------------


def test_fail_over_and_hand_over(start_fleet: StartFleet) -> None:
    fleet = start_fleet("abc")
    old = fleet.wait_leader()
    at = vanish(old)
    new = fleet.wait_leader(after=at, but=old.name)
    took = fleet.failover(at)
    print(f"Redis elector, fail-over after SIGKILL: {took:.2f} s")
    assert took < fleet.bound
    at = boottime()
    new.send(signal.SIGTERM)
    fleet.wait_leader(after=at, but=new.name)
    took = fleet.failover(at)
    print(f"Redis elector, hand-over by SIGTERM: {took:.2f} s")
    assert took < 3.0
    fleet.check()


def test_expiry_in_the_middle_of_work(start_fleet: StartFleet) -> None:
    """Stopped between its check and its write, for longer than the lock lives: the stale epoch's write is refused."""
    fleet = start_fleet("ab")
    old = fleet.wait_leader()
    old.order("pause")
    wait_until(old.stopped, 15, what="the pause")
    at = boottime()
    fleet.wait_leader(after=at, but=old.name)
    old.send(signal.SIGCONT)
    fleet.wait_event("fenced", node=old.name)
    fleet.wait_effects()
    fleet.check()


@pytest.mark.parametrize("how", ["flushall", "restart"])
def test_a_redis_that_forgets(start_fleet: StartFleet, lease_redis: RedisProcess, how: str) -> None:
    """The leader's term is lost at its next renewal; the next one has a higher epoch all the same, and nobody led
    twice."""
    fleet = start_fleet("abc", lease_redis=lease_redis)
    leader = fleet.wait_leader()
    for name in set(fleet.nodes) - {leader.name}:
        fleet.wait_event("follower", node=name)  # who has seen no holder may take a lock that is gone, at once
    at = boottime()
    if how == "flushall":
        connect(lease_redis).call("redis.call('FLUSHALL')", [], [], 3)
    else:
        lease_redis.stop()
        lease_redis.start()
    fleet.wait_event("lost", after=at)
    fleet.wait_leader(after=at)
    fleet.wait_effects()
    fleet.check()


def test_redis_hangs_and_comes_back(start_fleet: StartFleet, lease_redis: RedisProcess) -> None:
    fleet = start_fleet("ab", lease_redis=lease_redis)
    fleet.wait_leader()
    at = boottime()
    lease_redis.send(signal.SIGSTOP)
    fleet.wait_event("lost", after=at)
    lease_redis.send(signal.SIGCONT)
    fleet.wait_leader(after=at)
    fleet.wait_effects()
    fleet.check()


def test_a_node_with_another_backend_does_not_campaign(api: ApiServer, start_fleet: StartFleet) -> None:
    """It says why, once; the lease it would have used stays untouched."""
    fleet = start_fleet("a")
    fleet.wait_leader()
    setup = fleet["a"].setup | {"name": "b", "backend": "kubernetes", "kubeconfig": str(api.kubeconfig())}
    fleet.add("b", setup)
    problem = fleet.wait_event("misconfigured", node="b")
    assert "this fleet elects its leader by Redis lock" in problem["reason"]
    fleet.wait_effects(20)
    assert api.lease() is None
    assert len(fleet.events("misconfigured")) == 1
    fleet.check()
