"""Three whole daemons and their election: each reaches the lease through a proxy of its own, which can cut it off.

Over Kubernetes the lease is kept by the double of the API server, or by the real one of KUBEMIN_TEST_KUBECONFIG, where
the test gets a lease of its own name; over Redis by the fleet's server. What happens is read from the daemons' logs.
"""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from support.apiserver import NAMESPACE, ApiServer, write_kubeconfig
from support.daemon import Daemon
from support.faultproxy import FaultProxy
from support.preload import wall_clock
from support.processes import alive, descendants
from support.redis_server import Server
from support.waiting import slack, wait_until

from kubemin.kube.client import new_client
from kubemin.kube.credentials import Credentials, Kind
from kubemin.scoreboard import Scoreboard

QUICK = {"leaseDuration": "3s", "renewDeadline": "2s", "retryPeriod": "300ms"}
PATIENT = {"leaseDuration": "6s", "renewDeadline": "4s", "retryPeriod": "200ms"}  # a burst of faults ends within a term
FULL = {"leaseDuration": "15s", "renewDeadline": "10s", "retryPeriod": "2s"}
WAITING = "name: patient-{node}\nsteps:\n  - {{name: wait, run: [cat, '{fifo}'], queue: {node}}}\n"
PATIENCE = 30.0
Event = dict[str, Any]


