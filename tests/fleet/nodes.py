"""A fleet under test: real daemons, each with its own directories and name, on one real server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from support import Daemon, wait_until
from support.functions import install
from support.places import Place, open_place
from support.redis_server import Server
from support.watching import coordinator, coordinator_pid, look, printed, running

from kubemin.config import load_settings
from kubemin.scoreboard import SlotRecord
from kubemin.store.redis.node import NodeStore
from kubemin.store.redis.opening import open_store

__all__ = ["Fleet", "a_fleet", "anywhere", "coordinator_pid", "look", "printed", "running"]

FUNCTIONS = """
def patient(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if kubemin.current_task().cancelled:
            return "told"
        time.sleep(0.01)

def burn(seconds):
    # one call into C that keeps the GIL
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(30_000_000))
    return "burnt"

def deaf(seconds):
    # looks for no cancel, and for nothing else
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.05)

def die_always():
    os.kill(os.getpid(), signal.SIGKILL)

def token():
    return kubemin.current_task().token
"""

# The promises scale with these: a lost node is noticed within ttl + 5 s, a leader within leaseDuration + 2.5 s.
QUICK_LOCK = {"ttl": "3s", "renew": "1s"}
QUICK_ELECTION = {"backend": "redis", "leaseDuration": "3s", "renewDeadline": "2s", "retryPeriod": "300ms"}


class Fleet:
    """`node()` starts another daemon; everything is ended with the context."""

    def __init__(self, place: Place, folder: Path, stack: ExitStack) -> None:
        self.place, self.folder = place, folder
        self.nodes: list[Daemon] = []
        self._stack = stack
        self.python = install(folder, "fleetfunctions", FUNCTIONS)

    @property
    def server(self) -> Server:
        return self.place.server

    def node(self, *, started: bool = True, environ: dict[str, str] | None = None, **settings: Any) -> Daemon:
        name = f"node-{len(self.nodes)}"
        given: dict[str, Any] = {
            "redisAddr": self.place.address,
            "nodeId": name,
            "python": self.python,
            "lock": QUICK_LOCK,
            "leaderElection": QUICK_ELECTION,
        }
        daemon = Daemon(environ=environ, **(given | settings))
        self._stack.callback(daemon.close)
        self.nodes.append(daemon)
        return daemon.start() if started else daemon

    def store(self) -> NodeStore:
        return open_store(load_settings(str(self.nodes[0].config)), name="test")

    def leader(self) -> Daemon | None:
        """The node whose own scoreboard says that it leads."""
        for daemon in self.nodes:
            if daemon.running:
                record = coordinator(daemon)
                if record is not None and record.term_until > time.clock_gettime(time.CLOCK_BOOTTIME):
                    return daemon
        return None

    def wait_leader(self, timeout: float = 10.0) -> Daemon:
        return wait_until(self.leader, timeout, what="a leader")


@contextmanager
def a_fleet(folder: Path, place: str = "", kind: str = "redis", **options: Any) -> Iterator[Fleet]:
    with closing(open_place(place or f"single-{kind}", **options)) as opened, ExitStack() as stack:
        yield Fleet(opened, folder, stack)


def anywhere(fleet: Fleet, run: str, beyond: int = 0, timeout: float = 20.0) -> tuple[Daemon, SlotRecord]:
    def found() -> tuple[Daemon, SlotRecord] | None:
        for daemon in fleet.nodes:
            if daemon.running and (record := look(daemon, run, beyond)) is not None:
                return daemon, record
        return None

    return wait_until(found, timeout, what=f"run {run} on some worker")
