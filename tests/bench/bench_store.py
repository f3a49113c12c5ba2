"""What one task costs in the local store, in microseconds, all SQL and Python of an operation.

    python tests/bench/bench_store.py [--tasks 20000] [--batch 100]

Each operation is timed inside its group (the commit's fsync is shown apart). One line an operation with its budget.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter, process_time
from typing import Any

import msgspec

from kubemin.model.graph import Edge, Graph, Node
from kubemin.model.ids import run_ids
from kubemin.model.records import Claim, Definition, Outcome, Owner, Submission, Usage
from kubemin.model.states import TaskState
from kubemin.store.sqlite.reader import SqliteReader
from kubemin.store.sqlite.store import SqliteStore

BUDGETS = {
    "submit": 8.0, "claim": 10.0, "finish": 9.0, "stage": 1.5, "unpack": 9.0, "chain step": 40.0, "states": 4.0,
    "outputs": 4.0,
}  # fmt: skip
STEPS = 10
OWNER = Owner("bench", 0, 1)


class Timer:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.count: dict[str, int] = {}

    def add(self, name: str, count: int, work: Callable[..., Any], *arguments: Any) -> Any:
        begin = process_time()  # the machine may be busy with others
        result = work(*arguments)
        self.seconds[name] = self.seconds.get(name, 0.0) + process_time() - begin
        self.count[name] = self.count.get(name, 0) + count
        return result

    def report(self) -> bool:
        good = True
        for name, seconds in self.seconds.items():
            micros = seconds / self.count[name] * 1e6
            budget = BUDGETS.get(name)
            verdict = "" if budget is None else f"  budget {budget:5.1f}  {'ok' if micros <= budget else 'OVER'}"
            good = good and (budget is None or micros <= budget)
            print(f"{name:22s}{micros:8.2f} µs{verdict}")
        return good


def slices(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[at : at + size] for at in range(0, len(items), size))


def outcomes(claims: Sequence[Claim]) -> list[Outcome]:
    return [
        Outcome(
            c.run,
            c.idx,
            c.token,
            TaskState.COMPLETED,
            output=msgspec.Raw(b'{"rows":17}'),
            started=1,
            usage=Usage(0.01, 9),
        )
        for c in claims
    ]


def single_tasks(store: SqliteStore, timer: Timer, tasks: int, batch: int) -> list[str]:
    ids = list(run_ids(tasks))
    work = {"python": "reports.load:run", "args": [1], "with": {"rows": 2}}
    for some in slices([Submission(run, work=work) for run in ids], batch):
        with store.group():
            timer.add("submit", len(some), store.submit, some)
    done = 0
    while done < tasks:
        with store.group():
            claims = timer.add("claim", batch, store.claim, OWNER, ["default"], batch)
        reports = outcomes(claims)
        with store.group():
            timer.add("finish", len(claims), store.finish, OWNER, reports)
        done += len(claims)
        store.changes()
    return ids


def staged(store: SqliteStore, timer: Timer, tasks: int) -> None:
    work = {"python": "reports.load:run", "args": [1], "with": {"rows": 2}}
    parts = list(slices([Submission(run, work=work) for run in run_ids(tasks)], 1000))
    for part in parts:
        body = msgspec.json.encode(part)
        with store.group():
            timer.add("stage", len(part), store.stage, "batch", body)
    store.seal("batch")
    more = True
    while more:
        with store.group():
            more = timer.add("unpack", 0, store.advance)
    timer.count["unpack"] = tasks


def chains(store: SqliteStore, timer: Timer, runs: int, batch: int) -> None:
    nodes = tuple(
        Node(f"step-{n}", needs=(Edge(n - 1),) if n else (), work={"run": ["/bin/true"]}, queue="chain")
        for n in range(STEPS)
    )
    store.publish([Definition("c" * 64, Graph("chain", nodes))])
    for some in slices([Submission(run, workflow="chain") for run in run_ids(runs)], batch):
        timer.add("chain step", 0, store.submit, some)
    done, claims = 0, []
    while done < runs * STEPS:  # as the coordinator does it: what came in and what goes out in one transaction
        reports = outcomes(claims)
        with store.group():
            timer.add("chain step", 0, store.finish, OWNER, reports)
            claims = timer.add("chain step", 0, store.claim, OWNER, ["chain"], batch)
            timer.add("chain step", 0, store.next_due)  # writes what is only in memory yet
        done += len(reports)
        store.changes()
    timer.count["chain step"] = runs * STEPS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=100)
    options = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="bench-store-")
    try:
        timer = Timer()
        path = os.path.join(folder, "kubemin.db")
        store = timer.add("open (a call)", 1, lambda: SqliteStore(path, instance="bench"))
        begin = perf_counter()
        ids = single_tasks(store, timer, options.tasks, options.batch)
        timer.seconds["single, with commits"], timer.count["single, with commits"] = (
            perf_counter() - begin,
            options.tasks,
        )
        reader = SqliteReader(path)
        timer.add("states", len(ids), reader.states, ids)
        timer.add("outputs", len(ids), reader.outputs, ids)
        staged(store, timer, options.tasks)
        chains(store, timer, max(options.tasks // 20, 10), options.batch)
        return 0 if timer.report() else 1
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
