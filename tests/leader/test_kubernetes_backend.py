"""The Lease backend, request by request, against the double and, where KUBEMIN_TEST_KUBECONFIG is set, a real API
server."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.apiserver import NAMESPACE, ApiServer, write_kubeconfig

from kubemin import clock
from kubemin.kube.client import new_client
from kubemin.kube.credentials import Credentials, Kind
from kubemin.leader.lease.base import Claim, Conflict, LeaseFailure, Misconfigured, Missing, Unanswered, Unauthorized
from kubemin.leader.lease.kubernetes import KubernetesLease

NAME = f"backend-check-{uuid.uuid4().hex[:8]}"  # not that of a test beside this one
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
ROUND = 1_700_000_000_000_000  # a time without a fraction
TIMEOUT = 5.0


def backend(kubeconfig: Path, namespace: str = NAMESPACE) -> KubernetesLease:
    return KubernetesLease(lambda: new_client(Credentials(Kind.KUBECONFIG, str(kubeconfig))), namespace, NAME)


@pytest.fixture
def outsider(kubeconfig: Path) -> Iterator[Any]:
    """`outsider(method, path, body)`: somebody else's request. The namespace is there, the lease is not."""
    client = new_client(Credentials(Kind.KUBECONFIG, str(kubeconfig)))

    def request(method: str, path: str, body: Any = None, content: str = "application/json") -> None:
        call = client.param_serialize(
            method, path, header_params={"Content-Type": content}, body=body, auth_settings=["BearerToken"]
        )
        client.call_api(*call, _request_timeout=(5, 5)).read()

    request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    yield request
    request("DELETE", f"{LEASES}/{NAME}")


@pytest.fixture
def lease(kubeconfig: Path, outsider: Any) -> Iterator[KubernetesLease]:
    one = backend(kubeconfig)
    yield one
    one.close()


def claim(holder: str = "me", transitions: int = 0) -> Claim:
    return Claim(holder, 15.0, transitions, ROUND)


def test_created_renewed_and_released(lease: KubernetesLease) -> None:
    assert lease.read(TIMEOUT) is None
    made = lease.acquire(None, claim(transitions=4), TIMEOUT)
    assert (made.holder, made.duration, made.transitions) == ("me", 15.0, 4)
    assert made.uid and made.version
    renewed = lease.renew(made, clock.wall(), TIMEOUT)
    assert renewed.version != made.version and renewed.mark != made.mark and renewed.uid == made.uid
    assert renewed.acquired == made.acquired
    lease.release(renewed, ROUND, TIMEOUT)
    left = lease.read(TIMEOUT)
    assert left is not None and (left.holder, left.duration, left.transitions) == ("", 1.0, 4)
    taken = lease.acquire(left, claim("you", 5), TIMEOUT)
    assert (taken.holder, taken.transitions, taken.uid) == ("you", 5, made.uid)


def test_only_what_was_read_is_written(lease: KubernetesLease) -> None:
    made = lease.acquire(None, claim(), TIMEOUT)
    with pytest.raises(Conflict):
        lease.acquire(None, claim("you"), TIMEOUT)
    lease.renew(made, clock.wall(), TIMEOUT)
    for act in (
        lambda: lease.renew(made, clock.wall(), TIMEOUT),
        lambda: lease.release(made, ROUND, TIMEOUT),
        lambda: lease.acquire(made, claim("you", 1), TIMEOUT),
    ):
        with pytest.raises(Conflict):
            act()
    assert (lease.read(TIMEOUT) or made).holder == "me"


def test_a_deleted_lease_is_not_made_again_by_a_renewal(lease: KubernetesLease, outsider: Any) -> None:
    made = lease.acquire(None, claim(), TIMEOUT)
    outsider("DELETE", f"{LEASES}/{NAME}")
    with pytest.raises((Conflict, Missing)):
        lease.renew(made, clock.wall(), TIMEOUT)
    assert lease.read(TIMEOUT) is None


