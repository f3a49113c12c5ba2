"""The lease as a `coordination.k8s.io/v1` Lease, through the official client.

Requests go through the client's `ApiClient` (its TLS, its credentials), bodies are plain JSON: its models cut a
time's fraction off when that is zero, which the API server refuses, and they choke on a spec that is odd. What others
put on the object (labels, annotations, further fields) is written back as it was read.

Facts of the API server are in `docs/leadership.md`: a PUT with uid and resourceVersion is the only write; a PATCH
without resourceVersion would steal the lease, a PUT without uid make a deleted one anew.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from kubemin.clock import SECOND, Micros, rfc3339
from kubemin.errors import KubeminError
from kubemin.leader.lease.base import (
    Claim,
    Conflict,
    LeaseRecord,
    Misconfigured,
    Missing,
    Unanswered,
    Unauthorized,
)

LONGEST_ANSWER = 1 << 20  # bytes; a Lease has about 600
RELEASED_DURATION = 1  # seconds; the API server wants more than 0, and nobody is to wait for a released lease
_LEASES = "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
_DRY_RUN = "?dryRun=All"
_HEADERS = {"Accept": "application/json", "Content-Type": "application/json"}
_Object = dict[str, Any]


class KubernetesLease:
    """`connect` builds an ApiClient with credentials as they are now (`kubemin.kube.client`). Raises KubeminError
    there."""

    kind = "kubernetes"
    recreates = True

    def __init__(self, connect: Callable[[], Any], namespace: str, name: str) -> None:
        self._connect = connect
        self._namespace, self._name = namespace, name
        self._client: Any = None
        self.place = f"Lease {namespace}/{name}"

    # --- the interface ------------------------------------------------------------------------------------------------

    def read(self, timeout: float) -> LeaseRecord | None:
        try:
            return _record(self._request("GET", f"/{self._name}", timeout))
        except Missing:
            return None

    def probe(self, timeout: float) -> str:
        """A dry run of what the election would do next: the server looks at rights and object, and keeps nothing."""
        seen = self.read(timeout)
        if seen is None:
            body = {"metadata": {"name": self._name, "namespace": self._namespace}, "spec": {"leaseTransitions": 0}}
            self._request("POST", _DRY_RUN, timeout, body)
            return ""
        with suppress(Conflict):  # its leader has renewed it meanwhile
            self._request("PUT", f"/{self._name}{_DRY_RUN}", timeout, {**seen.source})
        return seen.holder

    def acquire(self, seen: LeaseRecord | None, claim: Claim, timeout: float) -> LeaseRecord:
        now = micro_time(claim.at)
        spec = {
            "holderIdentity": claim.holder,
            "leaseDurationSeconds": math.ceil(claim.duration),
            "leaseTransitions": claim.transitions,
            "acquireTime": now,
            "renewTime": now,
        }
        if seen is not None:
            return self._put(seen, spec, timeout)
        body = {"metadata": {"name": self._name, "namespace": self._namespace}, "spec": spec}
        return _record(self._request("POST", "", timeout, body))

    def renew(self, held: LeaseRecord, at: Micros, timeout: float) -> LeaseRecord:
        return self._put(held, {"renewTime": micro_time(at)}, timeout)

    def release(self, held: LeaseRecord, at: Micros, timeout: float) -> None:
        now = micro_time(at)
        spec = {
            "holderIdentity": "",
            "leaseDurationSeconds": RELEASED_DURATION,
            "leaseTransitions": held.transitions,
            "acquireTime": now,
            "renewTime": now,
        }
        self._put(held, spec, timeout)

    def reconnect(self) -> None:
        self._client = (
            None  # not closed: a request that hangs in it may be reading the pool; it goes with its last user
        )

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.rest_client.close()

    # --- requests -----------------------------------------------------------------------------------------------------

    def _put(self, seen: LeaseRecord, changes: _Object, timeout: float) -> LeaseRecord:
        source: _Object = seen.source
        metadata = {key: value for key, value in source["metadata"].items() if key != "managedFields"}
        body = {"metadata": metadata, "spec": {**(source.get("spec") or {}), **changes}}
        return _record(self._request("PUT", f"/{self._name}", timeout, body))

    def _request(self, method: str, suffix: str, timeout: float, body: _Object | None = None) -> _Object:
        path = _LEASES.format(namespace=self._namespace) + suffix
        if body is not None:
            body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", **body}
        status, headers, data = self._exchange(method, path, body, timeout)
        if 200 <= status < 300:
            return _lease_object(data)
        raise _failure(status, headers, data, self.place)

    def _exchange(self, method: str, path: str, body: _Object | None, timeout: float) -> tuple[int, Any, bytes]:
        client = self._connected()
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        deadline = time.monotonic() + timeout  # the imports of a first request, a second or two, are not the server's
        try:
            request = client.param_serialize(
                method, path, header_params=dict(_HEADERS), body=body, auth_settings=["BearerToken"]
            )
            response = client.call_api(*request, _request_timeout=(timeout, timeout)).response
            return response.status, response.headers, _body(response, deadline)
        except (ApiException, HTTPError, OSError, ValueError) as exc:
            raise Unanswered(f"the API server does not answer: {_reason(exc)}") from exc

    def _connected(self) -> Any:
        if self._client is None:
            try:
                self._client = self._connect()
            except KubeminError as exc:
                raise Misconfigured(str(exc)) from exc
        return self._client


def micro_time(at: Micros) -> str:
    """A MicroTime. Its fraction is never zero: the API server answers 400 to some spellings of that."""
    return rfc3339(at if at % SECOND else at + 1) or ""


def _body(response: Any, deadline: float) -> bytes:
    """The whole body. A server that sends it byte by byte passes every time-out of the socket; not this one."""
    parts: list[bytes] = []
    size = 0
    while chunk := response.read1(LONGEST_ANSWER):
        parts.append(chunk)
        size += len(chunk)
        if size > LONGEST_ANSWER or time.monotonic() > deadline:
            response.close()
            raise Unanswered("the API server does not answer: its answer did not come to an end")
    return b"".join(parts)


# --- answers ----------------------------------------------------------------------------------------------------------


def _lease_object(data: bytes) -> _Object:
    answer = _json(data)
    if not isinstance(answer.get("metadata"), dict):
        raise Unanswered("the API server's answer is no Lease")
    return answer


def _record(source: _Object) -> LeaseRecord:
    metadata, spec = source["metadata"], source.get("spec") or {}
    return LeaseRecord(
        holder=spec.get("holderIdentity") or "",
        duration=float(spec.get("leaseDurationSeconds") or 0),
        transitions=int(spec.get("leaseTransitions") or 0),
        uid=metadata.get("uid") or "",
        version=metadata.get("resourceVersion") or "",
        mark=json.dumps(spec, sort_keys=True),
        acquired=spec.get("acquireTime") or "",
        renewed=spec.get("renewTime") or "",
        source=source,
    )


def _failure(status: int, headers: Any, data: bytes, place: str) -> Exception:
    answer = _json(data)
    message = f"{answer.get('message') or 'no reason given'} (HTTP {status})"
    if status == 401:
        return Unauthorized(f"the API server does not accept the credentials: {message}")
    if status == 409:
        return Conflict(message)
    if status == 404 and (answer.get("details") or {}).get("kind") == "leases":
        return Missing(message)
    if status == 429 or status >= 500:
        return Unanswered(f"the API server refuses for now: {message}", retry_after=_retry_after(headers))
    return Misconfigured(f"{place} cannot be used: {message}")


def _retry_after(headers: Any) -> float:
    """Seconds; 0.0 also for the form with a date, which no API server sends."""
    try:
        return max(float(headers.get("Retry-After") or 0), 0.0)
    except ValueError:
        return 0.0


def _json(data: bytes) -> _Object:
    try:
        answer = json.loads(data)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _reason(exc: Exception) -> str:
    """urllib3 and the client wrap the reason in their own words: object addresses before it, class names in lines
    above."""
    cause: object = getattr(exc, "reason", None) or exc
    lines = str(cause).rpartition(">: ")[2].splitlines()
    return lines[-1] if lines else type(cause).__name__
