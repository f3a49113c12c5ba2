"""The campaign as the coordinator uses it: its view, its end, what it imports; threads and requests that hang at its
stop."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

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