def test_what_others_put_on_it_stays(lease: KubernetesLease, outsider: Any) -> None:
    made = lease.acquire(None, claim(), TIMEOUT)
    outsider("PATCH", f"{LEASES}/{NAME}", {"metadata": {"labels": {"owner": "ops"}}}, "application/merge-patch+json")
    seen = lease.read(TIMEOUT)
    assert seen is not None
    renewed = lease.renew(seen, clock.wall(), TIMEOUT)
    assert renewed.uid == made.uid
    assert renewed.source["metadata"].get("labels", {"owner": "ops"}) == {"owner": "ops"}


def test_a_missing_namespace_is_somebodys_mistake(kubeconfig: Path, outsider: Any) -> None:
    lost = backend(kubeconfig, "no-such-namespace")
    with pytest.raises(Misconfigured, match="no-such-namespace"):
        lost.acquire(None, claim(), TIMEOUT)


# --- faults: the double's alone ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        (401, Unauthorized),
        (403, Misconfigured),
        (409, Conflict),
        (422, Misconfigured),
        (429, Unanswered),
        (500, Unanswered),
    ],
)
def test_each_status_is_what_it_means(api: ApiServer, status: int, failure: type[LeaseFailure]) -> None:
    api.fault("status", status=status, retry_after=7)
    with pytest.raises(failure) as caught:
        backend(api.kubeconfig()).read(TIMEOUT)
    assert f"HTTP {status}" in str(caught.value)
    if status == 429:
        assert isinstance(caught.value, Unanswered) and caught.value.retry_after == 7


@pytest.mark.parametrize("fault", [{"kind": "drop"}, {"kind": "hang"}, {"kind": "drip", "seconds": 0.05}])
def test_what_does_not_answer_ends_on_time(api: ApiServer, fault: dict[str, Any]) -> None:
    one = backend(api.kubeconfig())
    one.acquire(None, claim(), TIMEOUT)
    api.fault(**fault)
    begun = time.monotonic()
    with pytest.raises(Unanswered):
        one.read(0.5)
    assert time.monotonic() - begun < 3


def test_a_server_that_is_not_there(api: ApiServer) -> None:
    kubeconfig = api.kubeconfig()
    api.kill()
    with pytest.raises(Unanswered, match=r"does not answer: .*refused"):
        backend(kubeconfig).read(TIMEOUT)


def test_a_server_whose_name_nobody_knows(tmp_path: Path) -> None:
    """An outage, not somebody's mistake: the resolver may be what is away."""
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", {"server": "https://no-such-host.invalid:6443"}, {})
    with pytest.raises(Unanswered, match=r"no-such-host\.invalid") as caught:
        backend(kubeconfig).read(TIMEOUT)
    assert "\n" not in str(caught.value) and "object at" not in str(caught.value)


def test_credentials_of_a_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its CA, its token with a newline at the end, and the token's next version after a 401."""
    with ApiServer(tls=True) as api:
        assert api.tls_dir is not None
        (tmp_path / "ca.crt").write_bytes((api.tls_dir / "ca.pem").read_bytes())
        (tmp_path / "token").write_text("first\n")
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
        one = KubernetesLease(lambda: new_client(Credentials(Kind.IN_CLUSTER, str(tmp_path))), NAMESPACE, NAME)
        api.tokens("first")
        one.acquire(None, claim(), TIMEOUT)
        api.tokens("second")
        with pytest.raises(Unauthorized):
            one.read(TIMEOUT)
        (tmp_path / "token").write_text("second\n")
        one.reconnect()
        assert (one.read(TIMEOUT) or claim("nobody")).holder == "me"


def test_a_server_with_another_certificate(tmp_path: Path) -> None:
    with ApiServer(tls=True) as one, ApiServer(tls=True) as other:
        assert one.tls_dir is not None and other.tls_dir is not None
        kubeconfig = one.kubeconfig()
        (one.tls_dir / "ca.pem").write_bytes((other.tls_dir / "ca.pem").read_bytes())
        with pytest.raises(Unanswered, match="certificate"):
            backend(kubeconfig).read(TIMEOUT)
