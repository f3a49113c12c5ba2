"""The scenarios of the rules with three whole daemons: networks, servers, leases, rights and work that fail.

In each the steps that run meanwhile, one on every node, finish untouched, and epochs rise strictly. Pauses of a whole
leader, kills and hand-overs are in `test_slots.py`.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.apiserver import NAMESPACE, ApiServer
from support.waiting import wait_until

from kubemin.scoreboard import Scoreboard
from kubemin.store.redis import keys
from leader.daemons import FULL, PATIENT, Daemons, freeze, seconds, thaw

Begin = Callable[..., Daemons]


@pytest.fixture
def begin_double(api: ApiServer) -> Any:
    """`begin_double(election=…)`: three daemons over the double, whose faults only it has."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(Daemons(api=api, **options))


def holder(api: ApiServer) -> str:
    return str((api.lease() or {"spec": {}})["spec"].get("holderIdentity") or "").partition("_")[0]


def coordinator(fleet: Daemons, name: str) -> int:
    record = Scoreboard.open(str(fleet.nodes[name].run / "scoreboard")).read_coordinator()
    assert record is not None
    return record.pid


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.parametrize("how", ["hole", "refuse"])
def test_the_leader_alone_is_cut_off(begin: Begin, how: str) -> None:
    """4: its term ends by itself before the next begins; over Redis its work is cut off, too, for a while."""
    fleet = begin().start()
    runs = fleet.begin_tasks()
    at = time.time()
    fleet.proxies["a"].cut(how)
    new = fleet.wait_leader(but="a", after=at)
    fleet.proxies["a"].heal()
    lost = fleet.wait_event("leadership lost", node="a", after=at)
    assert lost["at"] <= new["at"]
    print(f"fail-over of a leader that was cut off ({how}): {new['at'] - at:.2f} s")
    assert new["at"] - at < fleet.bound
    fleet.wait_event("Node a is follower", node="a", after=at)
    fleet.untouched(runs)
    fleet.check()


def test_the_leaders_connections_are_half_open(begin: Begin) -> None:
    """4: what hangs costs its time-out; the next connection works, and the term goes on."""
    fleet = begin(election=PATIENT).start()
    runs = fleet.begin_tasks()
    fleet.proxies["a"].cut("half-open")
    time.sleep(1.5 * seconds(PATIENT["renewDeadline"]))
    assert fleet.leader() == "a" and len(fleet.terms()) == 1, fleet.logs()
    fleet.untouched(runs)
    fleet.check()


def test_a_release_that_hangs_does_not_hold_up_the_exit(begin_double: Begin, api: ApiServer) -> None:
    """1: the lease ends by itself."""
    fleet = begin_double().start()
    at = time.time()
    api.fault("hang", client="a")
    fleet.nodes["a"].send(signal.SIGTERM)
    assert fleet.nodes["a"].wait(20) == 0
    new = fleet.wait_leader(but="a", after=at)
    assert new["at"] - at < fleet.bound
    fleet.check()


def test_a_server_that_answers_badly_for_a_while(begin_double: Begin, api: ApiServer) -> None:
    """5, 7: refusals, conflicts, lost answers, a body that drips, a restart: within the term nobody else leads."""
    fleet = begin_double(election=PATIENT).start()
    runs = fleet.begin_tasks()
    for order in (
        {"kind": "status", "status": 429, "retry_after": 30},
        {"kind": "status", "status": 500},
        {"kind": "status", "status": 503},
        {"kind": "status", "status": 409, "methods": ["PUT"]},
        {"kind": "lose", "methods": ["PUT"]},
        {"kind": "drop"},
        {"kind": "drip", "seconds": 0.3, "count": 1},  # past every time-out of a socket
    ):
        order = {"count": 4, **order}
        renewals, struck = len(api.history()), api.struck(order["kind"]) + order["count"]
        wait_until(lambda renewals=renewals: len(api.history()) > renewals, 20, what="a renewal before the next fault")
        api.fault(**order, client="a")
        wait_until(lambda order=order, struck=struck: api.struck(order["kind"]) >= struck, 20, what=str(order))
    api.kill()
    api.start()
    fleet.untouched(runs)
    assert [one["node"] for one in fleet.terms()] == ["a"], fleet.logs()
    fleet.check()


def test_a_server_that_hangs_for_longer_than_a_term(begin_double: Begin, api: ApiServer) -> None:
    """5, 13: nobody leads, and somebody does soon after; an answer that comes late revives no term."""
    fleet = begin_double().start()
    runs = fleet.begin_tasks()
    at = time.time()
    api.pause()
    try:
        fleet.wait_event("leadership lost", node="a", after=at)
        assert not fleet.leader()
    finally:
        api.resume()
    back = time.time()
    took = fleet.wait_leader(after=at)["at"] - back
    print(f"leading again {took:.2f} s after a server that hung answers")
    assert took < fleet.bound
    outages = [one["node"] for one in fleet.events("the leader's lease cannot be reached")]
    assert outages.count("a") == 1, "told once"
    fleet.untouched(runs)
    fleet.check()