class Daemons:
    """Nodes a, b, c. `api` None: the Redis elector. Ended with the context; `check` says what must hold of every
    story."""

    def __init__(
        self,
        *,
        api: ApiServer | None,
        real: str = "",
        election: dict[str, str] | None = None,
        fault: str = "",
        user: Any = None,
        clocks: dict[str, int] | None = None,
        **settings: Any,
    ) -> None:
        """`fault`: of node a, once (kubemin/faults.py). `user`: its credentials, as in a kubeconfig. `clocks`: by how
        many seconds the wall clock of each node is wrong."""
        self._stack = ExitStack()
        self.election = dict(election or QUICK)
        self.kubernetes = api is not None or bool(real)
        self.api, self._user = api, user
        if real:
            self._stack.callback(lambda: _delete_lease(real, self.lease_name))
        self.lease_name = f"kubemin-test-{uuid.uuid4().hex[:8]}" if real else "apiserver-lock"
        self.redis = self._stack.enter_context(Server())
        self.clocks = clocks or {}
        self.proxies: dict[str, FaultProxy] = {}
        self.nodes: dict[str, Daemon] = {}
        for name in "abc":
            self.proxies[name] = proxy = self._stack.enter_context(self._proxy(api, real))
            armed = {"KUBEMIN_FAULT": fault, "KUBEMIN_FAULT_ONCE": f"{self.redis.folder}/struck"} if name == "a" else {}
            armed |= self._clock(name)
            self.nodes[name] = daemon = Daemon(environ=armed, **self._settings(name, proxy, real) | settings)
            self._stack.callback(daemon.close)
            os.mkfifo(daemon.home / "fifo")
            daemon.workflow("patient.yaml", WAITING.format(node=name, fifo=daemon.home / "fifo"))

    def _clock(self, name: str) -> dict[str, str]:
        if name not in self.clocks:
            return {}
        self.set_clock(name, self.clocks[name])
        return wall_clock(Path(self.redis.folder), self._clock_file(name))

    def _clock_file(self, name: str) -> Path:
        return Path(self.redis.folder) / f"clock-{name}"

    def set_clock(self, name: str, wrong: int) -> None:
        """What it logs from here on has wrong times: `events` corrects them by what the clock was at the start."""
        self._clock_file(name).write_text(str(wrong))

    def _proxy(self, api: ApiServer | None, real: str) -> FaultProxy:
        if real:
            place = urlsplit(_cluster(real)["server"])
            return FaultProxy(place.port or 443, place.hostname or "127.0.0.1")
        return FaultProxy(api.port if api is not None else self.redis.port)

    def _settings(self, name: str, proxy: FaultProxy, real: str) -> dict[str, Any]:
        election: dict[str, Any] = {**self.election, "backend": "kubernetes" if self.kubernetes else "redis"}
        own: dict[str, Any] = {
            "nodeId": name,
            "queues": ["default", name],
            "log": {"level": "info", "format": "json"},
            "redisAddr": self.redis.tcp_address if self.kubernetes else f"127.0.0.1:{proxy.port}",
            "lock": {"ttl": "6s", "renew": "2s"},
            "leaderElection": election,
        }
        if real:
            election["name"] = self.lease_name
            own["kubeconfig"] = str(_redirected(real, proxy.port, Path(self.redis.folder) / f"kubeconfig-{name}"))
        elif self.api is not None:
            own["kubeconfig"] = str(self.api.kubeconfig(name, port=proxy.port, user=self._user))
        return own

    def start(self) -> Daemons:
        """The first leads, the others have seen it."""
        first, *others = self.nodes.values()
        first.start().wait_log("Node a became leader", 20)
        for daemon in others:
            daemon.start(ready=False)
        for daemon in others:
            daemon.wait_ready()
            daemon.wait_log(" is follower", 20)
        return self

    # --- what happened ---

    def events(self, message: str, *, after: float = 0.0) -> list[Event]:
        """Log records of all nodes that begin so, in the order of time; `at` is seconds since the epoch."""
        found = []
        for node, daemon in self.nodes.items():
            for line in daemon.log.splitlines():
                record = _record(line, self.clocks.get(node, 0))
                if record is not None and record["message"].startswith(message) and record["at"] > after:
                    found.append(record | {"node": node})
        return sorted(found, key=lambda one: float(one["at"]))

    def terms(self, *, after: float = 0.0) -> list[Event]:
        return [one for one in self.events("Node ", after=after) if one["message"].endswith("became leader")]

    def leader(self) -> str:
        """The node whose term is valid now; empty: none."""
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        for name, daemon in self.nodes.items():
            if daemon.running:
                record = Scoreboard.open(str(daemon.run / "scoreboard")).read_coordinator()
                if record is not None and record.term_until > now and alive(record.pid):
                    return name
        return ""

    def wait_leader(self, *, but: str = "", after: float = 0.0, timeout: float = PATIENCE) -> Event:
        """The first term that began after a moment, of another node than `but`."""

        def found() -> Event | None:
            return next((one for one in self.terms(after=after) if one["node"] != but), None)

        try:
            return wait_until(found, timeout, what="the next leader")
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{self.logs()}") from None

    def wait_event(self, message: str, *, node: str = "", after: float = 0.0, timeout: float = PATIENCE) -> Event:
        def found() -> Event | None:
            return next((one for one in self.events(message, after=after) if node in ("", one["node"])), None)

        try:
            return wait_until(found, timeout, what=f"{message!r} of {node or 'any node'}")
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{self.logs()}") from None

    @property
    def bound(self) -> float:
        """Of a fail-over: the lease, a candidate's look, and what a loaded machine adds; 17.5 s with the defaults."""
        lease, retry = seconds(self.election["leaseDuration"]), seconds(self.election["retryPeriod"])
        return lease + 1.2 * retry + (0.1 if lease >= 15 else slack(2.0))

    def logs(self) -> str:
        return "\n".join(f"--- {name}\n{daemon.log[-6000:]}" for name, daemon in self.nodes.items())

    # --- tasks meanwhile ---

    def begin_tasks(self) -> dict[str, str]:
        """A step on each node that ends with `untouched`: node -> run. All execute: what was only claimed is given back
        at a stop."""
        client = next(iter(self.nodes.values())).client
        runs = {name: client.submit(f"patient-{name}") for name in self.nodes}
        for name, run in runs.items():
            self.nodes[name].wait_log(f"executing task {run.id}.0", 20)
        return {name: run.id for name, run in runs.items()}

    def untouched(self, runs: dict[str, str]) -> None:
        """Each still runs, and ends where it began, in its first attempt, under its first token."""
        for name in runs:
            wait_until(lambda name=name: self._let_end(name), 10, what=f"the step of node {name}")
        client = next(daemon.client for daemon in reversed(self.nodes.values()) if daemon.running)
        for name, run in runs.items():
            try:
                assert client.run(run).wait(60) == "completed"
            except TimeoutError as exc:
                raise AssertionError(f"{exc}\n{self.logs()}") from None
            [task] = client.reader().run(run).tasks
            assert (task.node, task.attempt, task.cause) == (name, 1, None), task
        assert not self.events("task requeued") and not self.events("task fenced"), self.logs()

    def _let_end(self, name: str) -> bool:
        """False: nobody reads."""
        try:
            os.close(os.open(self.nodes[name].home / "fifo", os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True

    # --- what must hold ---

    def check(self) -> None:
        """Epochs rise strictly, each used once."""
        epochs = [one["epoch"] for one in self.terms()]
        assert epochs == sorted(set(epochs)), f"{epochs}\n{self.logs()}"

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Daemons:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def freeze(daemon: Daemon) -> list[int]:
    """SIGSTOP the whole tree, from the top; the pids."""
    tree: list[int] = []
    while fresh := [pid for pid in [daemon.pid, *descendants(daemon.pid)] if pid not in tree]:
        _signal(fresh, signal.SIGSTOP)
        tree += fresh
    return tree


def thaw(tree: list[int]) -> None:
    _signal(reversed(tree), signal.SIGCONT)


def _signal(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def seconds(text: str) -> float:
    return float(text[:-2]) / 1000 if text.endswith("ms") else float(text[:-1])


def _record(line: str, wrong: int) -> Event | None:
    try:
        record: Event = json.loads(line)
        return record | {"at": datetime.fromisoformat(record["time"]).timestamp() - wrong}
    except (ValueError, KeyError, TypeError):
        return None  # a line that is being written, or is not the log's


def _cluster(kubeconfig: str) -> dict[str, Any]:
    cluster: dict[str, Any] = yaml.safe_load(Path(kubeconfig).read_text())["clusters"][0]["cluster"]
    return cluster


def _delete_lease(kubeconfig: str, name: str) -> None:
    client = new_client(Credentials(Kind.KUBECONFIG, kubeconfig))
    path = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{name}"
    client.call_api(*client.param_serialize("DELETE", path, auth_settings=["BearerToken"]), _request_timeout=(5, 5))


def _redirected(kubeconfig: str, port: int, path: Path) -> Path:
    """The same cluster and user, by way of a proxy on this machine."""
    config = yaml.safe_load(Path(kubeconfig).read_text())
    scheme = urlsplit(_cluster(kubeconfig)["server"]).scheme
    return write_kubeconfig(
        path, _cluster(kubeconfig) | {"server": f"{scheme}://127.0.0.1:{port}"}, config["users"][0]["user"]
    )
