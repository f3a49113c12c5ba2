"""What grows beyond all measure costs Redis no long script, and goes in time: cancelled entries, tails of large runs,
batches that nobody finished.
"""

from __future__ import annotations

import msgspec
import pytest
from driving import accept, finish, outcome, single, start, take
from graphs import node, workflow
from support.costs import counted

from kubemin.clock import SECOND
from kubemin.errors import NotFound
from kubemin.model.states import Cause, TaskState
from kubemin.store.base import Retention
from kubemin.store.redis import keys, reading
from kubemin.store.redis.node import NodeRecord, NodeStore

ONE = workflow("one", node("a"))


@pytest.mark.parametrize("limit", [1, 64])
def test_one_claim_goes_through_a_few_cancelled_entries(store: NodeStore, limit: int) -> None:
    cancelled = accept(store, *(single() for _ in range(1000)))
    wanted = accept(store, single())[0]
    assert all(store.cancel(run) for run in cancelled)
    found, calls = [], []
    while not found:
        calls.append(counted(store.client, lambda: found.extend(take(store, limit)))["hmget"])
    print(f"limit {limit}: {len(calls)} calls, {max(calls)} tasks looked at in one")
    assert [claim.run for claim in found] == [wanted]
    assert 3 <= len(calls) < 20 and max(calls) < 1000
    assert store.client.execute("LLEN", keys.queue("default")) == 0


@pytest.mark.parametrize(("state", "most"), [(TaskState.COMPLETED, 4096), (TaskState.FAILED, 4 * 4096)])
def test_tails_are_cut_between_characters(store: NodeStore, state: TaskState, most: int) -> None:
    for text in ("ä" * 20_000, "ä" * 20_000 + "x", "語" * 20_000, "x\n" * 20_000):
        run = accept(store, single())[0]
        (claim,) = take(store, 1)
        finish(store, outcome(claim, state, Cause.EXIT, stdout=text, stderr="short"))
        (task,) = store.run(run).tasks
        assert text.endswith(task.stdout_tail) and most - 3 < len(task.stdout_tail.encode()) <= most
        assert task.stderr_tail == "short"


def test_tails_of_a_large_run_are_read_in_pieces(store: NodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what somebody spoilt of them is left out."""
    monkeypatch.setattr(reading, "MOST", 2)
    run = start(store, workflow("four", *(node(step) for step in "abcd")))
    for claim in take(store, 3):
        finish(store, outcome(claim, stdout=f"of {claim.step}"))
    store.client.execute("HSET", keys.tails(run), 1, b"\xc1")
    calls = counted(store.client, lambda: store.run(run))
    assert "hgetall" not in calls
    assert [task.stdout_tail for task in store.run(run).tasks] == ["of a", "", "of c", ""]
    monkeypatch.undo()
    assert [task.stdout_tail for task in store.run(run).tasks] == ["of a", "", "of c", ""]


def test_who_is_long_gone_is_forgotten(store: NodeStore) -> None:
    """Machines come and go under ever new names; one that was silent for days is still shown."""
    now, day = store.now(), 86_400 * SECOND
    for days in (0, 6, 8):
        record = msgspec.json.encode(NodeRecord(f"silent-{days}", "test", "1"))
        store.client.execute("HSET", keys.NODES, f"silent-{days}", b"%d\nplace\n%b" % (now - days * day, record))
        store.client.execute("HSET", keys.RETIRED, f"adopted-{days}", now - days * day)
    store.client.execute("HSET", keys.NODES, "spoilt", "rubbish")
    store.forget_long_gone()
    assert [view.record.node for view in store.nodes()] == ["silent-0", "silent-6"]
    assert sorted(store.client.execute("HKEYS", keys.NODES)) == [b"silent-0", b"silent-6"]
    assert sorted(store.client.execute("HKEYS", keys.RETIRED)) == [b"adopted-0", b"adopted-6"]


def test_a_batch_that_nobody_sealed_keeps_no_definition_for_ever(store: NodeStore) -> None:
    store.define([ONE])
    store.stage("lost", msgspec.json.encode([single()]))
    store.prune(Retention(minimum=0))
    assert store.definition(ONE.hash) is not None, "the batch may be of it"
    store.client.execute("DEL", keys.inbox("lost"), keys.parts("lost"))  # they expire after a day
    store.prune(Retention(minimum=0))
    assert store.definition(ONE.hash) is None
    assert store.client.execute("EXISTS", keys.BATCHES) == 0
    with pytest.raises(NotFound):
        store.seal("lost")