def test_what_others_do_to_the_lease(begin_double: Begin, api: ApiServer) -> None:
    """8: deleted; deleted and made by somebody else, with a spec that is odd; the namespace deleted."""
    fleet = begin_double().start()
    runs = fleet.begin_tasks()
    api.request("DELETE", api.path())
    wait_until(lambda: holder(api) == "a", 20, what="the lease, made again by its leader")
    assert [one["node"] for one in fleet.terms()] == ["a"]

    at = time.time()
    api.request("DELETE", api.path())
    body = {"metadata": {"name": "apiserver-lock"}, "spec": {"holderIdentity": "stranger", "leaseDurationSeconds": 2}}
    try:
        api.request("POST", api.path("").rstrip("/"), body)
    except AssertionError:  # its leader was faster
        assert holder(api) == "a"
    else:
        fleet.wait_event("leadership lost", node="a", after=at)
        fleet.wait_leader(after=at)

    at, leader = time.time(), wait_until(fleet.leader, 20, what="a leader")
    api.request("DELETE", f"/api/v1/namespaces/{NAMESPACE}")
    problem = fleet.wait_event("this node cannot take part in the election", node=leader, after=at)
    assert f'namespaces "{NAMESPACE}" not found' in problem["reason"]
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    wait_until(fleet.leader, 30, what="a leader in the new namespace")
    fleet.untouched(runs)
    fleet.check()


def test_rights_are_lost_and_given_back_and_tokens_rotated(begin_double: Begin, api: ApiServer, tmp_path: Path) -> None:
    """9, 10: said once, with what is missing; the term runs out; a new token is read without a restart."""
    token = tmp_path / "token"
    token.write_text("first")
    api.tokens("first")
    fleet = begin_double(user={"tokenFile": str(token)}).start()
    runs = fleet.begin_tasks()
    token.write_text("second")
    api.tokens("second")
    at = time.time()
    wait_until(lambda: fleet.leader() == "a" and time.time() > at + 3, 20, what="terms under the new token")
    assert len(fleet.terms()) == 1 and not fleet.events("this node cannot take part")

    api.deny("update")
    fleet.wait_event("leadership lost", node="a", after=at)
    [problem] = [one for one in fleet.events("this node cannot take part") if one["node"] == "a"]
    assert "cannot update resource" in problem["reason"]
    api.deny()
    fleet.wait_leader(after=problem["at"])
    fleet.untouched(runs)
    fleet.check()


def test_the_leaders_coordinator_is_killed(begin: Begin) -> None:
    """It is another process with another identity: the old term ends first, and the node's steps go on."""
    fleet = begin().start()
    runs = fleet.begin_tasks()
    at = time.time()
    os.kill(coordinator(fleet, "a"), signal.SIGKILL)
    new = fleet.wait_leader(after=at)
    assert new["at"] - at < fleet.bound
    fleet.untouched(runs)
    fleet.check()


def test_work_that_crashes_gives_the_lease_up(begin: Begin) -> None:
    """12: at once; the coordinator is another process then, and the node's steps go on."""
    fleet = begin(fault="leader.recover=fail@15").start()
    runs = fleet.begin_tasks()
    crash = fleet.wait_event("unexpected error", node="a")
    given_up = fleet.wait_event("leadership given up", node="a")
    new = fleet.wait_leader(after=given_up["at"])
    print(f"another leads {new['at'] - given_up['at']:.2f} s after the leader's work crashed")
    assert new["at"] - crash["at"] < 3.0
    fleet.untouched(runs)
    fleet.check()


def test_work_that_hangs_loses_the_lease(begin: Begin) -> None:
    """12: it is not renewed any more, and not released either, since it may wake at any time. Another takes over, on
    another node or in the hung one's place: by then it may have been replaced."""
    fleet = begin(fault="leader.promote=hang@40").start()
    runs = fleet.begin_tasks()
    hangs = fleet.wait_event("the leader's work hangs", node="a")
    new = fleet.wait_leader(after=hangs["at"])
    assert new["at"] - hangs["at"] < fleet.bound
    assert not [one for one in fleet.events("leadership given up") if one["at"] < new["at"]]
    fleet.untouched(runs)
    fleet.check()


