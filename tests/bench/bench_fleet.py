"""Speed and size of a fleet's node with Redis beside it: figures, targets, and the bare floor in the same run.

    python tests/bench/bench_fleet.py [CASE …] [--server redis|valkey] [--reps 5] [--tasks 40000]

The rules of bench_local.py: default configuration, the log goes to a file, retention runs, the daemon works while
clients enqueue, and a clock stops when a fresh process has counted every run terminal, with its output, through the
public API. The server keeps an AOF, fsynced every second, on the disk of `BENCH_DISK` (else the temporary folder's).
`cpu` is what all processes of server and daemon used for a task, the client's beside it: it depends less than a rate on
what else the machine does.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench_redis_store import floor, timed
from bench_support import Cpu, Daemon, counted, line, running
from support.redis_server import Server

from kubemin.model.graph import Edge, Graph, Node
from kubemin.model.ids import run_id
from kubemin.model.records import Definition, Outcome, Owner, Submission
from kubemin.model.states import Kind, TaskState
from kubemin.store.redis.session import RECORDS
from kubemin.store.redis.store import RedisStore
from kubemin.worker.fleet.batch import MOST_STEPS

SINGLE = 10_000
ALONE = "import kubemin.worker.fleet.batch as batch; batch.MOST_TASKS = 1"
CALL = "python: 'benchfunctions:noop', with: {n: 1}"
CHAIN = "\n".join(f"  - {{name: s{n}, {CALL}}}" for n in range(10))
MIDDLE = "\n".join(f"  - {{name: m{n}, {CALL}, needs: [a]}}" for n in range(20))
LAST = f"  - {{name: z, {CALL}, needs: [{', '.join(f'm{n}' for n in range(20))}]}}"
FAN = f"  - {{name: a, {CALL}}}\n{MIDDLE}\n{LAST}"


class Setting:
    """What the command line asked for."""

    def __init__(self, kind: str, reps: int, tasks: int) -> None:
        self.kind, self.reps, self.tasks = kind, reps, tasks
        self.base = 0.0

    def of_floor(self, rates: list[float]) -> str:
        return f"{statistics.median(rates) / self.base:.2f} of the floor" if self.base else ""


@contextlib.contextmanager
def a_server(kind: str) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="kubemin-bench-redis-", dir=os.environ.get("BENCH_DISK")) as folder:
        server = Server(kind, folder=Path(folder), appendonly="yes", appendfsync="everysec")
        server.start()
        try:
            yield server
        finally:
            server.close()


@contextlib.contextmanager
def a_node(setting: Setting, workers: int = 2, before: str = "") -> Iterator[tuple[Daemon, Server]]:
    with a_server(setting.kind) as server:
        it = Daemon(workers, before=before, redisAddr=server.tcp_address)
        try:
            it.start()
            yield it, server
        finally:
            it.clean()


# --- the floor ---


def floors(setting: Setting) -> None:
    """One EVALSHA a task (lock, pop, write) on a plain socket."""
    with a_server(setting.kind) as server:
        server.command("RPUSH", "floor", *range(100))
        count = setting.tasks // 2
        rates = [timed(floor, *((server.socket, count, n) for n in range(2))) for _ in range(setting.reps)]
    setting.base = statistics.median(rates)
    line("floor: one EVALSHA a task on a plain socket", rates, "/s", "-")


# --- rates ---


def throughput(setting: Setting) -> None:
    bulk = _rates(setting, "no-op Python tasks, run and recorded", "20,000")
    line("enqueue_many", bulk, "/s", "80,000")


def alone(setting: Setting) -> None:
    """Each task claimed by itself: the report of one, with the claim of the next, is one round trip and one script."""
    _rates(setting, "the same, one at a time", "15,000", before=ALONE)


def _rates(setting: Setting, name: str, target: str, before: str = "") -> list[float]:
    """Prints how many were run and recorded, and returns how many were enqueued, a second."""
    rates, bulk, note = [], [], ""
    for _ in range(setting.reps):
        with a_node(setting, before=before) as (it, server):
            client = it.client()
            client.enqueue_many("benchfunctions:noop", [((n + 1,), {}) for n in range(200)])[-1].wait(timeout=30)
            items = [((n + 1,), {}) for n in range(setting.tasks)]
            scripts, cpu, began = _scripts(server), Cpu(it, server=server.process.pid), time.time()
            ids = [run.id for run in client.enqueue_many("benchfunctions:noop", items)]
            bulk.append(len(items) / (time.time() - began))
            rates.append(len(items) / (counted(it, ids) - began))
            note = f"{cpu.each(len(items))}, {(_scripts(server) - scripts) / len(items):.2f} scripts"
    line(name, rates, "/s", target, f"{setting.of_floor(rates)}, {note}")
    return bulk


def _scripts(server: Server) -> int:
    """That the server has run."""
    told = server.command("INFO", "commandstats").partition(b"cmdstat_evalsha:calls=")[2]
    return int(told.partition(b",")[0] or 0)


ENQUEUE = b"redis.call('HSET', KEYS[1], 's', ARGV[1]) redis.call('RPUSH', KEYS[2], KEYS[1]) return 1"


def floor_of_enqueueing(address: str) -> float:
    """Tasks a second, each put down by one EVALSHA over a plain connection, while nobody takes them."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    with socket.create_connection((host, int(port))) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def call(*words: bytes) -> bytes:
            link.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
            return link.recv(4096)

        sha = call(b"SCRIPT", b"LOAD", ENQUEUE).split(b"\r\n")[1]
        began = time.time()
        for n in range(SINGLE):
            call(b"EVALSHA", sha, b"2", b"h:%d" % n, b"floor", b"x" * 80)
        return SINGLE / (time.time() - began)


