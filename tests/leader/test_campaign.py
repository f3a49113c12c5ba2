"""The campaign as the coordinator uses it: its view, its end, what it imports; threads and requests that hang at its
stop."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.apiserver import ApiServer
from support.waiting import wait_until

from kubemin.config import LeaderElection
from kubemin.kube.client import new_client
from kubemin.kube.credentials import Credentials, Kind
from kubemin.leader.announcer import Announcer
from kubemin.leader.campaign import Campaign
from kubemin.leader.lease.base import LeaseBackend
from kubemin.leader.lease.caller import FLEET_KEYS, StoreCaller
from kubemin.leader.lease.kubernetes import KubernetesLease
from kubemin.leader.lease.redis import RedisLease
from kubemin.store.redis.address import parse
from leader.ledger import RedisProcess

NAMESPACE, NAME = "min-cli-system", "apiserver-lock"


@pytest.fixture(params=["redis", "kubernetes"])
def backend(request: pytest.FixtureRequest) -> Iterator[LeaseBackend]:
    """Both, real: the same machine over each."""
    if request.param == "redis":
        redis = RedisProcess()
        yield RedisLease(lambda: StoreCaller(parse(f"unix://{redis.socket}")), FLEET_KEYS, 15.0)
        redis.close()
        return
    with ApiServer() as api:
        credentials = Credentials(Kind.KUBECONFIG, str(api.kubeconfig()))
        yield KubernetesLease(lambda: new_client(credentials), NAMESPACE, NAME)


def _again(backend: LeaseBackend) -> LeaseBackend:
    """A connection of its own to the same lease."""
    if isinstance(backend, RedisLease):
        return RedisLease(backend._line._connect, FLEET_KEYS, 15.0)
    assert isinstance(backend, KubernetesLease)
    return KubernetesLease(backend._connect, NAMESPACE, NAME)


def campaign(backend: LeaseBackend, **options: object) -> Campaign:
    return Campaign(backend, LeaderElection(), lambda: 6, Announcer("a", backend.place), **options)  # type: ignore[arg-type]


def test_leads_says_so_and_lets_go(backend: LeaseBackend) -> None:
    one = campaign(backend)
    assert not one.view().leading and one.view().epoch == 0
    one.start()
    wait_until(one.term.valid, 10, what="the term")
    wait_until(lambda: one.view().role == "leader", 10)
    view = one.view()
    assert (view.leading, view.epoch, view.transitions, view.holder) == (True, 7, 6, one.identity)
    assert 0 < view.term_seconds <= 10 and view.since and view.backend == backend.kind and view.terms == 1
    assert one.stop()
    assert not one.term.valid() and not one.view().leading
    left = backend.read(5)
    assert left is not None and left.holder == ""


def test_the_term_is_over_when_step_down_returns(backend: LeaseBackend) -> None:
    one = campaign(backend)
    one.start()
    wait_until(one.term.valid, 10, what="the term")
    one.step_down("asked for")
    assert not one.term.valid()
    wait_until(lambda: (backend.read(5) or one).holder == "", 10, what="the release")  # type: ignore[union-attr]
    assert one.stop()


def test_stop_waits_for_no_request(backend: LeaseBackend) -> None:
    """A store that hangs in the middle of the campaign: who stops does not wait for it, and no thread is left but
    that one."""
    hangs, entered = threading.Event(), threading.Event()

    def floor() -> int:
        entered.set()
        hangs.wait(30)
        return 1

    one = Campaign(backend, LeaderElection(), floor, Announcer("a", backend.place))
    one.start()
    assert entered.wait(10)
    begun = time.monotonic()
    assert one.stop()
    assert time.monotonic() - begun < 2.0
    hangs.set()


def test_a_second_stop_does_not_cut_the_release_off(backend: LeaseBackend) -> None:
    """The daemon asks when it is told to stop, and again when its workers are gone, which may be at once."""
    begun, ended = threading.Event(), threading.Event()
    release = backend.release

    def slow(*args: Any) -> None:
        begun.set()
        time.sleep(0.3)
        release(*args)
        ended.set()

    backend.release = slow  # type: ignore[method-assign]
    one = campaign(backend)
    one.start()
    wait_until(one.term.valid, 10, what="the term")
    assert not one.stop(0.0)
    assert begun.wait(10)
    assert one.stop() and ended.is_set()


def test_who_has_let_go_tells_the_others_and_they_look_at_once(backend: LeaseBackend) -> None:
    """Without the word a candidate would ask 15 s later."""
    rare = LeaderElection(lease_duration=40.0, renew_deadline=25.0, retry_period=15.0)
    announcer = Announcer("a", backend.place)
    follower = Campaign(_again(backend), rare, lambda: 6, announcer)
    told = threading.Event()

    def tell(epoch: int) -> None:
        assert epoch == 7 and (backend.read(5) or one).holder == "", "told after the release"  # type: ignore[union-attr]
        told.set()

    one = Campaign(backend, rare, lambda: 6, announcer, tell_released=tell)
    one.start()
    wait_until(one.term.valid, 10, what="the term")
    follower.start()
    wait_until(lambda: follower.figures.holder == one.identity, 10, what="a follower")
    one.step_down("asked for")
    assert told.wait(10)
    assert not follower.term.valid()
    follower.look()
    wait_until(follower.term.valid, 5, what="the next leader")
    assert follower.stop() and one.stop()


def test_a_word_that_is_false_or_cannot_be_said_changes_nothing(backend: LeaseBackend) -> None:
    def nobody_hears(epoch: int) -> None:
        raise OSError("Redis is away")

    announcer = Announcer("a", backend.place)
    one = campaign(backend, tell_released=nobody_hears)
    other = Campaign(_again(backend), LeaderElection(), lambda: 6, announcer)
    one.start()
    wait_until(one.term.valid, 10, what="the term")
    other.start()
    for _ in range(20):
        other.look()
        time.sleep(0.02)
        assert one.term.valid() and not other.term.valid()
    assert one.stop()
    left = backend.read(5)
    assert left is not None and left.holder == ""
    assert other.stop()


def test_a_campaign_that_was_never_started_stops(backend: LeaseBackend) -> None:
    assert campaign(backend).stop()


def test_neither_client_is_imported_before_it_is_needed() -> None:
    """30 MB and a third of a second each."""
    code = (
        "import sys, kubemin.leader.campaign, kubemin.leader.lease.caller, kubemin.leader.lease.kubernetes; "
        "print([name for name in ('kubernetes', 'redis', 'urllib3', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
