"""A double of the Kubernetes API server for Leases, in a process of its own, over HTTP or HTTPS, with faults to order.

What it answers is held against a real 1.36.2 server (`tests/leader/test_apiserver_double.py`): resourceVersion and
uid as preconditions, which refusal has which status, which times are accepted. It keeps its objects in a file, so
that it can be killed and started again as an etcd outlives its API server.

    with ApiServer() as api:                     # the test's side
        api.fault("hang", methods=["PUT"])       # until api.heal()
        api.fault("status", status=503, count=3, client="a")      # the next three requests of client "a"

A client is told apart by the first segment of its path: `api.url("a")` is the server's address for client "a".

Faults: `hang` (nothing done, no answer), `drop` (nothing done, connection closed), `lose` (done, connection closed),
`lose_hang` (done, no answer), `drip` (done, a byte every `seconds`), `slow` (done after `seconds`), `late` (done,
answered after `seconds`), `status`.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

NAMESPACE, NAME = "min-cli-system", "apiserver-lock"
Object = dict[str, Any]
_GROUP = "coordination.k8s.io"
_PROCESS = Path(__file__).with_name("apiserver_process.py")


class ApiServer:
    """Starts with the namespace in place. `tls`: HTTPS, with `self.tls_dir/ca.pem`; `client_certificates`: wants one,
    too."""

    def __init__(self, *, tls: bool = False, client_certificates: bool = False, namespace: bool = True) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="apiserver-"))
        self.tls_dir = self.home / "tls" if tls or client_certificates else None
        self._client_certificates = client_certificates
        if self.tls_dir is not None:
            make_certificates(self.tls_dir)
        self.port = 0
        self.process: subprocess.Popen[str] | None = None
        self.start()
        if namespace:
            self.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})

    # --- life ---

    def start(self) -> None:
        command = [sys.executable, str(_PROCESS), "--port", str(self.port), "--state", str(self.home / "objects.json")]
        if self.tls_dir is not None:
            command += ["--tls", str(self.tls_dir)]
        if self._client_certificates:
            command.append("--client-ca")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the API server's double did not start"
        self.port = int(line)

    def kill(self) -> None:
        """SIGKILL; its objects stay in their file, for `start`."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.home, ignore_errors=True)

    def __enter__(self) -> ApiServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- addresses ---

    def url(self, client: str = "", *, port: int | None = None) -> str:
        scheme = "https" if self.tls_dir is not None else "http"
        return f"{scheme}://127.0.0.1:{port or self.port}" + (f"/client-{client}" if client else "")

    def kubeconfig(self, client: str = "", *, port: int | None = None, user: Object | None = None) -> Path:
        """A kubeconfig file for this client; `user` as in kubeconfig (token, tokenFile, client-certificate, …)."""
        cluster: Object = {"server": self.url(client, port=port)}
        if self.tls_dir is not None:
            cluster["certificate-authority"] = str(self.tls_dir / "ca.pem")
        user = dict(user or {})
        if self._client_certificates:
            user |= {
                "client-certificate": str(self.tls_dir / "client.pem"),
                "client-key": str(self.tls_dir / "client.pem"),
            }  # type: ignore[operator]
        return write_kubeconfig(self.home / f"kubeconfig-{client or 'all'}-{port or 'direct'}", cluster, user)

    # --- orders ---

    def fault(self, kind: str, **order: Any) -> None:
        self.request("POST", "/_control/fault", {"kind": kind, **order})

    def heal(self) -> None:
        self.request("POST", "/_control/heal")

    def tokens(self, *tokens: str) -> None:
        """Only these are accepted from now on; none: no token is asked for."""
        self.request("POST", "/_control/tokens", {"tokens": list(tokens)})

    def deny(self, *verbs: str) -> None:
        self.request("POST", "/_control/deny", {"verbs": list(verbs)})

    def history(self) -> list[Object]:
        """Every write that landed: at (boottime), holder, transitions, uid, duration."""
        found: list[Object] = self.request("GET", "/_control/history")
        return found

    def struck(self, kind: str) -> int:
        found: dict[str, int] = self.request("GET", "/_control/struck")
        return found.get(kind, 0)

    # --- the lease, as an outsider sees and changes it ---

    def lease(self, name: str = NAME) -> Object | None:
        kept: Object = json.loads((self.home / "objects.json").read_text())["leases"]
        found: Object | None = kept.get(f"{NAMESPACE}/{name}")
        return found

    def path(self, name: str = NAME) -> str:
        return f"/apis/{_GROUP}/v1/namespaces/{NAMESPACE}/leases/{name}"

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """Straight to the server, no fault in between: control paths, and what an outsider does while no fault is
        ordered."""
        connection = self._connection()
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None)
            answer = connection.getresponse()
            data = json.loads(answer.read())
        finally:
            connection.close()
        assert answer.status < 300, f"{method} {path}: {answer.status} {data}"
        return data

    def _connection(self) -> http.client.HTTPConnection:
        if self.tls_dir is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        context = ssl.create_default_context(cafile=str(self.tls_dir / "ca.pem"))
        if self._client_certificates:
            context.load_cert_chain(self.tls_dir / "client.pem")
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=20, context=context)


def write_kubeconfig(path: Path, cluster: Object, user: Object) -> Path:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    fresh.write_text(json.dumps(config))
    fresh.replace(path)
    return path


def make_certificates(directory: Path) -> None:
    """ca.pem, server.pem and client.pem (key and certificate)."""
    import trustme

    directory.mkdir(parents=True)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    server = authority.issue_cert("127.0.0.1", "localhost")
    server.private_key_and_cert_chain_pem.write_to_path(str(directory / "server.pem"))
    authority.issue_cert("kubemin@example.org").private_key_and_cert_chain_pem.write_to_path(
        str(directory / "client.pem")
    )
