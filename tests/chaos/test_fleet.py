"""Three daemons on one server under random kills, pauses and restarts, seeded; the oracle is that of `mixture.py`.

Beyond it: each accepted run is terminal whoever ended it; no lock, queue entry or slot's record is left; every node
still works at the end.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from leftovers import descriptors, left_behind, names
from mixture import FUNCTIONS, WORKFLOW, Load, check_tasks, ran, send_signal
from nodes import Fleet, a_fleet
from support import Daemon, wait_until
from support.faultproxy import FaultProxy
from support.functions import install
from support.processes import descendants
from support.watching import coordinator, slots

from kubemin.errors import NotFound, StoreUnavailable
from kubemin.model.records import RunView
from kubemin.scoreboard import Scoreboard
from kubemin.store.redis import keys
from kubemin.store.redis.node import NodeStore
from kubemin.store.sqlite.reader import SqliteReader

SHORT = 8.0  # seconds, as in CI; a longer run has outages of the server too (each by itself: test_outages_fleet.py)
QUIET = 20.0  # seconds after the last fault in which a lock may still have to lapse
MOST_OPEN = 150  # runs of one client: with more, nobody is ever idle, and the end is long in coming
STALLED = 45.0  # seconds without any end: longer than what a lost entry waits at most (30 s)
LOG = {"level": "info", "format": "text"}
SPARE = 6  # descriptors more than at the start, at most: a log that is written, a connection of the moment


class Storm:
    """One fault after the other; what it broke stands again, or will by itself."""

    def __init__(self, fleet: Fleet, proxies: list[FaultProxy], rng: random.Random, *, outages: bool) -> None:
        self.fleet, self.proxies, self.rng = fleet, proxies, rng
        self.outages = outages  # of the server too
        self.struck: Counter[str] = Counter()

    def strike(self) -> None:
        faults = {
            "worker": 8, "coordinator": 3, "node": 2, "supervisor": 2, "leader": 1, "pause": 1, "hup": 1, "cut": 2,
            "replies": 2, "network": 1, "half-open": 1, "scripts": 1, "operator": 4,
            "server": int(self.outages), "server-pause": int(self.outages), "refusal": int(self.outages),
        }  # fmt: skip
        what = self.rng.choices(list(faults), list(faults.values()))[0]
        getattr(self, what.replace("-", "_"))(self.rng.choice(self.fleet.nodes))
        self.struck[what] += 1

    def worker(self, node: Daemon) -> None:
        if records := slots(node):
            send_signal(self.rng.choice(records).pid, signal.SIGKILL)

    def coordinator(self, node: Daemon) -> None:
        record = coordinator(node)
        if record and record.pid:
            send_signal(record.pid, signal.SIGKILL)

    def node(self, node: Daemon) -> None:
        node.kill9(everything=True)
        node.start(ready=False)

    def supervisor(self, node: Daemon) -> None:
        node.kill9()
        node.start(ready=False)

    def leader(self, node: Daemon) -> None:
        self.coordinator(self.fleet.leader() or node)

    def pause(self, node: Daemon) -> None:
        """Shorter than a lock's life: what runs goes on."""
        tree = [node.pid, *descendants(node.pid)]
        for pid in tree:
            send_signal(pid, signal.SIGSTOP)
        threading.Timer(0.7, lambda: [send_signal(pid, signal.SIGCONT) for pid in tree]).start()

    def hup(self, node: Daemon) -> None:
        """Where somebody listens: before, a process ends by it."""
        header = Scoreboard.open(str(node.run / "scoreboard")).read_header()
        if header is not None and header.supervisor_pid == node.pid:
            node.send(signal.SIGHUP)

    def cut(self, _node: Daemon) -> None:
        self.fleet.server.command("CLIENT", "KILL", "TYPE", "normal")

    def replies(self, _node: Daemon) -> None:
        """Many replies to one node are lost after their scripts ran."""
        proxy = self.rng.choice(self.proxies)
        proxy.swallow = 0.3
        threading.Timer(0.7, setattr, (proxy, "swallow", 0.0)).start()

    def network(self, _node: Daemon) -> None:
        proxy = self.rng.choice(self.proxies)
        proxy.cut("refuse")
        threading.Timer(0.7, proxy.heal).start()

    def half_open(self, _node: Daemon) -> None:
        self.rng.choice(self.proxies).cut("half-open")

    def server(self, _node: Daemon) -> None:
        self.fleet.server.stop()  # an orderly end: all that was acknowledged is in the AOF
        self.fleet.server.start()

    def server_pause(self, _node: Daemon) -> None:
        self.fleet.server.pause()
        threading.Timer(0.8, self.fleet.server.resume).start()
        time.sleep(0.9)

    def scripts(self, _node: Daemon) -> None:
        self.fleet.server.command("SCRIPT", "FLUSH")

    def operator(self, _node: Daemon) -> None:
        """Somebody deletes what heals: a lock, what a worker's slot holds, a queue."""
        found = names(self.fleet.server, self.rng.choice(["lock:*", keys.slot("*"), keys.queue("default")]))
        if found:
            self.fleet.server.command("DEL", self.rng.choice(found))

    def refusal(self, _node: Daemon) -> None:
        limit, none = self.rng.choice(
            [
                (("CONFIG", "SET", "maxmemory", "1mb"), ("CONFIG", "SET", "maxmemory", "0")),
                (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
            ]
        )
        self.fleet.server.command(*limit)
        time.sleep(0.8)
        self.fleet.server.command(*none)


def test_a_fleet_loses_nothing_and_ends_nothing_twice(tmp_path: Path, seed: int, chaos_seconds: float) -> None:
    rng = random.Random(seed)
    python = install(tmp_path, "chaosfunctions", FUNCTIONS)
    effects = tmp_path / "effects"
    effects.touch()
    with a_fleet(tmp_path, appendonly="yes") as fleet, ExitStack() as stack:
        proxies = [stack.enter_context(FaultProxy(fleet.server.port)) for _ in range(3)]
        for proxy in proxies:
            address = f"127.0.0.1:{proxy.port}"
            node = fleet.node(started=False, redisAddr=address, maxWorkers=2, python=python, log=LOG)
            node.workflow("mixture.yaml", WORKFLOW.format(log=effects))
            node.start()
        opened = [descriptors(node) for node in fleet.nodes]
        loads = [Load(node, effects, random.Random(seed + n), MOST_OPEN) for n, node in enumerate(fleet.nodes, 1)]
        for load in loads:
            load.start()
        storm, end = Storm(fleet, proxies, rng, outages=chaos_seconds > SHORT), time.monotonic() + chaos_seconds
        while time.monotonic() < end:
            time.sleep(rng.expovariate(4.0))  # the faults' own pace, not a wait for anything
            storm.strike()
        for load in loads:
            load.end.set()
        for load in loads:
            load.join(30)
        accepted = [run for load in loads for run in load.accepted]
        began = time.monotonic()
        states = _ended(fleet, [load.accepted for load in loads])
        seconds = time.monotonic() - began
        print(
            f"seed {seed}: {len(accepted)} runs accepted, struck {dict(storm.struck)}, all ended {seconds:.1f} s after"
        )
        assert set(states) == set(accepted), "an accepted run is unknown"
        _check_effects(fleet, accepted, effects)
        _check_leftovers(fleet)
        for node, before in zip(fleet.nodes, opened, strict=True):
            wait_until(lambda node=node: node.ctl("status", "-o", "json").code == 0, 20)
            _check_descriptors(node, before)
            assert node.stop() == 0, node.log[-3000:]
            assert node.leftovers() == []


def _ended(fleet: Fleet, accepted: list[list[str]]) -> dict[str, str]:
    """Each node is asked for what was accepted through it: what it began while Redis did not answer ends there."""
    states: dict[str, str] = {}
    for node, runs in zip(fleet.nodes, accepted, strict=True):
        states |= _ended_of(fleet, node, runs)
    return states


def _ended_of(fleet: Fleet, node: Daemon, accepted: list[str]) -> dict[str, str]:
    """As long as something ends now and then, however slow the machine is."""
    left = len(accepted) + 1
    while True:
        try:
            return node.client.wait(accepted, timeout=STALLED)
        except TimeoutError:
            states = node.client.states(accepted)
            before, still = left, [run for run, state in states.items() if state in ("waiting", "running")]
            left = len(still)
            if left >= before:
                _explain(fleet, still)
                raise


def _explain(fleet: Fleet, still: list[str]) -> None:
    print(f"{len(still)} runs do not end")
    for run in still[:3]:
        print(fleet.store().run(run), fleet.nodes[0].ctl("why", run).stdout)
    print(fleet.nodes[0].ctl("queue").stdout, fleet.nodes[0].ctl("nodes").stdout)
    print(left_behind(fleet.server))
    for node in fleet.nodes:
        print(f"--- {node.home.name}\n{node.log[-4000:]}\n{node.ctl('status').stdout}")


def _check_effects(fleet: Fleet, accepted: list[str], effects: Path) -> None:
    found, store = ran(effects), fleet.store()
    for run in accepted:
        check_tasks(run, _view(fleet, store, run).tasks, found)


def _view(fleet: Fleet, store: NodeStore, run: str) -> RunView:
    """In Redis; or where it was begun while Redis did not answer (mode `carrying`): that machine ends it."""
    try:
        return store.run(run)
    except NotFound:
        for node in fleet.nodes:
            with suppress(NotFound, StoreUnavailable), closing(SqliteReader(str(node.state / "kubemin.db"))) as reader:
                return reader.run(run)
        raise


def _check_leftovers(fleet: Fleet) -> None:
    with suppress(AssertionError):
        wait_until(lambda: not left_behind(fleet.server), QUIET)
    assert left_behind(fleet.server) == []


def _check_descriptors(node: Daemon, before: Counter[str]) -> None:
    """The supervisor keeps a dead worker's channels for a few seconds: hence the wait."""

    def more() -> dict[str, str]:
        now = descriptors(node)
        return {kind: f"{count} -> {now[kind]}" for kind, count in before.items() if now[kind] > count + SPARE}

    with suppress(AssertionError):
        wait_until(lambda: not more(), QUIET)
    assert more() == {}
