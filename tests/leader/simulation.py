"""A fleet in simulated time: the real elector over a lease, a network and clocks that misbehave as a seed says.

Hours of an election pass in a second, so that interleavings come up that no test with real processes would meet.
Electors run as coroutines would: one step at a time, in the order of their wake-ups; a request takes simulated time
in which others run.
"""

from __future__ import annotations

import heapq
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from kubemin.clock import Micros
from kubemin.config import LeaderElection
from kubemin.leader.announcer import Announcer
from kubemin.leader.elector import Elector
from kubemin.leader.lease.base import (
    Claim,
    Conflict,
    LeaseRecord,
    Misconfigured,
    Missing,
    Unanswered,
    Unauthorized,
)
from kubemin.leader.term import Grant


class World:
    """One clock, one thread at a time: `pause` gives the others their turn."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._sleepers: list[tuple[float, int, threading.Semaphore]] = []
        self._count = 0
        self._idle = threading.Semaphore(0)
        self.over = False
        self.failure: BaseException | None = None

    def pause(self, seconds: float) -> None:
        """In a simulated thread: go on that much later."""
        mine = threading.Semaphore(0)
        self._count += 1
        heapq.heappush(self._sleepers, (self.now + max(seconds, 1e-6), self._count, mine))
        self._idle.release()
        mine.acquire()
        if self.over:
            raise SystemExit

    def spawn(self, function: Callable[[], None]) -> None:
        def run() -> None:
            try:
                self.pause(0.0)
                function()
            except SystemExit:
                pass
            except BaseException as exc:
                self.failure = exc
            self._idle.release()

        threading.Thread(target=run, daemon=True).start()
        self._idle.acquire()

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self._sleepers and self._sleepers[0][0] < until and self.failure is None:
            self.now, _, sleeper = heapq.heappop(self._sleepers)
            sleeper.release()
            self._idle.acquire()
        self.over = True
        for _, _, sleeper in self._sleepers:
            sleeper.release()
            self._idle.acquire()
        if self.failure is not None:
            raise self.failure


@dataclass
class Cluster:
    """The API server's lease, and the store's epoch."""

    lease: LeaseRecord | None = None
    version: int = 0
    incarnation: int = 0
    epoch: int = 0  # of the store: the fence

    def write(self, record: LeaseRecord, *, fresh: bool = False) -> LeaseRecord:
        self.version += 1
        self.incarnation += fresh
        uid = f"uid-{self.incarnation}"
        mark = f"{record.holder} {record.transitions} {record.renewed}"
        self.lease = msgspec.structs.replace(record, uid=uid, version=str(self.version), mark=mark)
        return self.lease


@dataclass
class Line:
    """A node's way to the cluster. `fault(kind)` decides the fate of each request."""

    world: World
    cluster: Cluster
    chance: random.Random
    trouble: float = 0.0  # probability that a request fails in some way
    cut_until: float = 0.0
    frozen_until: float = 0.0  # of the process: it sends nothing, hears nothing and measures no time-out
    kind: str = "kubernetes"
    place: str = "Lease simulated"
    recreates: bool = True

    def read(self, timeout: float) -> LeaseRecord | None:
        return self._exchange(timeout, lambda: self.cluster.lease)

    def acquire(self, seen: LeaseRecord | None, claim: Claim, timeout: float) -> LeaseRecord:
        wanted = LeaseRecord(
            holder=claim.holder, duration=claim.duration, transitions=claim.transitions, renewed=str(claim.at)
        )

        def act() -> LeaseRecord:
            if seen is None:
                if self.cluster.lease is not None:
                    raise Conflict("already exists")
                return self.cluster.write(wanted, fresh=True)
            self._precondition(seen)
            return self.cluster.write(wanted)

        return self._exchange(timeout, act)

    def renew(self, held: LeaseRecord, at: Micros, timeout: float) -> LeaseRecord:
        def act() -> LeaseRecord:
            self._precondition(held)
            return self.cluster.write(msgspec.structs.replace(held, renewed=str(at)))

        return self._exchange(timeout, act)

    def release(self, held: LeaseRecord, at: Micros, timeout: float) -> None:
        def act() -> LeaseRecord:
            self._precondition(held)
            return self.cluster.write(msgspec.structs.replace(held, holder="", duration=1.0, renewed=str(at)))

        self._exchange(timeout, act)

    def reconnect(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _precondition(self, seen: LeaseRecord) -> None:
        lease = self.cluster.lease
        if lease is None:
            raise Conflict("precondition failed: uid") if self.chance.random() < 0.5 else Missing("not found")
        if (seen.uid, seen.version) != (lease.uid, lease.version):
            raise Conflict("the object has been modified")

    def _exchange(self, timeout: float, act: Callable[[], Any]) -> Any:
        """There, done, and back; each way may fail, and what hangs is abandoned when its time is up."""
        if self.world.now < self.cut_until:
            return self._hang(timeout)
        fate = self.chance.random()
        if fate < self.trouble * 0.3:
            return self._hang(timeout)
        there = self.chance.expovariate(1 / 0.02)
        if there >= timeout:
            return self._hang(timeout)
        self.world.pause(there)
        if fate < self.trouble * 0.6:
            raise self.chance.choice([Unanswered("503"), Unauthorized("401"), Misconfigured("403"), Conflict("409")])
        answer = act()
        back = timeout if fate < self.trouble * 0.9 else self.chance.expovariate(1 / 0.02)
        if there + back >= timeout:  # done, and nobody hears of it
            return self._hang(timeout - there)
        self.world.pause(back)
        self.thaw()  # the answer is there when it wakes up
        return answer

    def thaw(self) -> None:
        while self.world.now < self.frozen_until:
            self.world.pause(self.frozen_until - self.world.now)

    def _hang(self, timeout: float) -> Any:
        self.world.pause(timeout)
        self.thaw()
        raise Unanswered("no answer")


@dataclass
class Told(Announcer):
    node: str
    world: World
    terms: list[tuple[float, int, str]]
    lines: list[str] = field(default_factory=list)

    def became_leader(self, grant: Grant) -> None:
        self.terms.append((self.world.now, grant.epoch, self.node))

    def lost(self, epoch: int, reason: str) -> None:
        self.lines.append(f"lost {epoch}: {reason}")

    def released(self, epoch: int, reason: str) -> None:
        self.lines.append(f"released {epoch}")

    def stalled(self, epoch: int) -> None:
        self.lines.append("stalled")

    def follows(self, holder: str) -> None:
        self.lines.append("follows")

    def changed_leader(self, holder: str) -> None:
        pass

    def outage(self, reason: str, now: float) -> None:
        self.lines.append("outage")

    def outage_over(self, now: float) -> None:
        self.lines.append("outage over")

    def misconfigured(self, reason: str) -> None:
        self.lines.append("misconfigured")

    def configured(self) -> None:
        self.lines.append("configured")


class SimulatedNode:
    """The elector's thread, and a main thread that acts whenever its term lets it."""

    def __init__(
        self, name: str, world: World, cluster: Cluster, seed: int, terms: list[tuple[float, int, str]]
    ) -> None:
        self.name, self.world, self.cluster = name, world, cluster
        self.chance = random.Random(f"{seed}-{name}")
        self.line = Line(world, cluster, self.chance)
        self.told = Told(name, world, terms)
        self.effects: list[tuple[float, int]] = []  # when its check let an effect through, and under which epoch
        self.refused = 0
        self.drift = 1 + self.chance.uniform(-1e-4, 1e-4)  # 100 ppm: clocks of real machines
        self.wall_offset = self.chance.randrange(-(10**10), 10**10)
        self._led = 0
        self.elector = Elector(
            self.line,
            name,
            LeaderElection(),
            lambda: cluster.epoch,
            self.told,
            now=self.boottime,
            wall=lambda: int(world.now * 1e6) + self.wall_offset,
            chance=self.chance.random,
        )
        world.spawn(self._elect)
        world.spawn(self._work)

    def boottime(self) -> float:
        """Its own clock, a little fast or slow. A frozen process does not get to ask."""
        return self.world.now * self.drift

    def freeze(self, seconds: float) -> None:
        self.line.frozen_until = self.world.now + seconds

    def _elect(self) -> None:
        while True:
            self.line.thaw()
            self.world.pause(self.elector.step())

    def _work(self) -> None:
        while True:
            self.line.thaw()
            grant = self.elector.term.current()
            if grant is not None:
                self._act(grant)
            self.world.pause(self.chance.uniform(0.05, 0.5))

    def _act(self, grant: Grant) -> None:
        if self._led != grant.epoch:
            if grant.epoch <= self.cluster.epoch:
                self.refused += 1
                self.elector.step_down("the store knows a higher epoch")
                return
            self._led = self.cluster.epoch = grant.epoch
        self.effects.append((self.world.now, grant.epoch))
        if self.cluster.epoch != grant.epoch:
            self.refused += 1
            self.elector.step_down("fenced")
