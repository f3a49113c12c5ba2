"""One node of a fleet under test: a process with a real campaign, whose leader work is to write guarded effects.

Its main loop stands for the coordinator's. It tells what happens to
it, with boottime stamps, in a file of JSON lines. What a test wants in the middle of its work it says by files in
`orders`:

`hang` (the work hangs while it exists), `crash` (raises, once), `pause` (SIGSTOPs itself between check and write,
once), `deaf` (ignores SIGTERM), `slow-stop` (its work takes 0.5 s to stop), `step-down` (as `kubeminctl leader
--step-down`, once).
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from kubemin import clock
from kubemin.clock import boottime
from kubemin.config import LeaderElection
from kubemin.leader.announcer import Announcer
from kubemin.leader.campaign import Campaign
from kubemin.leader.lease.base import LeaseBackend
from kubemin.leader.lease.caller import FLEET_KEYS, StoreCaller
from kubemin.leader.lease.redis import Agreement, RedisLease
from kubemin.leader.term import Grant
from kubemin.store.redis.address import parse
from kubemin.telemetry import log
from leader.ledger import Ledger

BEAT = 0.02  # seconds between two turns of the loop


class Told(Announcer):
    """The real announcer, and a line for the test."""

    def __init__(self, node: Node) -> None:
        super().__init__(node.name, "lease")
        self._tell = node.tell

    def became_leader(self, grant: Grant) -> None:
        super().became_leader(grant)
        self._tell("leader", epoch=grant.epoch, until=grant.until)

    def lost(self, epoch: int, reason: str) -> None:
        super().lost(epoch, reason)
        self._tell("lost", epoch=epoch, reason=reason)

    def released(self, epoch: int, reason: str) -> None:
        super().released(epoch, reason)
        self._tell("released", epoch=epoch, reason=reason)

    def follows(self, holder: str) -> None:
        super().follows(holder)
        self._tell("follower", holder=holder)

    def outage(self, reason: str, now: float) -> None:
        super().outage(reason, now)
        self._tell("outage", reason=reason)

    def outage_over(self, now: float) -> None:
        super().outage_over(now)
        self._tell("outage over")

    def misconfigured(self, reason: str) -> None:
        super().misconfigured(reason)
        self._tell("misconfigured", reason=reason)

    def configured(self) -> None:
        super().configured()
        self._tell("configured")


class Node:
    def __init__(self, setup: dict[str, Any]) -> None:
        self.name: str = setup["name"]
        self._out = os.open(setup["events"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._orders = Path(setup["orders"])
        self._ledger = Ledger(setup["ledger"])
        floor_ledger = Ledger(setup["ledger"])
        self._stopping = threading.Event()
        self._led = 0
        settings = LeaderElection(**setup["election"])
        agreement = Agreement(lambda: _caller(setup["ledger"]), FLEET_KEYS.backend)
        backend = _backend(setup, settings)
        self.campaign = Campaign(
            backend,
            settings,
            floor_ledger.highest_epoch,
            Told(self),
            wall=lambda: clock.wall() + self._wall_offset(),
            may_campaign=lambda: agreement.check(backend.place, 3.0),
            work_stalls_after=setup.get("stall", settings.renew_deadline / 2),
        )

    def tell(self, event: str, **fields: Any) -> None:
        line = {"at": boottime(), "node": self.name, "event": event, **fields}
        os.write(self._out, json.dumps(line).encode() + b"\n")

    def _wall_offset(self) -> int:
        """Microseconds by which this node's wall clock is wrong: the order `wall` holds them, and may change."""
        path = self._orders / "wall"
        return int(path.read_text() or 0) if path.exists() else 0

    # --- the loop ---

    def run(self) -> None:
        deaf = self._ordered("deaf", keep=True)
        signal.signal(signal.SIGTERM, signal.SIG_IGN if deaf else lambda *_: self._stopping.set())
        self.campaign.start()
        self.tell("started", pid=os.getpid(), identity=self.campaign.identity)
        while not self._stopping.wait(BEAT):
            self._turn()
        self._stop()

    def _turn(self) -> None:
        while self._ordered("hang", keep=True):
            time.sleep(BEAT)
        if self._ordered("step-down"):
            self.campaign.step_down("asked for")
        self.campaign.beat()
        grant = self.campaign.term.current()
        if grant is None:
            return
        try:
            self._work(grant)
        except Exception as exc:
            self.tell("work failed", reason=f"{type(exc).__name__}: {exc}")
            self.campaign.step_down("its work crashed")

    def _work(self, grant: Grant) -> None:
        if self._led != grant.epoch:
            if not self._ledger.lead(grant.epoch, grant.holder):
                self.tell("not led", epoch=grant.epoch)
                self.campaign.step_down("the store knows a higher epoch")
                return
            self._led = grant.epoch
        if self._ordered("crash"):
            raise RuntimeError("ordered")
        if not self.campaign.term.valid(grant.epoch):
            return
        checked = boottime()
        if self._ordered("pause"):
            os.kill(os.getpid(), signal.SIGSTOP)
        done = self._ledger.effect(grant.epoch, grant.holder, node=self.name, checked=checked)
        if not done:
            self.tell("fenced", epoch=grant.epoch, checked=checked)
            self.campaign.step_down("fenced")

    def _stop(self) -> None:
        if self._ordered("slow-stop"):  # work that goes on for a while: it is still renewed, and still valid
            until = time.monotonic() + 0.5
            while time.monotonic() < until:
                self._turn()
                time.sleep(BEAT)
        self.tell("work stopped", led=self._led)
        begun = time.monotonic()
        released = self.campaign.stop()
        self.tell("exit", released=released, seconds=time.monotonic() - begun)

    def _ordered(self, order: str, *, keep: bool = False) -> bool:
        path = self._orders / order
        if not path.exists():
            return False
        if not keep:
            path.unlink(missing_ok=True)
        return True


def _caller(socket: str) -> StoreCaller:
    return StoreCaller(parse(f"unix://{socket}"))


def _backend(setup: dict[str, Any], settings: LeaderElection) -> LeaseBackend:
    if setup["backend"] == "redis":
        return RedisLease(lambda: _caller(setup["lease_socket"]), FLEET_KEYS, settings.lease_duration)
    from kubemin.kube.client import new_client
    from kubemin.kube.credentials import find_credentials
    from kubemin.leader.lease.kubernetes import KubernetesLease

    credentials = find_credentials(setup["kubeconfig"])
    assert credentials is not None
    return KubernetesLease(lambda: new_client(credentials), settings.namespace, settings.name)


def run_node(setup: dict[str, Any], log_file: str) -> None:
    """A process of its own, forked: all that it says goes to its log file."""
    out = os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(out, 1)
    os.dup2(out, 2)
    log.configure(level="debug", format="text", node=setup["name"], role=setup["name"])
    Node(setup).run()
