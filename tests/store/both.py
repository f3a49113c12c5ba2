"""A node's own store and its fleet's, and the move from one to the other in the steps that a coordinator makes."""

from __future__ import annotations

from pathlib import Path

from driving import drain
from engines import Clock, Engine, Sqlite
from redis_engine import Redis

from kubemin.coordinator.fleet.carriage import Carriage
from kubemin.model.states import Cause, TaskState
from kubemin.store.base import Reader, Store
from kubemin.store.redis.node import NodeStore
from kubemin.store.sqlite.moving import Moving


class RedisNode(Redis):
    """The engine, as a node's coordinator opens it."""

    store: NodeStore

    def slowest(self) -> float:
        """Milliseconds of the longest command since the server's start or the last `SLOWLOG RESET`."""
        return max((int(entry[2]) / 1000 for entry in self.store.client.execute("SLOWLOG", "GET", -1)), default=0.0)

    def _open(self) -> NodeStore:
        return NodeStore(self.address, instance="test", clock=self.clock, node="node-a", **self._limits)


class Both(Engine):
    """One engine for a test: SQLite, and from `move` on Redis."""

    def __init__(self, folder: Path, **limits: int) -> None:
        self.local = Sqlite(folder, **limits)
        self.fleet = RedisNode(folder, **limits)
        self.now: Engine = self.local

    @property
    def store(self) -> Store:  # type: ignore[override]
        return self.now.store

    @property
    def clock(self) -> Clock:  # type: ignore[override]
        return self.now.clock

    def carriage(self, durability: str = "none") -> Carriage:
        return Carriage(Moving(self.local.store), self.fleet.store, durability)

    def move(self, *, keep_clocks: bool = False) -> None:
        if not keep_clocks:
            self.fleet.clock.now = self.local.clock.now
        drain(self.local.store)
        carriage = self.carriage()
        while carriage.step():
            self.local.check()
            self.fleet.check()
        drain(self.fleet.store)
        self.now = self.fleet

    def reopen(self) -> Store:
        return self.now.reopen()

    def reader(self) -> Reader:
        return self.now.reader()

    def check(self) -> None:
        self.local.check()
        self.fleet.check()

    def states(self, run: str) -> dict[str, tuple[TaskState, Cause | None]]:
        return self.now.states(run)

    def close(self) -> None:
        self.local.close()
        self.fleet.close()
