"""The double of the API server answers as a real 1.36.2 did, line by line; set KUBEMIN_TEST_KUBECONFIG to ask a real
one again.

Requests go out as the elector's do: through the client's ApiClient, with plain JSON bodies.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kubemin.kube.client import new_client
from kubemin.kube.credentials import find_credentials

NAMESPACE, NAME = "min-cli-system", f"double-check-{uuid.uuid4().hex[:8]}"  # not that of a test beside this one
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
LEASE = f"{LEASES}/{NAME}"
NOW = "2026-11-24T07:18:28.123456Z"
Answer = tuple[int, dict[str, Any]]
Ask = Callable[..., Answer]


@pytest.fixture
def ask(kubeconfig: Path) -> Iterator[Ask]:
    """`ask(method, path, body)` -> (status, object); namespace there, the lease not."""
    credentials = find_credentials(str(kubeconfig))
    assert credentials is not None
    client = new_client(credentials)

    def request(method: str, path: str, body: Any = None, content: str = "application/json") -> Answer:
        headers = {"Accept": "application/json", "Content-Type": content}
        call = client.param_serialize(method, path, header_params=headers, body=body, auth_settings=["BearerToken"])
        response = client.call_api(*call, _request_timeout=(5, 5))
        return response.status, json.loads(response.read())

    request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    yield request
    request("DELETE", LEASE)


def lease(holder: str = "a", *, version: str | None = None, uid: str | None = None, **spec: Any) -> dict[str, Any]:
    times = {"acquireTime": NOW, "renewTime": NOW}
    metadata = {"name": NAME, "resourceVersion": version, "uid": uid}
    whole = {"holderIdentity": holder, "leaseDurationSeconds": 15, "leaseTransitions": 0, **times, **spec}
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {key: value for key, value in metadata.items() if value is not None},
        "spec": whole,
    }


def created(ask: Ask) -> dict[str, Any]:
    status, made = ask("POST", LEASES, lease())
    assert status == 201
    return made


def refused(answer: Answer, status: int, reason: str, message: str) -> None:
    assert answer[0] == status, answer
    assert answer[1]["reason"] == reason
    assert message in answer[1]["message"]


def test_missing_lease(ask: Ask) -> None:
    answer = ask("GET", f"{LEASES}/nope")
    refused(answer, 404, "NotFound", 'leases.coordination.k8s.io "nope" not found')
    assert answer[1]["details"]["kind"] == "leases"


def test_created_with_uid_and_version_and_only_once(ask: Ask) -> None:
    made = created(ask)
    assert made["metadata"]["uid"] and made["metadata"]["creationTimestamp"]
    assert int(made["metadata"]["resourceVersion"]) > 0
    refused(ask("POST", LEASES, lease("b")), 409, "AlreadyExists", f'"{NAME}" already exists')


def test_replacing_needs_the_version_just_read(ask: Ask) -> None:
    old = created(ask)["metadata"]["resourceVersion"]
    status, changed = ask("PUT", LEASE, lease("a", version=old, renewTime="2026-11-24T07:18:29.123456Z"))
    assert status == 200 and int(changed["metadata"]["resourceVersion"]) > int(old)
    refused(ask("PUT", LEASE, lease("thief", version=old)), 409, "Conflict", "the object has been modified")
    refused(ask("PUT", LEASE, lease("thief")), 422, "Invalid", "metadata.resourceVersion: Invalid value: 0")
    assert ask("GET", LEASE)[1]["spec"]["holderIdentity"] == "a"


def test_a_uid_is_a_precondition_and_without_one_a_deleted_lease_comes_back(ask: Ask) -> None:
    made = created(ask)["metadata"]
    ask("DELETE", LEASE)
    with_uid = lease("b", version=made["resourceVersion"], uid=made["uid"])
    refused(ask("PUT", LEASE, with_uid), 409, "Conflict", "Precondition failed: UID in precondition")
    assert ask("GET", LEASE)[0] == 404
    assert ask("PUT", LEASE, lease("b", version=made["resourceVersion"]))[0] in (200, 201)


def test_a_patch_without_a_version_steals(ask: Ask) -> None:
    old = created(ask)["metadata"]["resourceVersion"]
    patch = "application/merge-patch+json"
    status, stolen = ask("PATCH", LEASE, {"spec": {"holderIdentity": "thief"}}, patch)
    assert status == 200 and stolen["spec"]["holderIdentity"] == "thief"
    stale = {"metadata": {"resourceVersion": old}, "spec": {"holderIdentity": "patched"}}
    refused(ask("PATCH", LEASE, stale, patch), 409, "Conflict", "the object has been modified")


def test_deleting_with_a_stale_precondition(ask: Ask) -> None:
    old = created(ask)["metadata"]["resourceVersion"]
    ask("PUT", LEASE, lease("b", version=old))
    answer = ask("DELETE", LEASE, {"preconditions": {"resourceVersion": old}})
    refused(answer, 409, "Conflict", "the ResourceVersion in the precon")


def test_a_dry_run_checks_and_keeps_nothing(ask: Ask) -> None:
    assert ask("POST", f"{LEASES}?dryRun=All", lease())[0] == 201
    assert ask("GET", LEASE)[0] == 404
    version = created(ask)["metadata"]["resourceVersion"]
    status, told = ask("PUT", f"{LEASE}?dryRun=All", lease("b", version=version))
    assert status == 200 and told["spec"]["holderIdentity"] == "b"
    kept = ask("GET", LEASE)[1]
    assert (kept["spec"]["holderIdentity"], kept["metadata"]["resourceVersion"]) == ("a", version)
    refused(ask("PUT", f"{LEASE}?dryRun=All", lease("b")), 422, "Invalid", "resourceVersion")


def test_the_name_in_the_body_has_to_match(ask: Ask) -> None:
    created(ask)
    answer = ask("PUT", LEASE, {"metadata": {"name": "other"}, "spec": {}})
    refused(answer, 400, "BadRequest", f"the name of the object (other) does not match the name on the URL ({NAME})")


@pytest.mark.parametrize("spec", [{"leaseDurationSeconds": 0}, {"leaseTransitions": -1}])
def test_specs_that_are_refused(ask: Ask, spec: dict[str, Any]) -> None:
    version = created(ask)["metadata"]["resourceVersion"]
    assert ask("PUT", LEASE, lease(version=version, **spec))[0] == 422


def test_without_a_version_the_spec_is_not_looked_at(ask: Ask) -> None:
    created(ask)
    status, told = ask("PUT", LEASE, lease(leaseDurationSeconds=0))
    assert status == 422 and "must be specified for an update" in told["message"]
    assert "leaseDurationSeconds" not in told["message"]


def test_an_empty_holder_is_allowed(ask: Ask) -> None:
    version = created(ask)["metadata"]["resourceVersion"]
    assert ask("PUT", LEASE, lease("", version=version, leaseDurationSeconds=1))[0] == 200


@pytest.mark.parametrize("time", ["yesterday", "2026-11-24T07:18:28Z", "2026-11-24T07:18:28.123456"])
def test_times_that_are_refused(ask: Ask, time: str) -> None:
    """Naive ones, and those without a fraction, which the client makes of a microsecond 0."""
    version = created(ask)["metadata"]["resourceVersion"]
    refused(ask("PUT", LEASE, lease(version=version, renewTime=time)), 400, "BadRequest", "")


def test_a_missing_namespace_is_not_a_missing_lease(ask: Ask) -> None:
    answer = ask("POST", LEASES.replace(NAMESPACE, "nons"), lease())
    refused(answer, 404, "NotFound", 'namespaces "nons" not found')
    assert answer[1]["details"]["kind"] == "namespaces"


def test_of_sixteen_writers_of_one_version_one_wins(ask: Ask) -> None:
    version = created(ask)["metadata"]["resourceVersion"]
    answers: list[int] = []

    def write(n: int) -> None:
        answers.append(ask("PUT", LEASE, lease(f"writer-{n}", version=version))[0])

    threads = [threading.Thread(target=write, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200] + 15 * [409]