def single(setting: Setting) -> None:
    with a_server(setting.kind) as server:
        bare = [floor_of_enqueueing(server.tcp_address) for _ in range(setting.reps)]
    line("floor: enqueued singly over a plain connection", bare, "/s", "-")
    rates, note = [], ""
    with a_node(setting) as (it, server):
        client = it.client()
        client.enqueue("benchfunctions:noop", 1).wait(timeout=30)
        for _ in range(setting.reps):
            cpu, began = Cpu(it, server=server.process.pid), time.time()
            for n in range(SINGLE):
                client.enqueue("benchfunctions:noop", n + 1)
            rates.append(SINGLE / (time.time() - began))
            note = cpu.each(SINGLE)
            counted(it, [client.enqueue("benchfunctions:noop", 1).id])  # the next begins with an empty queue
    share = statistics.median(rates) / statistics.median(bare)
    line("enqueued singly", rates, "/s", "10,000", f"{share:.2f} of the floor, {note}")


def chains(setting: Setting) -> None:
    _graphs(setting, "chains of ten steps", f"name: bench\nsteps:\n{CHAIN}\n", 10)


def fans(setting: Setting) -> None:
    _graphs(setting, "1 → 20 → 1", f"name: bench\nmode: DAG\nsteps:\n{FAN}\n", 22)


