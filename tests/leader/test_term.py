"""The term, the bounded calls and the rules of the parameters: what everything else stands on."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from kubemin.config import LeaderElection
from kubemin.errors import Invalid
from kubemin.kube.client import new_client
from kubemin.kube.credentials import Credentials, Kind, find_credentials
from kubemin.leader.bounded import MOST_ABANDONED, BoundedCalls, TimedOut
from kubemin.leader.campaign import check_parameters, process_identity
from kubemin.leader.lease.base import Interrupted, Unanswered
from kubemin.leader.lease.kubernetes import micro_time
from kubemin.leader.term import Grant, Term


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def grant(until: float, epoch: int = 1) -> Grant:
    return Grant(epoch=epoch, holder="me", until=until)


# --- the term ---------------------------------------------------------------------------------------------------------


def test_a_term_ends_by_the_clock_alone() -> None:
    clock = Clock()
    term = Term(clock)
    assert not term.valid() and term.current() is None and term.remaining() == 0.0
    assert term.begin(grant(110.0))
    assert term.valid() and term.valid(1) and not term.valid(2) and term.remaining() == 10.0
    clock.now = 110.0
    assert not term.valid() and term.current() is None and term.remaining() == 0.0


def test_a_late_answer_revives_nothing() -> None:
    clock = Clock()
    term = Term(clock)
    term.begin(grant(110.0))
    clock.now = 110.5
    assert not term.extend(1, 118.0)
    assert not term.valid()
    assert not term.begin(grant(110.2, 2)), "an acquisition that was answered after its own term"


def test_extending_another_term_or_an_ended_one() -> None:
    clock = Clock()
    term = Term(clock)
    term.begin(grant(110.0))
    assert not term.extend(2, 120.0)
    assert term.extend(1, 112.0) and term.remaining() == 12.0
    assert term.extend(1, 111.0) and term.remaining() == 12.0, "an older answer shortens nothing"
    term.end()
    assert not term.extend(1, 120.0) and not term.valid()


def test_a_barred_term_does_not_begin() -> None:
    """Whoever stops the leader's work cannot be overtaken by an acquisition that is on its way."""
    term = Term(Clock())
    term.begin(grant(110.0))
    term.bar()
    assert not term.valid() and not term.extend(1, 120.0) and not term.begin(grant(120.0, 2))
    term.unbar()
    assert not term.valid() and term.begin(grant(120.0, 2))


# --- bounded calls ----------------------------------------------------------------------------------------------------


def test_a_call_returns_or_raises_what_it_does() -> None:
    calls = BoundedCalls("test")
    assert calls.call(lambda: 7, 5) == 7
    with pytest.raises(ZeroDivisionError):
        calls.call(lambda: 1 // 0, 5)
    calls.close()


def test_a_call_that_hangs_is_left_and_its_answer_thrown_away() -> None:
    calls, release = BoundedCalls("test"), threading.Event()
    begun = time.monotonic()
    with pytest.raises(TimedOut):
        calls.call(lambda: release.wait(20) and "late", 0.05)
    assert time.monotonic() - begun < 2
    assert calls.call(lambda: "next", 5) == "next"
    release.set()
    assert calls.call(lambda: "after", 5) == "after"
    calls.close()


def test_calls_that_hang_do_not_pile_up() -> None:
    calls, release = BoundedCalls("test"), threading.Event()
    for _ in range(MOST_ABANDONED):
        with pytest.raises(TimedOut):
            calls.call(lambda: release.wait(20), 0.01)
    with pytest.raises(Unanswered, match="requests hang"):
        calls.call(lambda: 1, 1)
    release.set()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            assert calls.call(lambda: 1, 5) == 1
            break
        except Unanswered:
            time.sleep(0.01)
    else:
        raise AssertionError("no call went through after the hanging ones had ended")
    calls.close()


def test_an_interruption_ends_the_waiting_until_it_is_taken_back() -> None:
    calls, entered, release = BoundedCalls("test"), threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        release.wait(20)

    threading.Thread(target=lambda: entered.wait(10) and calls.interrupt(), daemon=True).start()
    with pytest.raises(Interrupted):
        calls.call(hang, 20)
    with pytest.raises(Interrupted):
        calls.call(lambda: 1, 5)
    calls.resume()
    assert calls.call(lambda: 1, 5) == 1
    release.set()
    calls.close()


# --- parameters, identity, times --------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [(15, 10, 2), (2, 1.2, 0.2), (60, 50, 5), (30, 25, 3)])
def test_parameters_that_leave_room(values: tuple[float, float, float]) -> None:
    check_parameters(LeaderElection(lease_duration=values[0], renew_deadline=values[1], retry_period=values[2]))


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ((14, 10, 2), "leaderElection.leaseDuration"),
        ((10, 10, 2), "leaderElection.leaseDuration"),
        ((2, 1.5, 0.2), "leaderElection.leaseDuration"),
        ((15, 10, 9), "leaderElection.renewDeadline"),
    ],
)
def test_parameters_that_would_let_two_nodes_act(values: tuple[float, float, float], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_parameters(LeaderElection(lease_duration=values[0], renew_deadline=values[1], retry_period=values[2]))
    assert [problem.field for problem in caught.value.problems] == [field]


def test_an_identity_is_of_one_start_of_one_process() -> None:
    assert process_identity() != process_identity()


def test_times_never_have_an_empty_fraction() -> None:
    assert micro_time(1_700_000_000_000_000) == "2023-11-14T22:13:20.000001Z"
    assert micro_time(1_700_000_000_123_456) == "2023-11-14T22:13:20.123456Z"


# --- credentials ------------------------------------------------------------------------------------------------------


def test_which_credentials_are_found(tmp_path: Path) -> None:
    account = tmp_path / "account"
    account.mkdir()
    environ = {"HOME": str(tmp_path)}

    def find(kubeconfig: str | None = None) -> Credentials | None:
        return find_credentials(kubeconfig, environ=environ, service_account=account)

    assert find() is None
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube" / "config").touch()
    assert find() == Credentials(Kind.KUBECONFIG, str(tmp_path / ".kube" / "config"))
    environ["KUBECONFIG"] = "/one:/two"
    assert find() == Credentials(Kind.KUBECONFIG, "/one:/two")
    environ["KUBERNETES_SERVICE_HOST"] = "10.0.0.1"
    assert find() == Credentials(Kind.KUBECONFIG, "/one:/two"), "the variable alone makes no pod"
    (account / "token").write_text("secret")
    assert find() == Credentials(Kind.IN_CLUSTER, str(account))
    assert find("/told") == Credentials(Kind.KUBECONFIG, "/told")


@pytest.mark.parametrize("text", [None, "", "clusters: [", "apiVersion: v1\nkind: Config\n"])
def test_a_kubeconfig_that_cannot_be_used_is_one_clear_line(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "kubeconfig"
    if text is not None:
        path.write_text(text)
    with pytest.raises(Invalid) as caught:
        new_client(Credentials(Kind.KUBECONFIG, str(path)))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pod_without_its_token(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="in-cluster credentials"):
        new_client(Credentials(Kind.IN_CLUSTER, str(tmp_path)))
