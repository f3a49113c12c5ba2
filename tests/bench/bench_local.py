"""Speed and size of a machine alone: figures, targets, and floors measured in the same run.

    python tests/bench/bench_local.py [CASE …] [--reps 5]

Not a timed test: it prints, and fails only when something is lost. Default configuration but for `maxWorkers` and
`python.allow`; the log goes to a file; retention runs; the daemon works while clients enqueue. A clock stops when a
fresh process has counted every run terminal, with its output, through the public API.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable

import psutil
from bench_support import FUNCTIONS, Daemon, counted, daemon, line, running

from kubemin import Client
from kubemin.scoreboard import SlotState

# --- floors ---


def fdatasync_seconds(folder: str) -> float:
    path = os.path.join(folder, "fdatasync")
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    taken = []
    for _ in range(200):
        os.write(fd, b"x" * 4096)
        began = time.perf_counter()
        os.fdatasync(fd)
        taken.append(time.perf_counter() - began)
    os.close(fd)
    os.unlink(path)
    return statistics.median(taken)


def sqlite_floor(folder: str, count: int = 20_000) -> float:
    """Tasks a second of one insert and one update each, synchronous=FULL, in groups of 100."""
    path = os.path.join(folder, "floor.db")
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("pragma journal_mode=wal")
    db.execute("pragma synchronous=full")
    db.execute("create table t(id text primary key, s text, p text, r text) without rowid")
    began = time.perf_counter()
    for start in range(0, count, 100):
        for sql in ("insert into t values(?,'queued','{}',null)", "update t set s='done',r='1' where id=?"):
            db.execute("begin immediate")
            db.executemany(sql, [(f"{n:016x}",) for n in range(start, start + 100)])
            db.execute("commit")
    rate = count / (time.perf_counter() - began)
    db.close()
    return rate


def floors() -> float:
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DISK")) as folder:
        sync = fdatasync_seconds(folder)
        print(
            f"floor: fdatasync {sync * 1e3:.3f} ms; SQLite FULL in groups of 100: {sqlite_floor(folder):,.0f} tasks/s"
        )
    return sync


# --- cases ---


def throughput(reps: int) -> None:
    """No-op Python tasks, enqueued in bulk by a client while the daemon works, run and recorded."""
    rates, bulk = [], []
    for _ in range(reps):
        with daemon() as it:
            client = it.client()
            client.enqueue_many("benchfunctions:noop", [((n,), {}) for n in range(200)])[-1].wait(timeout=30)
            items = [((n + 1,), {}) for n in range(100_000)]
            began = time.time()
            ids = [run.id for run in client.enqueue_many("benchfunctions:noop", items)]
            bulk.append(len(items) / (time.time() - began))
            rates.append(len(items) / (counted(it, ids) - began))
    line("no-op Python tasks, run and recorded", rates, "/s", "20,000")
    line("enqueue_many", bulk, "/s", "80,000")


def single(reps: int) -> None:
    rates = []
    with daemon() as it:
        client = it.client()
        client.enqueue("benchfunctions:noop", 1).wait(timeout=30)
        for _ in range(reps):
            began = time.time()
            for n in range(3000):
                client.enqueue("benchfunctions:noop", n + 1)
            rates.append(3000 / (time.time() - began))
    line("enqueued singly, each committed", rates, "/s", "2,500")


def latency(reps: int) -> None:
    p50, p99 = [], []
    with daemon() as it:
        client = it.client()
        for _ in range(reps):
            taken = []
            for _ in range(200):
                began = time.time()
                run = client.enqueue("benchfunctions:stamp")
                taken.append((run, began))
                time.sleep(0.01)
            delays = []
            for run, began in taken:
                run.wait(timeout=10)
                delays.append((run.result - began) * 1e3)
            delays.sort()
            p50.append(delays[len(delays) // 2])
            p99.append(delays[int(len(delays) * 0.99) - 1])
    line("submission to start, idle, p50", p50, "ms", "1")
    line("submission to start, idle, p99", p99, "ms", "5")


def idle(reps: int) -> None:
    cpu, pss = [], []
    with daemon(workers=10) as it:
        client = it.client()
        done = [0]
        while min(done) < 1000:  # naps keep a worker busy, so that each of them gets its share
            ids = [run.id for run in client.enqueue_many("benchfunctions:nap", [((0.001,), {})] * 12_000)]
            _wait(client, ids)
            done = [it.board().read_slot(n).done for n in range(10)]
        time.sleep(2)
        for _ in range(reps):
            before = [sum(psutil.Process(p).cpu_times()[:2]) for p in it.pids()]
            time.sleep(5)
            after = [sum(psutil.Process(p).cpu_times()[:2]) for p in it.pids()]
            cpu.append(100 * (sum(after) - sum(before)) / 5)
            pss.append(sum(psutil.Process(p).memory_full_info().pss for p in it.pids()) / 1e6)
    line("idle, 10 workers: CPU of one core", cpu, "%", "0.5")
    line("PSS of all 12 processes", pss, "MB", "60", f"tasks done by each: {done}")


def _wait(client: Client, ids: list[str]) -> None:
    while any(state in ("waiting", "running") for state in client.states(ids).values()):
        time.sleep(0.1)


def startup(reps: int) -> None:
    empty, kept = [], []
    for target, runs in ((empty, 0), (kept, 100_000)):
        it = Daemon(workers=2)
        try:
            it.start()
            if runs:
                ids = [
                    r.id for r in it.client().enqueue_many("benchfunctions:noop", [((n + 1,), {}) for n in range(runs)])
                ]
                counted(it, ids)
            it.stop()
            for _ in range(reps):
                target.append(it.start())
                it.stop()
        finally:
            it.clean()
    line("exec to ready", empty, "s", "0.3")
    line("exec to ready, 100,000 kept runs", kept, "s", "0.3")


def replace(reps: int) -> None:
    taken = []
    with daemon() as it:
        board = it.board()
        for _ in range(max(reps, 5)):
            victim = board.read_slot(0)
            began = time.monotonic()
            os.kill(victim.pid, signal.SIGKILL)
            while True:
                record = board.read_slot(0)
                if record is not None and record.pid not in (0, victim.pid) and record.state is SlotState.IDLE:
                    break
                time.sleep(0.0005)
            taken.append((time.monotonic() - began) * 1e3)
            time.sleep(0.3)
    line("a killed worker replaced", taken, "ms", "50")


def again(reps: int) -> None:
    """A killed worker's task started again, and the same after everything was killed and the daemon started again."""
    one, everything = [], []
    for _ in range(reps):
        with daemon() as it:
            run = it.client().enqueue("benchfunctions:nap", 20)
            first = running(it, run.id, {0})
            began = time.monotonic()
            os.kill(first.pid, signal.SIGKILL)
            second = running(it, run.id, {first.token})
            one.append(time.monotonic() - began)
            it.kill_all()
            began = time.monotonic()
            it.start()
            running(it, run.id, {first.token, second.token})
            everything.append(time.monotonic() - began)
    line("killed worker's task started again", one, "s", "0.1")
    line("everything killed, task started again", everything, "s", "1.5")