def _graphs(setting: Setting, name: str, text: str, steps: int) -> None:
    rates, submitted, note = [], [], ""
    for _ in range(setting.reps):
        with a_node(setting) as (it, server):
            path = it.folder / "bench.yaml"
            path.write_text(text)
            client = it.client()
            client.submit(str(path)).wait(timeout=30)
            time.sleep(0.2)  # the file has rested: it is compiled once from here on
            client.submit(str(path)).wait(timeout=30)
            count = max(setting.tasks // 2 // steps, 1)
            cpu, began = Cpu(it, server=server.process.pid), time.time()
            ids = [client.submit(str(path)).id for _ in range(count)]
            submitted.append(count / (time.time() - began))
            rates.append(count * steps / (counted(it, ids) - began))
            note = cpu.each(count * steps)
    line(f"steps of {name}, run and recorded", rates, "/s", "12,000", f"{setting.of_floor(rates)}, {note}")
    line(f"submitted meanwhile: {name}", submitted, "runs/s", "2,000")


def latency(setting: Setting) -> None:
    p50, p99 = [], []
    with a_node(setting) as (it, _):
        client = it.client()
        for _ in range(setting.reps):
            taken = []
            for _ in range(200):
                began = time.time()
                taken.append((client.enqueue("benchfunctions:stamp"), began))
                time.sleep(0.01)
            delays = []
            for run, began in taken:
                run.wait(timeout=10)
                delays.append((run.result - began) * 1e3)
            delays.sort()
            p50.append(delays[len(delays) // 2])
            p99.append(delays[int(len(delays) * 0.99) - 1])
    line("enqueue to start, idle, p50", p50, "ms", "0.8")
    line("enqueue to start, idle, p99", p99, "ms", "1.5")


# --- size, start, deaths ---


def memory(setting: Setting) -> None:
    for workers, target in ((2, "40"), (8, "65")):
        values = []
        for _ in range(min(setting.reps, 3)):
            with a_node(setting, workers) as (it, _):
                items = [((n + 1,), {}) for n in range(1500 * workers)]
                counted(it, [run.id for run in it.client().enqueue_many("benchfunctions:noop", items)])
                supervisor, *children = it.pids()
                kept = [supervisor, *(pid for pid in children if "coordinator" not in _title(pid))]
                values.append(sum(psutil.Process(pid).memory_full_info().pss for pid in kept) / 1e6)
        line(f"PSS of supervisor and {workers} workers", values, "MB", target)


def _title(pid: int) -> str:
    return " ".join(psutil.Process(pid).cmdline())


def startup(setting: Setting) -> None:
    values = []
    with a_server(setting.kind) as server:
        it = Daemon(2, redisAddr=server.tcp_address)
        try:
            it.start()
            it.stop()
            for _ in range(setting.reps):
                run = it.client().enqueue("benchfunctions:stamp")
                began = time.time()
                it.start()
                run.wait(timeout=20)
                values.append(run.result - began)
                it.stop()
        finally:
            it.clean()
    line("exec to first task run", values, "s", "0.4")


def again(setting: Setting) -> None:
    one, everything = [], []
    for _ in range(setting.reps):
        with a_node(setting) as (it, _):
            run = it.client().enqueue("benchfunctions:nap", 20)
            first = running(it, run.id, {0})
            began = time.monotonic()
            os.kill(first.pid, 9)
            second = running(it, run.id, {first.token})
            one.append(time.monotonic() - began)
            it.kill_all()
            began = time.monotonic()
            it.start()
            running(it, run.id, {first.token, second.token})
            everything.append(time.monotonic() - began)
    line("killed worker's task started again", one, "s", "0.1")
    line("everything killed, task started again", everything, "s", "1.5")


# --- what Redis is asked ---


def commands(setting: Setting) -> None:
    """All that MONITOR shows outside scripts while the node is busy, its own bookkeeping included, for each task."""
    values = []
    for _ in range(min(setting.reps, 3)):
        with a_node(setting) as (it, server):
            client = it.client()
            items = [((n + 1,), {}) for n in range(setting.tasks)]
            ids = [run.id for run in client.enqueue_many("benchfunctions:noop", items)]
            tool = [sys.executable, "-c", MONITOR, str(server.port)]
            with subprocess.Popen(tool, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as watch:
                counted(it, ids)
                assert watch.stdin is not None and watch.stdout is not None
                watch.stdin.close()
                values.append(float(watch.stdout.read()) / setting.tasks)
    line("commands a task outside scripts, busy", values, "", "1.1", "the clients' looks included")


MONITOR = """
import socket, sys, select
link = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
link.sendall(b"MONITOR\\r\\n")
count, rest = 0, b""
while True:
    ready = select.select([link, sys.stdin], [], [])[0]
    if link in ready:
        lines = (rest + link.recv(1 << 20)).split(b"\\n")
        rest = lines.pop()
        count += sum(1 for each in lines if each[:1] == b"+" and b" lua]" not in each[:40])
    elif sys.stdin in ready:
        break
print(count)
"""


def longest(setting: Setting) -> None:
    """SLOWLOG after a fan-out of 100,000, and a cascade that skips 100,000 steps, each with its join, in the store."""
    for name, graph, first in (
        ("fan-out of 100,000", _fanned(100_000), TaskState.COMPLETED),
        ("100,000 steps skipped", _wide(100_000), TaskState.FAILED),
    ):
        values = []
        for _ in range(min(setting.reps, 3)):
            with a_server(setting.kind) as server:
                store = RedisStore(server.address, instance="bench", node="bench")
                store.publish([Definition("e" * 64, graph)])
                store.client.execute("SLOWLOG", "RESET")
                store.client.execute("CONFIG", "SET", "slowlog-log-slower-than", 1000)
                run = run_id()
                store.submit([Submission(run, workflow="large")])
                steps = _drain(store, first)
                assert store.states([run])[run].value in ("completed", "failed"), store.states([run])
                entries = store.client.execute("SLOWLOG", "GET", 128)
                scripts = [entry[2] for entry in entries if entry[3][0].upper() == b"EVALSHA"]
                values.append(max(scripts, default=1000) / 1000)
                store.close()
        line(f"longest script, {name}", values, "ms", "5", f"{steps:,} steps run")


def _drain(store: RedisStore, first: TaskState) -> int:
    """Run all that is there; the first task ends as told."""
    owner, outcomes, count = Owner("bench", 0, 1), [], 0
    while True:
        while store.advance(RECORDS):
            pass
        _, claims = store.finish_and_claim(owner, outcomes, ("default",), 1 if count == 0 else MOST_STEPS)
        states = [first if count + n == 0 else TaskState.COMPLETED for n in range(len(claims))]
        outcomes = [Outcome(c.run, c.idx, c.token, state) for c, state in zip(claims, states, strict=True)]
        count += len(claims)
        if not claims and not store.advance(RECORDS):
            return count


def _fanned(width: int) -> Graph:
    work = {"run": ["/bin/true"]}
    each = Node("each", kind=Kind.FANOUT, needs=(Edge(0),), work=work, items=list(range(width)))
    return Graph("large", (Node("a", work=work), each, Node("z", needs=(Edge(1),), work=work)))


def _wide(width: int) -> Graph:
    work = {"run": ["/bin/true"]}
    middle = tuple(Node(f"m{n}", needs=(Edge(0),), work=work) for n in range(width))
    return Graph(
        "large", (Node("a", work=work), *middle, Node("z", needs=tuple(Edge(n + 1) for n in range(width)), work=work))
    )


def backlog(setting: Setting) -> None:
    """The node's rate over the first of 1,000,000 waiting tasks, against the same number of which 1,000 are left."""
    few, many = setting.tasks + 1000, 1_000_000
    rates: dict[int, list[float]] = {few: [], many: []}
    notes, held = dict.fromkeys(rates, ""), []
    for _ in range(min(setting.reps, 3)):
        for size, found in rates.items():
            with a_node(setting) as (it, server):
                client, empty = it.client(), used(server)
                client.pause("default")
                for at in range(0, size, 50_000):
                    some = [((n + 1,), {}) for n in range(min(50_000, size - at))]
                    client.enqueue_many("benchfunctions:noop", some)
                held.append((used(server) - empty) / 1e6)
                client.resume("default")
                before, cpu, began = _done(it), Cpu(it, server=server.process.pid), time.monotonic()
                while _done(it) - before < setting.tasks and time.monotonic() - began < 60:
                    time.sleep(0.002)
                done = _done(it) - before
                found.append(done / (time.monotonic() - began))
                notes[size] = cpu.each(done)
    ratio = statistics.median(rates[many]) / statistics.median(rates[few])
    line("rate, down to a backlog of 1,000", rates[few], "/s", "-", notes[few])
    line("rate, backlog of 1,000,000", rates[many], "/s", "-", f"{ratio:.2f} of it, target 0.9; {notes[many]}")
    line("Redis' memory for a backlog of 1,000,000", held[1::2], "MB", "-")


def kept(setting: Setting) -> None:
    """What a finished run takes of Redis' memory."""
    singles, runs = [], []
    for _ in range(min(setting.reps, 3)):
        with a_node(setting) as (it, server):
            path = it.folder / "one.yaml"
            path.write_text(f"name: one\nsteps:\n  - {{name: a, {CALL}}}\n")
            client = it.client()
            client.submit(str(path)).wait(timeout=30)
            items = [((n + 1,), {}) for n in range(10_000)]
            before = used(server)
            counted(it, [run.id for run in client.enqueue_many("benchfunctions:noop", items)])
            between = used(server)
            counted(it, [client.submit(str(path)).id for _ in range(5000)])
            singles.append((between - before) / len(items))
            runs.append((used(server) - between) / 5000)
    line("memory of a finished task", singles, "bytes", "1,024")
    line("memory of a finished run of one step", runs, "bytes", "1,024")


def used(server: Server) -> int:
    """Bytes of memory that the server's data takes."""
    return int(server.command("INFO", "memory").partition(b"used_memory:")[2].partition(b"\r")[0])


def _done(it: Daemon) -> int:
    board = it.board()
    return sum(record.done for record in map(board.read_slot, range(2)) if record is not None)


CASES: dict[str, Callable[[Setting], None]] = {
    f.__name__: f
    for f in (
        throughput,
        alone,
        chains,
        fans,
        single,
        latency,
        memory,
        startup,
        again,
        commands,
        longest,
        backlog,
        kept,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="*", choices=[*CASES, []], help="all without an argument")
    parser.add_argument("--server", choices=("redis", "valkey"), default="redis")
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=40_000)
    options = parser.parse_args()
    setting = Setting(options.server, options.reps, options.tasks)
    floors(setting)
    for name in options.case or CASES:
        CASES[name](setting)


if __name__ == "__main__":
    main()
