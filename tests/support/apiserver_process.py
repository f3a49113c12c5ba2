"""The process of the API server's double: Leases over HTTP or HTTPS, with the faults that `apiserver.py` orders.

Run by its file name, with the standard library alone; `apiserver.py` beside it is the test's side, and says what the
faults are.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import ssl
import threading
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

NAME = "apiserver-lock"  # named where a request names none
Object = dict[str, Any]
_LEASES = re.compile(r"^/apis/coordination\.k8s\.io/v1/namespaces/([^/]+)/leases(?:/([^/]+))?$")
_NAMESPACES = re.compile(r"^/api/v1/namespaces(?:/([^/]+))?$")
_MICRO_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)$")
_GROUP = "coordination.k8s.io"


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
            "details": {"name": name, "group": _GROUP, "kind": kind},
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

    def create(self, namespace: str, body: Object) -> Object:
        with self._lock:
            name = (body.get("metadata") or {}).get("name") or ""
            if namespace not in self.namespaces:
                message = f'namespaces "{namespace}" not found'
                raise Refusal(404, "NotFound", message, kind="namespaces", name=namespace)
            _validate(name, body.get("spec"))
            if f"{namespace}/{name}" in self.leases:
                message = f'leases.{_GROUP} "{name}" already exists'
                raise Refusal(409, "AlreadyExists", message, name=name)
            return self._store(namespace, name, body, uid=str(uuid.uuid4()))

    def replace(self, namespace: str, name: str, body: Object) -> Object:
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
                return self._store(namespace, name, body, uid=str(uuid.uuid4()))
            _validate(name, body.get("spec"), version=metadata.get("resourceVersion"))
            if metadata["resourceVersion"] != current["metadata"]["resourceVersion"]:
                raise _conflict(name, "the object has been modified; please apply your changes to the latest version")
            return self._store(namespace, name, body, uid=uid)

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
                    f'Operation cannot be fulfilled on Lease.{_GROUP} "{name}": {message}',
                    name=name,
                )
            del self.leases[f"{namespace}/{name}"]
            self._save()

    def _existing(self, namespace: str, name: str) -> Object:
        lease = self.leases.get(f"{namespace}/{name}")
        if lease is None:
            raise Refusal(404, "NotFound", f'leases.{_GROUP} "{name}" not found', name=name)
        return lease

    def _store(self, namespace: str, name: str, body: Object, *, uid: str) -> Object:
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
        lease = {"kind": "Lease", "apiVersion": f"{_GROUP}/v1", "metadata": metadata, "spec": body.get("spec") or {}}
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
    text = f'Operation cannot be fulfilled on leases.{_GROUP} "{name}": {message}'
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
    spec = spec or {}
    wrong = [] if version else [_NO_VERSION]
    duration, transitions = spec.get("leaseDurationSeconds"), spec.get("leaseTransitions")
    if duration is not None and duration <= 0:
        wrong.append(f"spec.leaseDurationSeconds: Invalid value: {duration}: must be greater than 0")
    if transitions is not None and transitions < 0:
        wrong.append(f"spec.leaseTransitions: Invalid value: {transitions}: must be greater than or equal to 0")
    if wrong:
        text = wrong[0] if len(wrong) == 1 else f"[{', '.join(wrong)}]"
        raise Refusal(422, "Invalid", f'leases.{_GROUP} "{name}" is invalid: {text}', name=name)


# --- faults -----------------------------------------------------------------------------------------------------------


class Faults:
    """The orders in force; each request takes the first that fits it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._orders: list[Object] = []
        self.tokens: list[str] = []
        self.denied: list[str] = []
        self.healed = threading.Event()
        self.struck: dict[str, int] = {}

    def order(self, order: Object) -> None:
        with self._lock:
            if self.healed.is_set():
                self.healed = threading.Event()
            self._orders.append(order)

    def heal(self) -> None:
        with self._lock:
            self._orders.clear()
            self.denied = []
            self.healed.set()

    def take(self, method: str, client: str) -> Object | None:
        with self._lock:
            for order in self._orders:
                if _fits(order, method, client):
                    self._use(order)
                    return order
        return None

    def _use(self, order: Object) -> None:
        self.struck[order["kind"]] = self.struck.get(order["kind"], 0) + 1
        if order.get("count") is not None:
            order["count"] -= 1
            if order["count"] <= 0:
                self._orders.remove(order)


def _fits(order: Object, method: str, client: str) -> bool:
    methods, wanted = order.get("methods"), order.get("client")
    return (not methods or method in methods) and (not wanted or wanted == client)


_REASONS = {401: "Unauthorized", 403: "Forbidden", 409: "Conflict", 429: "TooManyRequests", 503: "ServiceUnavailable"}
_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


