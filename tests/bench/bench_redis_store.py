"""What the Redis store does in a second, held against a bare floor in the same run.

    python tests/bench/bench_redis_store.py [--server redis] [--tasks 60000] [--backlog 1000000]

A server of its own with the AOF fsynced every second. The floor is one EVALSHA a task (lock, pop, write) on a plain
socket.
One line a figure: tasks a second, ratio to the floor, and the target where there is one.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.redis_server import Server

from kubemin.model.graph import Edge, Graph, Node
from kubemin.model.ids import run_id, run_ids
from kubemin.model.records import Claim, Definition, Outcome, Owner, Submission
from kubemin.model.states import TaskState
from kubemin.store.redis.store import RedisStore

WORK = {"python": "reports.load:run", "args": [1]}
OUTPUT = msgspec.Raw(b"null")
FLOOR = b"""
redis.call('DEL', KEYS[1])
local task = redis.call('LPOP', KEYS[2])
if task then redis.call('SET', KEYS[1], task, 'NX', 'PX', 15000) end
redis.call('HSET', KEYS[3], 's', ARGV[1])
return task"""

fork = get_context("fork")


def outcome(claim: Claim) -> Outcome:
    return Outcome(claim.run, claim.idx, claim.token, TaskState.COMPLETED, output=OUTPUT)


def work(address: str, slot: int, batch: int, queues: tuple[str, ...], done: Any) -> None:
    """Finish and claim until nothing is left; tells how many tasks it was."""
    store = RedisStore(address, instance=f"bench-{batch}-{os.getpid()}", node="bench")
    owner = Owner(store._session.instance, slot, 1)
    count, outcomes = 0, []
    while True:
        _, claims = store.finish_and_claim(owner, outcomes, queues, batch)
        outcomes = [outcome(claim) for claim in claims]
        count += len(claims)
        if not claims:
            break
    done.put(count)
    store.close()


def floor(path: str, tasks: int, number: int, done: Any) -> None:
    link = socket.socket(socket.AF_UNIX)
    link.connect(path)

    def call(*words: bytes) -> bytes:
        link.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
        return link.recv(4096)

    sha = call(b"SCRIPT", b"LOAD", FLOOR).split(b"\r\n")[1]
    for n in range(tasks):
        call(b"EVALSHA", sha, b"3", b"lock:%d" % number, b"floor", b"h:%d:%d" % (number, n), b"x" * 80)
    done.put(tasks)


def timed(target: Callable[..., None], *arguments: tuple[Any, ...]) -> float:
    """Tasks a second of all processes together."""
    done = fork.SimpleQueue()
    processes = [fork.Process(target=target, args=(*each, done)) for each in arguments]
    begin = time.perf_counter()
    for process in processes:
        process.start()
    count = sum(done.get() for _ in processes)
    seconds = time.perf_counter() - begin
    for process in processes:
        process.join()
    return count / seconds


class Bench:
    def __init__(self, server: Server) -> None:
        self.server = server
        self.store = RedisStore(server.address, instance="bench", node="bench")
        self.base = 0.0

    def report(self, name: str, rate: float, target: float | None = None) -> float:
        ratio = f"{rate / self.base:5.2f} of the floor" if self.base else ""
        verdict = "" if target is None else f"target {target:>9,.0f} {'ok' if rate >= target else 'UNDER'}"
        print(f"{name:42s}{rate:12,.0f} /s  {ratio}  {verdict}", flush=True)
        return rate

    def clear(self) -> None:
        self.store.client.execute("FLUSHALL")

    def fill(self, tasks: int) -> float:
        begin = time.perf_counter()
        for at in range(0, tasks, 50_000):
            some = [Submission(run, work=WORK) for run in run_ids(min(50_000, tasks - at))]
            self.store.submit(some)
        return tasks / (time.perf_counter() - begin)

    def drain(self, batch: int, queues: tuple[str, ...] = ("default",)) -> float:
        return timed(work, *((self.server.address, slot, batch, queues) for slot in range(2)))

    def measure_floor(self, tasks: int) -> None:
        self.store.client.execute("RPUSH", "floor", *range(100))
        rate = timed(floor, *((self.server.socket, tasks // 2, number) for number in range(2)))
        self.report("floor: EVALSHA on a plain socket", rate)
        self.base = rate
        self.clear()

    def submits(self, tasks: int) -> None:
        self.report("submit, in bulk", self.fill(tasks), 100_000)
        self.clear()
        self.store.submit([Submission(run_id(), work=WORK)])
        ids = list(run_ids(tasks // 5))
        begin = time.perf_counter()
        for run in ids:
            self.store.submit([Submission(run, work=WORK)])
        self.report("submit, one by one", len(ids) / (time.perf_counter() - begin), 12_000)
        self.clear()

    def calls(self) -> None:
        """Commands inside the script of one busy single task."""
        self.fill(400)
        owner = Owner("calls", 0, 1)
        _, claims = self.store.finish_and_claim(owner, [], ["default"], 1)
        self.store.client.execute("CONFIG", "RESETSTAT")
        for _ in range(300):
            _, claims = self.store.finish_and_claim(owner, [outcome(claims[0])], ["default"], 1)
        info = self.store.client.execute("INFO", "commandstats").decode()
        counts = {
            line.split(":")[0][8:]: int(line.split("calls=")[1].split(",")[0])
            for line in info.splitlines()
            if line.startswith("cmdstat_")
        }
        inside = {
            name: n for name, n in counts.items() if name not in ("evalsha", "info", "config", "config|resetstat")
        }
        told = " ".join(f"{name} {n / 300:.2f}" for name, n in sorted(inside.items()))
        print(f"calls inside the script a task: {sum(inside.values()) / 300:.2f} (target 8)  {told}")
        self.clear()

    def memory(self) -> None:
        self.store.submit([Submission(run_id(), work=WORK)])
        self.drain(10)
        before = self._used()
        self.fill(20_000)
        self.drain(10)
        print(f"memory of a finished single run: {(self._used() - before) / 20_000:.0f} bytes (target 1024)")
        self.clear()

    def _used(self) -> int:
        info = self.store.client.execute("INFO", "memory").decode()
        return int(next(line for line in info.splitlines() if line.startswith("used_memory:")).split(":")[1])

    def chains(self, runs: int) -> None:
        nodes = tuple(
            Node(f"step-{n}", needs=(Edge(n - 1),) if n else (), work={"run": ["/bin/true"]}) for n in range(10)
        )
        self.store.publish([Definition("c" * 64, Graph("chain", nodes))])
        begin = time.perf_counter()
        self.store.submit([Submission(run, workflow="chain") for run in run_ids(runs)])
        self.report("submit runs of ten steps", runs / (time.perf_counter() - begin))
        self.report("steps of chains of ten, one at a time", self.drain(1), 12_000)
        self.clear()

    def backlog(self, tasks: int, taken: int) -> None:
        rates = []
        for size in (1000, tasks):
            self.fill(size)
            self.fill(taken)
            address = self.server.address
            rates.append(timed(some, *((address, slot, taken // 2) for slot in range(2))))
            self.clear()
        print(
            f"rate with a backlog of {tasks:,} against one of 1,000: {rates[1]:,.0f} / {rates[0]:,.0f} ="
            f" {rates[1] / rates[0]:.2f} (target 0.9)"
        )

    def slowest(self) -> None:
        entries = self.store.client.execute("SLOWLOG", "GET", 5)
        worst = max((entry[2] for entry in entries), default=0)
        print(f"slowest command: {worst / 1000:.1f} ms (target 5)" if worst else "slowest command: under 5 ms")


def some(address: str, slot: int, most: int, done: Any) -> None:
    store = RedisStore(address, instance=f"some-{os.getpid()}", node="bench")
    owner = Owner(store._session.instance, slot, 1)
    outcomes: list[Outcome] = []
    for _ in range(most):
        _, claims = store.finish_and_claim(owner, outcomes, ["default"], 1)
        outcomes = [outcome(claim) for claim in claims]
    done.put(most)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", choices=("redis", "valkey"), default="redis")
    parser.add_argument("--tasks", type=int, default=60_000)
    parser.add_argument("--backlog", type=int, default=0, help="0: not measured")
    options = parser.parse_args()
    server = Server(options.server, appendonly="yes", appendfsync="everysec", tcp=False)
    try:
        server.start()
        bench = Bench(server)
        bench.measure_floor(options.tasks)
        bench.submits(options.tasks)
        bench.fill(options.tasks)
        bench.report("single tasks, one at a time", bench.drain(1), 20_000)
        bench.clear()
        bench.fill(options.tasks)
        bench.report("single tasks, ten at a time", bench.drain(10), 30_000)
        bench.clear()
        bench.chains(options.tasks // 20)
        bench.calls()
        bench.memory()
        if options.backlog:
            bench.backlog(options.backlog, options.tasks)
        bench.slowest()
    finally:
        server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
