"""Small runs that have ended take one key each (lua/folding.lua), and all that is asked of them is still answered."""

from __future__ import annotations

import msgspec
import pytest
from driving import ALICE, ended, finish, outcome, start, take
from graphs import node, workflow
from leftovers import names
from support.redis_server import Server

from kubemin.model.records import Claim
from kubemin.model.states import Cause, TaskState
from kubemin.store.base import Retention, Verdict
from kubemin.store.redis import keys
from kubemin.store.redis.node import NodeStore

ONE = workflow("nightly-report", node("a"))
CHAIN = workflow("chain", node("a"), node("b", 0), node("c", 1))


def of_run(server: Server, run: str) -> set[str]:
    return {name.removeprefix(keys.PREFIX).partition(":")[0] for name in names(server, f"*{run}*")}


def complete(store: NodeStore, output: object = 1) -> Claim:
    [claim] = take(store)
    finish(store, outcome(claim, output=output))
    return claim


def worked_off(store: NodeStore, *outputs: object) -> str:
    run = start(store, CHAIN)
    for output in outputs:
        complete(store, output)
    return run


def test_a_finished_run_of_one_step_takes_less_than_a_kibibyte(store: NodeStore, server: Server) -> None:
    def used() -> int:
        info = store.client.execute("INFO", "memory").decode()
        return int(info.partition("used_memory:")[2].split()[0])

    store.define([ONE])
    for _ in range(10):
        start(store, ONE)
        complete(store, {"rows": 20, "tables": ["customers", "orders"], "took": 1.5})
    before = used()
    for _ in range(1000):
        run = start(store, ONE)
        complete(store, {"rows": 20, "tables": ["customers", "orders"], "took": 1.5})
    assert (used() - before) / 1000 < 1024
    assert of_run(server, run) == {"run"}


def test_what_is_shown_of_it(store: NodeStore, server: Server) -> None:
    run = worked_off(store, "x" * 300, None, [3])
    assert of_run(server, run) == {"run"}
    assert store.outputs([run])[run] == {"a": "x" * 300, "c": [3]}
    view = store.run(run)
    assert [(task.step, task.status, task.attempt) for task in view.tasks] == [(s, "completed", 1) for s in "abc"]
    assert [task.output for task in view.tasks] == ["x" * 300, None, [3]]
    assert store.states([run]) == {run: "completed"} and store.retry(run, "b") == 2


def test_a_repeat_of_its_last_result_is_known(store: NodeStore) -> None:
    start(store, ONE)
    claim = complete(store)
    assert store.finish(ALICE, [outcome(claim)]) == [Verdict.DUPLICATE]
    claim.token += 1
    assert store.finish(ALICE, [outcome(claim)]) == [Verdict.FENCED]


@pytest.mark.parametrize("failed", [False, True])
def test_it_runs_again(store: NodeStore, server: Server, failed: bool) -> None:
    run = worked_off(store, 1, 2)
    [last] = take(store)
    state = TaskState.FAILED if failed else TaskState.COMPLETED
    finish(store, outcome(last, state, Cause.EXIT if failed else None, None if failed else 3))
    assert ended(store, run)[0] == state and of_run(server, run) == {"run"}
    assert store.retry(run, None if failed else "c") == 2
    assert of_run(server, run) == {"run", "tasks", "out"}
    claim = complete(store, 4)
    assert claim.step == "c" and claim.token > last.token
    assert store.outputs([run])[run] == {"a": 1, "b": 2, "c": 4} and of_run(server, run) == {"run"}


def test_a_large_one_stays_as_it_is(store: NodeStore, server: Server) -> None:
    run = worked_off(store, *("x" * 12_000,) * 3)
    assert ended(store, run) == ("completed", None) and of_run(server, run) == {"run", "tasks", "out"}
    assert len(store.outputs([run])[run]["c"]) == 12_000
    assert sorted(store.client.execute("HKEYS", keys.tasks(run))) == [b"0", b"1", b"2"], (
        "what its claims went by is gone"
    )
    assert store.retry(run, "c") == 2 and complete(store).step == "c"


@pytest.mark.parametrize("junk", [b"", b"\xc1", b"\x92\x91\x01\x90", msgspec.msgpack.encode([["0"], []]), b"\x80"])
def test_a_spoilt_one_is_shown_and_ends_as_corrupt(store: NodeStore, junk: bytes) -> None:
    run, other = worked_off(store, 1, 2, 3), worked_off(store, 1, 2, 3)
    store.client.execute("HSET", keys.run(run), "t", junk)
    assert store.run(run).status == "completed" and store.outputs([run, other])[run] == {}
    assert store.retry(run, "a") == 2
    while store.advance(100):
        pass
    assert ended(store, run) == ("failed", Cause.CORRUPT) and store.outputs([other])[other]["c"] == 3


def test_it_is_pruned_as_a_whole(store: NodeStore, server: Server) -> None:
    run = worked_off(store, 1, 2, 3)
    assert store.prune(Retention(days=7, runs=0, minimum=0)) == 1
    assert of_run(server, run) == set()