def test_work_that_hangs_does_not_hold_up_a_stop(begin_double: Begin) -> None:
    """12: it hears nothing of SIGTERM, and is ended by the supervisor; nothing was released, so the lease lapses."""
    fleet = begin_double(fault="leader.promote=hang@40").start()
    hangs = fleet.wait_event("the leader's work hangs", node="a")
    fleet.nodes["a"].send(signal.SIGTERM)
    fleet.wait_leader(but="a", after=hangs["at"])
    assert fleet.nodes["a"].wait(30) == 0
    fleet.check()


def test_a_leader_that_is_paused_between_its_check_and_its_write(begin: Begin) -> None:
    """3: no clock helps here: the write carries an old epoch, and Redis refuses it."""
    fleet = begin(fault="leader.recover=stop@15").start()
    pid = coordinator(fleet, "a")
    wait_until(lambda: is_stopped(pid), 30, what="the pause")
    at, tree = time.time(), freeze(fleet.nodes["a"])
    try:
        fleet.wait_leader(but="a", after=at)
        wait_until(lambda: b"2 " in fleet.redis.command("GET", keys.EPOCH), 20, what="the next term in the store")
    finally:
        thaw(tree)
    fleet.wait_event("a duty was refused: another node leads", node="a", after=at)
    fleet.wait_event("Node a is follower", node="a", after=at)
    fleet.check()


HOURS = {"a": -3 * 3600, "b": 0, "c": 300}  # by which wall clocks are wrong


def test_wall_clocks_that_are_wrong_and_are_set(begin: Begin) -> None:
    """6: hours behind, minutes ahead, then each is set by an hour: nobody leads sooner, later, or beside another."""
    fleet = begin(clocks=HOURS).start()
    assert abs(fleet.terms()[0]["at"] - time.time()) < 60, "its clock is as wrong as it is meant to be"
    runs = fleet.begin_tasks()
    epoch = fleet.terms()[-1]["epoch"]
    for name, wrong in HOURS.items():
        fleet.set_clock(name, wrong + 3600)
    time.sleep(2 * seconds(fleet.election["leaseDuration"]))
    assert fleet.leader() == "a" and [one["epoch"] for one in fleet.terms()] == [epoch], fleet.logs()
    for name, wrong in HOURS.items():
        fleet.set_clock(name, wrong)
    fleet.untouched(runs)
    at = time.time()
    fleet.nodes["a"].kill9(everything=True)
    took = fleet.wait_leader(but="a", after=at)["at"] - at
    print(f"fail-over with wall clocks hours apart: {took:.2f} s")
    assert took < fleet.bound
    fleet.check()


@pytest.mark.parametrize("how", ["FLUSHALL", "restart"])
def test_redis_forgets_everything(begin: Begin, how: str) -> None:
    """15: whoever leads then leads under a higher epoch than anybody before, and work goes on."""
    fleet = begin().start()
    before, at = fleet.terms()[-1]["epoch"], time.time()
    if how == "restart":
        fleet.redis.stop()
        fleet.redis.start()
    else:
        fleet.redis.command(how)
    for name in fleet.nodes:
        fleet.wait_event("Redis has lost the records of this fleet", node=name, after=at)
    new = fleet.wait_leader(after=at)
    print(f"a leader again {new['at'] - at:.2f} s after {how}")
    assert new["epoch"] > before
    wait_until(lambda: fleet.redis.command("GET", keys.EPOCH) != b"$-1\r\n", 20, what="the term in the store")
    for name, daemon in fleet.nodes.items():
        wait_until(lambda daemon=daemon: "patient-a" in daemon.ctl("workflows").stdout, 20, what=f"the files of {name}")
    fleet.untouched(fleet.begin_tasks())
    fleet.check()


def test_a_node_that_stands_still_for_less_and_for_more_than_the_lease(begin: Begin, leader_trials: int) -> None:
    """3: 12 s and 25 s with leases of 15 s (`--leader-trials`), else as long in proportion. Its term ends by the clock;
    nobody else leads before the lease has lapsed, and who wakes then follows."""
    fleet = begin(**{"election": FULL} if leader_trials else {}).start()
    lease = seconds(fleet.election["leaseDuration"])
    for pause in (0.8 * lease, 25 / 15 * lease):
        name = wait_until(fleet.leader, 60, what="a leader")
        at, tree = time.time(), freeze(fleet.nodes[name])
        try:
            time.sleep(pause)
        finally:
            woke = time.time()
            thaw(tree)
        new = fleet.wait_leader(after=at, timeout=60)
        print(f"{name} stood still for {pause:.1f} s; {new['node']} led {new['at'] - at:.2f} s after its beginning")
        if pause < lease:
            assert new["at"] >= woke, "the lease had not lapsed"
        else:
            assert new["node"] != name and new["at"] - at <= fleet.bound
            fleet.wait_event(f"Node {name} is follower", node=name, after=woke, timeout=60)
    fleet.check()
