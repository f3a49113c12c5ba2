"""The Redis engine under the suite: a server for each test process, emptied for each store."""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from engines import Clock, Engine
from support.places import Place, open_place

from kubemin.model.states import Cause, TaskState
from kubemin.store.codec import STATES
from kubemin.store.redis import keys
from kubemin.store.redis.records import RunRecord, TaskRecord, slot_claims, unpack_run, unpack_task
from kubemin.store.redis.replies import unpack_folded
from kubemin.store.redis.store import RedisReader, RedisStore


@cache
def place(name: str) -> Place:
    opened = open_place(name)
    atexit.register(opened.close)
    return opened


class Redis(Engine):
    """`place`: where its keys live (support/places.py)."""

    place = "single-redis"
    transactional = False
    drops_in_pieces = False

    def __init__(self, folder: Path, **limits: Any) -> None:
        self.address = place(self.place).address
        self.clock = Clock()
        self._limits = limits
        self.store: RedisStore = self._open()
        self.store.client.execute("EXISTS", keys.SEQ)  # finds the server of a cluster that holds our keys
        self.store.client.execute("FLUSHALL")

    def _open(self) -> RedisStore:
        return RedisStore(self.address, instance="test", clock=self.clock, node="node-a", **self._limits)

    def reopen(self) -> RedisStore:
        self.store.client.disconnect()
        self.store = self._open()
        return self.store

    def reader(self) -> RedisReader:
        return RedisReader(self.address, clock=self.clock)

    def _runs(self) -> list[str]:
        return [run.decode() for run in self.store.client.execute("ZRANGE", keys.RUNS, 0, -1)]

    def _tasks(self, run: str) -> dict[int, TaskRecord]:
        flat = self.store.client.execute("HGETALL", keys.tasks(run))
        if (folded := self.store.client.execute("HGET", keys.run(run), "t")) is not None:
            assert not flat, "folded, and in its own key"
            flat = (unpack_folded(folded) or [[]])[0]
        return {int(idx): unpack_task(raw) for idx, raw in zip(flat[::2], flat[1::2], strict=True) if idx.isdigit()}

    def check(self) -> None:
        client = self.store.client
        ripples = [ripple.decode().split()[:2] for ripple in client.execute("ZRANGE", keys.ripples(), 0, -1)]
        claimed = [
            (claim.run, claim.idx)
            for slot in client.execute("SMEMBERS", keys.SLOTS)
            for claim in slot_claims(client.execute("GET", keys.slot(slot.decode())))
        ]
        assert len(claimed) == len(set(claimed)), "two claims of one task"
        locks = {key.decode() for key in client.execute("KEYS", keys.LOCK + "*")}
        assert locks == {f"{keys.LOCK}{run}.{idx}" for run, idx in claimed}, "a lock for each claim, and no other"
        for run in self._runs():
            raw = client.execute("HGET", keys.run(run), "r")
            if raw is not None:
                unfinished = {kind for kind, name in ripples if name == run} & {"build", "rebuild", "release"}
                self._check_run(run, unpack_run(raw), {idx for name, idx in claimed if name == run}, not unfinished)

    def _check_run(self, run: str, record: Any, claimed: set[int], released: bool) -> None:
        tasks = self._tasks(run)
        live = [idx for idx, task in tasks.items() if task.s < 3]
        if record.s >= 3:
            assert not live, "a run that has ended has something alive"
            return
        if record.g != 2 or not released:
            return
        counted = record.l if record.x is None else self._counted(run, record)
        assert counted == len(live), f"live counts what has not ended: {counted}, {live}"
        queued = {idx: task for idx, task in tasks.items() if task.s == 1}
        listed = sum(task.q is not None for task in queued.values())
        assert sum(dict(record.li).values()) == (listed if record.x is None else 0), "listed"
        assert record.pa == sum(task.q is None for task in queued.values()), "parked"
        for idx, task in queued.items():
            if task.q is not None:
                queue = self._queue(record.d, task.p if task.p is not None else idx)
                score = self.store.client.execute("ZSCORE", keys.pending(queue), f"{run}.{idx}")
                assert score is not None and task.q in (0, int(float(score))), "a place for each that is queued"
        held = {idx for idx, task in tasks.items() if task.s == 2 and task.m is None}
        assert held == claimed, "who runs is claimed"
        assert all(task.d is None for task in tasks.values() if task.s >= 3), "what has ended is not due"

    def _counted(self, run: str, record: RunRecord) -> int:
        """By a run with plain steps (lua/steps.lua)."""
        live: bytes = self.store.client.execute("HGET", keys.tasks(run), "h")
        if not live:
            return record.l
        assert live.startswith(b"w") == (record.s == 0), "the count says whether it has begun"
        return int(live.lstrip(b"w"))

    def _queue(self, digest: str, node: int) -> str:
        definition = self.store.definition(digest)
        assert definition is not None
        return definition.graph.nodes[node].queue

    def states(self, run: str) -> dict[str, tuple[TaskState, Cause | None]]:
        record = unpack_run(self.store.client.execute("HGET", keys.run(run), "r"))
        definition = self.store.definition(record.d)
        assert definition is not None
        tasks = self._tasks(run)
        found = {}
        for idx, task in tasks.items():
            if task.p is not None:
                parent = tasks[task.p]
                if not (parent.b or 0) <= idx < (parent.b or 0) + (parent.m or 0):
                    continue
            step = definition.graph.nodes[idx if task.p is None else task.p].step
            name = step if task.i is None else f"{step}[{task.i}]"
            found[name] = (STATES[task.s], Cause(task.c) if task.c else None)
        return found

    def spoil(self, run: str) -> None:
        self.store.client.execute("HSET", keys.run(run), "w", b'{"\xff')

    def leftovers(self, runs: Sequence[str]) -> int:
        client = self.store.client
        found = sum(len(client.execute("KEYS", f"*{run}*")) for run in runs)
        found += sum(client.execute("ZSCORE", keys.RUNS, run) is not None for run in runs)
        named = client.execute("HVALS", keys.KEYS)
        return found + sum(value.decode().startswith(tuple(runs)) for value in named)

    def close(self) -> None:
        self.store.close()


class Valkey(Redis):
    place = "single-valkey"


def engine_at(name: str) -> type[Redis]:
    return type(name, (Redis,), {"place": name})
