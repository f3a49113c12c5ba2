"""A fleet of nodes under test, what they told, and what must hold of it in every scenario.

One machine, so one CLOCK_BOOTTIME: stamps of different processes can be compared, which is how an overlap of two
leaders is seen.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from support.apiserver import ApiServer
from support.forks import fork
from support.waiting import slack, wait_until

from kubemin.clock import boottime
from leader.ledger import Ledger, RedisProcess
from leader.node import run_node

Event = dict[str, Any]
SHORT = {"lease_duration": 2.0, "renew_deadline": 1.2, "retry_period": 0.2}
# So long a lease that who acts at once is told from who waits for it, however busy the machine is.
LASTING = {"lease_duration": 15.0, "renew_deadline": 10.0, "retry_period": 0.3}
AT_ONCE = 5.0  # seconds, in a fleet with LASTING leases
FULL = {"lease_duration": 15.0, "renew_deadline": 10.0, "retry_period": 2.0}
LONG = bool(os.environ.get("KUBEMIN_TEST_LONG"))
PATIENCE = 25.0  # seconds that anything may take on a loaded machine


class NodeProcess:
    def __init__(self, name: str, setup: dict[str, Any]) -> None:
        self.name = name
        self.setup = setup
        self.orders = Path(setup["orders"])
        self.orders.mkdir(exist_ok=True)
        self.log = Path(setup["events"]).with_name(f"{name}.log")
        self.process: ForkServerProcess | None = None

    def start(self) -> None:
        self.process = fork(run_node, self.setup, str(self.log))

    @property
    def pid(self) -> int:
        assert self.process is not None and self.process.pid is not None
        return self.process.pid

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float = PATIENCE) -> int:
        assert self.process is not None
        self.process.join(timeout)
        assert self.process.exitcode is not None, f"{self.name} has not ended within {timeout:g} s"
        return self.process.exitcode

    def kill(self) -> None:
        if self.process is not None and self.process.exitcode is None:
            self.process.kill()
            self.process.join()

    def stopped(self) -> bool:
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def order(self, name: str) -> None:
        (self.orders / name).touch()

    def revoke(self, name: str) -> None:
        (self.orders / name).unlink(missing_ok=True)


class Fleet:
    """`api` None: the Redis elector, with `lease_redis` (default: the ledger's server) for its lock."""

    def __init__(
        self,
        names: str,
        *,
        api: ApiServer | None = None,
        kubeconfig: Callable[[str], Path] | None = None,
        election: dict[str, Any] | None = None,
        lease_redis: RedisProcess | None = None,
        started: bool = True,
        **setup: Any,
    ) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="fleet-"))
        self.redis = RedisProcess()
        self.ledger = Ledger(self.redis.socket)
        self.api = api
        self._kubernetes = api is not None or kubeconfig is not None
        self._kubeconfig = kubeconfig or (api.kubeconfig if api is not None else None)
        self._lease_socket = (lease_redis or self.redis).socket
        self._common = {"election": election or dict(SHORT), **setup}
        self.election = self._common["election"]
        self._events = self.home / "events"
        self._events.touch()
        self.nodes = {name: self._node(name) for name in names}
        if started:
            for node in self.nodes.values():
                node.start()

    def _node(self, name: str) -> NodeProcess:
        setup = {
            "name": name,
            "events": str(self._events),
            "orders": str(self.home / f"orders-{name}"),
            "ledger": self.redis.socket,
            "backend": "kubernetes" if self._kubernetes else "redis",
            "lease_socket": self._lease_socket,
            "kubeconfig": str(self._kubeconfig(name)) if self._kubeconfig is not None else "",
            **self._common,
        }
        return NodeProcess(name, setup)

    def add(self, name: str, setup: dict[str, Any]) -> NodeProcess:
        """One more, with a setup of its own."""
        node = self.nodes[name] = NodeProcess(name, setup | {"orders": str(self.home / f"orders-{name}")})
        node.start()
        return node

    def __getitem__(self, name: str) -> NodeProcess:
        return self.nodes[name]

    # --- what happened ---

    def events(self, event: str | None = None, *, node: str | None = None, after: float = 0.0) -> list[Event]:
        found = [json.loads(line) for line in self._events.read_text().splitlines()]
        return [
            one for one in found if event in (None, one["event"]) and node in (None, one["node"]) and one["at"] >= after
        ]

    def wait_event(self, event: str, *, node: str | None = None, after: float = 0.0, within: float = PATIENCE) -> Event:
        what = f"{event!r} of {node or 'any node'}"
        try:
            return wait_until(lambda: self.events(event, node=node, after=after), within, what=what)[0]
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{self.logs()}") from None

    def wait_leader(self, *, after: float = 0.0, within: float = PATIENCE, but: str = "") -> NodeProcess:
        """The first node that became leader after a moment, once an effect of that term was accepted."""

        def found() -> Event | None:
            return next((one for one in self.events("leader", after=after) if one["node"] != but), None)

        try:
            event = wait_until(lambda: found(), within, what="a leader")
            wait_until(lambda: self._acted(event["epoch"]), within, what="an effect of the new leader")
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{self.logs()}") from None
        return self.nodes[event["node"]]

    def _acted(self, epoch: int) -> bool:
        return self.ledger.count() > 0 and any(one["epoch"] >= epoch for one in self.ledger.effects())

    def wait_effects(self, count: int = 3, within: float = PATIENCE) -> None:
        """That many more, from now on."""
        goal = self.ledger.count() + count
        wait_until(lambda: self.ledger.count() >= goal, within, what=f"{count} effects")

    def failover(self, since: float) -> float:
        """Seconds from `since` to the first effect of a leader that began afterwards."""
        epoch = self.events("leader", after=since)[0]["epoch"]
        return float(min(one["checked"] for one in self.ledger.effects() if one["epoch"] == epoch)) - since

    @property
    def bound(self) -> float:
        """For a leader that vanished: the lease, one look of a candidate, and what a loaded machine adds."""
        return float(self.election["lease_duration"] + self.election["retry_period"] * 1.2) + slack(1.5)

    def logs(self) -> str:
        return "\n".join(
            f"--- {node.name}\n{node.log.read_text()}" for node in self.nodes.values() if node.log.exists()
        )

    # --- what must hold ---

    def check(self, *, belief: bool = True) -> None:
        """Epochs rise strictly from term to term, one holder each; effects are in their order; and, with `belief`,
        nobody even thought to lead while another had begun to (a lease that was deleted is the exception that needs
        the fence)."""
        epochs = [one["epoch"] for one in self.events("leader")]
        assert len(set(epochs)) == len(epochs), f"an epoch was used twice: {epochs}\n{self.logs()}"
        effects = self.ledger.effects()
        order = [one["epoch"] for one in effects]
        assert order == sorted(order), f"effects out of order: {order}"
        holders = {(one["epoch"], one["holder"]) for one in effects}
        assert len({epoch for epoch, _ in holders}) == len(holders), holders
        if belief:
            self._check_belief(effects)

    def _check_belief(self, effects: list[Event]) -> None:
        begun = sorted((one["at"], one["epoch"], one["node"]) for one in self.events("leader"))
        assert [epoch for _, epoch, _ in begun] == sorted(epoch for _, epoch, _ in begun), begun
        tried = effects + [one | {"node": one["node"]} for one in self.events("fenced")]
        for one in tried:
            later = [term for term in begun if term[1] > one["epoch"] and term[0] < one["checked"]]
            assert not later, f"{one} was let through after {later[0]} had begun\n{self.logs()}"

    # --- the end ---

    def close(self) -> None:
        for node in self.nodes.values():
            node.kill()
        self.redis.close()
        shutil.rmtree(self.home, ignore_errors=True)

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def vanish(node: NodeProcess) -> float:
    """SIGKILL; when."""
    at = boottime()
    node.send(signal.SIGKILL)
    node.wait()
    return at
