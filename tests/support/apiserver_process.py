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
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from apiserver_objects import GROUP, NAME, Object, Objects, Refusal

_LEASES = re.compile(r"^/apis/coordination\.k8s\.io/v1/namespaces/([^/]+)/leases(?:/([^/]+))?$")
_NAMESPACES = re.compile(r"^/api/v1/namespaces(?:/([^/]+))?$")


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
                f'User "{user}" cannot {verb} resource "leases" in API group "{GROUP}" in the namespace "{namespace}"'
            )
            raise Refusal(403, "Forbidden", f'leases.{GROUP} "{name or NAME}" is forbidden: {text}', name=name or NAME)
        if name is None:
            return self.objects.create(namespace, body, dry="dryRun=All" in self.path)
        if verb == "get":
            return self.objects.get(namespace, name)
        if verb == "update":
            return self.objects.replace(namespace, name, body, dry="dryRun=All" in self.path)
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