def stop(reps: int) -> None:
    taken = []
    for _ in range(reps):
        with daemon() as it:
            it.client().enqueue("benchfunctions:nap", 3)
            began = time.monotonic()
            while not any(
                r and r.state is SlotState.RUNNING for r in (it.board().read_slot(0), it.board().read_slot(1))
            ):
                time.sleep(0.001)
            begun = time.monotonic()
            time.sleep(0.5)
            it.stop()
            taken.append(time.monotonic() - begun - 3)
            assert begun - began < 1
    line("TERM during a 3 s task: gone after its end", taken, "s", "0.1")


def _memory(pid: int, stop_event: threading.Event, out: list[float]) -> None:
    while not stop_event.wait(0.1):
        with contextlib.suppress(psutil.Error):
            out.append(psutil.Process(pid).memory_info().rss / 1e6)


def _large(name: str, text: str, steps: int, reps: int) -> None:
    rates, growth = [], []
    for _ in range(reps):
        with daemon() as it:
            path = it.folder / "large.json"
            path.write_text(text)
            seen: list[float] = []
            end = threading.Event()
            thread = threading.Thread(target=_memory, args=(it.process.pid, end, seen))
            thread.start()
            began = time.time()
            run = it.client().submit(str(path))
            state = run.wait(timeout=600)
            rates.append(steps / (time.time() - began))
            end.set()
            thread.join()
            growth.append(max(seen) - seen[0])
            assert state == "completed", state
    line(name, rates, "steps/s", "-", f"supervisor grew by {max(growth):.2f} MB")


