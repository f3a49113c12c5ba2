"""What the API server's double keeps and refuses: namespaces and Leases, with the rules of a real 1.36.2 server."""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

NAME = "apiserver-lock"  # named where a request names none
GROUP = "coordination.k8s.io"
Object = dict[str, Any]
_MICRO_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)$")


class Refusal(Exception):
    """An answer that is a Status object."""

    def __init__(self, code: int, reason: str, message: str, *, kind: str = "leases", name: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.body = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "details": {"name": name, "group": GROUP, "kind": kind},
            "code": code,
        }


# --- the objects ------------------------------------------------------------------------------------------------------


class Objects:
    """Namespaces and Leases, one lock around all of them; every write goes to the file before it is answered."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self.history: list[Object] = []
        self.version = 200
        self.namespaces: list[str] = ["default"]
        self.leases: dict[str, Object] = {}
        if file.exists():
            kept = json.loads(file.read_text())
            self.version, self.namespaces, self.leases = kept["version"], kept["namespaces"], kept["leases"]
            self.history = kept["history"]

    def create_namespace(self, name: str) -> Object:
        with self._lock:
            if name in self.namespaces:
                message = f'namespaces "{name}" already exists'
                raise Refusal(409, "AlreadyExists", message, kind="namespaces", name=name)
            self.namespaces.append(name)
            self._save()
            return {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name, "uid": str(uuid.uuid4())}}

    def delete_namespace(self, name: str) -> None:
        with self._lock:
            if name in self.namespaces:
                self.namespaces.remove(name)
            self.leases = {key: lease for key, lease in self.leases.items() if not key.startswith(f"{name}/")}
            self._save()

    def get(self, namespace: str, name: str) -> Object:
        with self._lock:
            return self._existing(namespace, name)

    def create(self, namespace: str, body: Object, *, dry: bool = False) -> Object:
        """`dry`: everything is checked and answered, and nothing kept (dryRun=All)."""
        with self._lock:
            name = (body.get("metadata") or {}).get("name") or ""
            if namespace not in self.namespaces:
                message = f'namespaces "{namespace}" not found'
                raise Refusal(404, "NotFound", message, kind="namespaces", name=namespace)
            _validate(name, body.get("spec"))
            if f"{namespace}/{name}" in self.leases:
                message = f'leases.{GROUP} "{name}" already exists'
                raise Refusal(409, "AlreadyExists", message, name=name)
            return self._store(namespace, name, body, uid=str(uuid.uuid4()), dry=dry)

    def replace(self, namespace: str, name: str, body: Object, *, dry: bool = False) -> Object:
        with self._lock:
            metadata = body.get("metadata") or {}
            if metadata.get("name") != name:
                message = f"the name of the object ({metadata.get('name')}) does not match the name on the URL ({name})"
                raise Refusal(400, "BadRequest", message, name=name)
            _check_times(body.get("spec"))
            current = self.leases.get(f"{namespace}/{name}")
            uid = current["metadata"]["uid"] if current else ""
            if metadata.get("uid") and metadata["uid"] != uid:
                message = f"UID in precondition: {metadata['uid']}, UID in object meta: {uid}"
                raise _conflict(name, f"Precondition failed: {message}")
            if current is None:  # without uid: the real server makes the lease anew
                _validate(name, body.get("spec"))
                return self._store(namespace, name, body, uid=str(uuid.uuid4()), dry=dry)
            _validate(name, body.get("spec"), version=metadata.get("resourceVersion"))
            if metadata["resourceVersion"] != current["metadata"]["resourceVersion"]:
                raise _conflict(name, "the object has been modified; please apply your changes to the latest version")
            return self._store(namespace, name, body, uid=uid, dry=dry)

    def patch(self, namespace: str, name: str, body: Object) -> Object:
        with self._lock:
            current = self._existing(namespace, name)
            version = (body.get("metadata") or {}).get("resourceVersion")
            if version and version != current["metadata"]["resourceVersion"]:
                raise _conflict(name, "the object has been modified; please apply your changes to the latest version")
            merged = {**current, "spec": {**(current.get("spec") or {}), **(body.get("spec") or {})}}
            return self._store(namespace, name, merged, uid=current["metadata"]["uid"])

    def delete(self, namespace: str, name: str, body: Object) -> None:
        with self._lock:
            current = self._existing(namespace, name)
            wanted = (body.get("preconditions") or {}).get("resourceVersion")
            if wanted and wanted != current["metadata"]["resourceVersion"]:
                message = (
                    f"the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record"
                )
                raise Refusal(
                    409,
                    "Conflict",
                    f'Operation cannot be fulfilled on Lease.{GROUP} "{name}": {message}',
                    name=name,
                )
            del self.leases[f"{namespace}/{name}"]
            self._save()

    def _existing(self, namespace: str, name: str) -> Object:
        lease = self.leases.get(f"{namespace}/{name}")
        if lease is None:
            raise Refusal(404, "NotFound", f'leases.{GROUP} "{name}" not found', name=name)
        return lease

    def _store(self, namespace: str, name: str, body: Object, *, uid: str, dry: bool = False) -> Object:
        old = self.leases.get(f"{namespace}/{name}")
        if old is not None and old.get("spec") == body.get("spec"):
            return old  # a write that changes nothing raises no version
        self.version += 1
        kept = {key: value for key, value in (body.get("metadata") or {}).items() if key in ("labels", "annotations")}
        created = old["metadata"]["creationTimestamp"] if old else datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        metadata = {
            "name": name,
            "namespace": namespace,
            "uid": uid,
            "resourceVersion": str(self.version),
            "creationTimestamp": created,
            "managedFields": [{"manager": "double", "operation": "Update"}],
            **kept,
        }
        lease = {"kind": "Lease", "apiVersion": f"{GROUP}/v1", "metadata": metadata, "spec": body.get("spec") or {}}
        if dry:
            self.version -= 1
            return lease
        self.leases[f"{namespace}/{name}"] = lease
        spec = lease["spec"]
        self.history.append(
            {
                "at": time.clock_gettime(time.CLOCK_BOOTTIME),
                "holder": spec.get("holderIdentity") or "",
                "transitions": spec.get("leaseTransitions") or 0,
                "uid": uid,
                "duration": spec.get("leaseDurationSeconds"),
            }
        )
        self._save()
        return lease

    def _save(self) -> None:
        kept = {"version": self.version, "namespaces": self.namespaces, "leases": self.leases, "history": self.history}
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps(kept))
        fresh.replace(self._file)


def _conflict(name: str, message: str) -> Refusal:
    text = f'Operation cannot be fulfilled on leases.{GROUP} "{name}": {message}'
    return Refusal(409, "Conflict", text, name=name)


def _check_times(spec: Any) -> None:
    for field in ("acquireTime", "renewTime"):
        value = (spec or {}).get(field)
        if value is not None and not (isinstance(value, str) and _MICRO_TIME.match(value)):
            message = f'Lease in version "v1" cannot be handled as a Lease: parsing time "{value}"'
            raise Refusal(400, "BadRequest", message)


_NO_VERSION = "metadata.resourceVersion: Invalid value: 0: must be specified for an update"


def _validate(name: str, spec: Any, version: str | None = "1") -> None:
    _check_times(spec)
    problem = _problem(spec or {}) if version else _NO_VERSION  # without a version the rest is not looked at
    if problem:
        raise Refusal(422, "Invalid", f'leases.{GROUP} "{name}" is invalid: {problem}', name=name)


def _problem(spec: Any) -> str:
    duration, transitions = spec.get("leaseDurationSeconds"), spec.get("leaseTransitions")
    wrong = []
    if duration is not None and duration <= 0:
        wrong.append(f"spec.leaseDurationSeconds: Invalid value: {duration}: must be greater than 0")
    if transitions is not None and transitions < 0:
        wrong.append(f"spec.leaseTransitions: Invalid value: {transitions}: must be greater than or equal to 0")
    return f"[{', '.join(wrong)}]" if len(wrong) > 1 else "".join(wrong)