# --- HTTP -------------------------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    objects: Objects
    faults: Faults

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        if self.path.startswith("/_control"):
            self._answer(200, self._control(body))
            return
        client, path = self._client()
        order = self.faults.take(self.command, client) or {"kind": ""}
        if order["kind"] in ("hang", "drop"):
            self._break_off(order)
            return
        if order["kind"] == "slow":
            self.faults.healed.wait(order["seconds"])
        code, headers, answer = self._act(order, path, body)
        self._deliver(order, code, headers, answer)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

    def _client(self) -> tuple[str, str]:
        path = self.path.partition("?")[0]
        first, _, rest = path[1:].partition("/")
        return (first[len("client-") :], f"/{rest}") if first.startswith("client-") else ("", path)

    def _act(self, order: Object, path: str, body: Object) -> tuple[int, Object, Object]:
        try:
            if order["kind"] == "status":
                code = order["status"]
                raise Refusal(code, _REASONS.get(code, "InternalError"), f"ordered by the test: {code}", name=NAME)
            return 200 if self.command != "POST" else 201, {}, self._route(path, body)
        except Refusal as refusal:
            headers = {"Retry-After": str(order["retry_after"])} if order.get("retry_after") else {}
            return refusal.code, headers, refusal.body

    def _route(self, path: str, body: Object) -> Object:
        self._authorize()
        if path in ("/version", "/version/"):
            return {"major": "1", "minor": "36", "gitVersion": "v1.36.2"}
        if match := _NAMESPACES.match(path):
            return self._namespaces(match[1], body)
        if match := _LEASES.match(path):
            return self._leases(match[1], match[2], body)
        raise Refusal(404, "NotFound", "the server could not find the requested resource", kind="")

    def _namespaces(self, name: str | None, body: Object) -> Object:
        if self.command == "POST":
            return self.objects.create_namespace(body["metadata"]["name"])
        if self.command == "DELETE" and name:
            self.objects.delete_namespace(name)
            return {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        raise Refusal(405, "MethodNotAllowed", "not in this double", kind="namespaces")

    def _leases(self, namespace: str, name: str | None, body: Object) -> Object:
        verb = _VERBS[self.command]
        if verb in self.faults.denied:
            user = f"system:serviceaccount:{namespace}:kubemin"
            text = (
                f'User "{user}" cannot {verb} resource "leases" in API group "{_GROUP}" in the namespace "{namespace}"'
            )
            raise Refusal(403, "Forbidden", f'leases.{_GROUP} "{name or NAME}" is forbidden: {text}', name=name or NAME)
        if name is None:
            return self.objects.create(namespace, body)
        if verb == "get":
            return self.objects.get(namespace, name)
        if verb == "update":
            return self.objects.replace(namespace, name, body)
        if verb == "patch":
            return self.objects.patch(namespace, name, body)
        self.objects.delete(namespace, name, body)
        return {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def _authorize(self) -> None:
        given = self.headers.get("Authorization", "")
        tokens = self.faults.tokens
        if tokens and given.partition(" ")[2] not in tokens:
            raise Refusal(401, "Unauthorized", "Unauthorized", kind="")

    # --- faults on the way back ---

    def _deliver(self, order: Object, code: int, headers: Object, answer: Object) -> None:
        kind = order["kind"]
        if kind in ("lose", "lose_hang"):
            self._break_off({"kind": "drop" if kind == "lose" else "hang"})
        elif kind == "drip":
            self._drip(code, answer, order["seconds"])
        else:
            if kind == "late":
                self.faults.healed.wait(order["seconds"])
            self._answer(code, answer, headers)

    def _break_off(self, order: Object) -> None:
        self.close_connection = True
        if order["kind"] == "hang":
            self.faults.healed.wait()
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _drip(self, code: int, answer: Object, seconds: float) -> None:
        data = json.dumps(answer).encode()
        self._head(code, len(data), {})
        for byte in data:
            if self.faults.healed.wait(seconds):
                break
            with suppress(OSError):
                self.wfile.write(bytes([byte]))
        self._break_off({"kind": "drop"})

    def _answer(self, code: int, answer: Any, headers: Object | None = None) -> None:
        data = json.dumps(answer).encode()
        with suppress(OSError):
            self._head(code, len(data), headers or {})
            self.wfile.write(data)

    def _head(self, code: int, length: int, headers: Object) -> None:
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    # --- orders of the test ---

    def _control(self, body: Object) -> Any:
        what = self.path.removeprefix("/_control/")
        if what == "fault":
            self.faults.order(body)
        elif what == "heal":
            self.faults.heal()
        elif what == "tokens":
            self.faults.tokens = body["tokens"]
        elif what == "deny":
            self.faults.denied = body["verbs"]
        elif what == "history":
            return self.objects.history
        elif what == "struck":
            return self.faults.struck
        return {}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, tls: Path | None, client_ca: bool) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self._context: ssl.SSLContext | None = None
        if tls is not None:
            self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._context.load_cert_chain(tls / "server.pem")
            if client_ca:
                self._context.load_verify_locations(tls / "ca.pem")
                self._context.verify_mode = ssl.CERT_REQUIRED

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread: a handshake that hangs holds up nobody else."""
        if self._context is not None:
            try:
                request = self._context.wrap_socket(request, server_side=True)
            except OSError:
                return
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that went away is what these tests are about


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--tls", type=Path)
    parser.add_argument("--client-ca", action="store_true")
    args = parser.parse_args()
    Handler.objects, Handler.faults = Objects(args.state), Faults()
    server = Server(args.port, args.tls, args.client_ca)
    print(server.server_address[1], flush=True)
    server.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    main()