def chain(reps: int) -> None:
    steps = ",".join(f'{{"name":"s{n}","python":"benchfunctions:noop","with":{{"n":{n}}}}}' for n in range(10_000))
    _large("chain of 10,000 steps", f'{{"name":"chain","timeout":"2h","steps":[{steps}]}}', 10_000, min(reps, 2))


def fanout(reps: int) -> None:
    items = ",".join(map(str, range(100_000)))
    each = f'{{"name":"each","python":"benchfunctions:noop","with":{{"n":"${{{{ item }}}}"}},"forEach":[{items}]}}'
    after = '{"name":"after","python":"benchfunctions:noop","with":{"n":1},"needs":["each"]}'
    _large("fan-out of 100,000 (forEach)", f'{{"name":"fan","mode":"DAG","steps":[{each},{after}]}}', 100_001, 1)


def wide(reps: int) -> None:
    """The same with 100,000 explicit steps between two others."""
    middle = ",".join(
        f'{{"name":"m{n}","python":"benchfunctions:noop","with":{{"n":{n}}},"needs":["a"]}}' for n in range(100_000)
    )
    needs = ",".join(f'"m{n}"' for n in range(100_000))
    text = (
        '{"name":"wide","mode":"DAG","steps":[{"name":"a","python":"benchfunctions:noop","with":{"n":1}},'
        f'{middle},{{"name":"z","python":"benchfunctions:noop","with":{{"n":1}},"needs":[{needs}]}}]}}'
    )
    _large("fan-out of 100,000 (explicit steps)", text, 100_002, 1)


def crash(reps: int) -> None:
    """kill -9 of everything at a random moment under load: what was acknowledged is there; how much was repeated?"""
    repeated = []
    for _ in range(reps):
        it = Daemon()
        effects = it.folder / "effects"
        (it.folder / "benchfunctions.py").write_text(
            FUNCTIONS
            + f"\ndef effect(n):\n    fd = os.open({str(effects)!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n"
            "    os.write(fd, b'%d\\n' % n)\n    os.close(fd)\n    return n\n"
        )
        try:
            it.start()
            client = it.client()
            acknowledged = [
                r.id for r in client.enqueue_many("benchfunctions:effect", [((n + 1,), {}) for n in range(20_000)])
            ]
            time.sleep(random.uniform(0.05, 0.6))
            it.kill_all()
            it.start()
            counted(it, acknowledged)
            seen = effects.read_text().split()
            assert set(map(int, seen)) >= set(range(1, 20_001)), "an acknowledged run was lost"
            repeated.append(float(len(seen) - 20_000))
        finally:
            it.clean()
    line("repeated after kill -9 of all (2 workers)", repeated, "tasks", "20 ms of tasks a worker")


CASES: dict[str, Callable[[int], None]] = {
    f.__name__: f
    for f in (throughput, single, latency, idle, startup, replace, again, stop, chain, fanout, wide, crash)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="*", choices=[*CASES, []], help="all without an argument")
    parser.add_argument("--reps", type=int, default=5)
    options = parser.parse_args()
    floors()
    for name in options.case or CASES:
        CASES[name](options.reps)


if __name__ == "__main__":
    main()
