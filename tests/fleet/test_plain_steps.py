"""Plain steps (lua/steps.lua): what they cost, and how they and the engine take turns with the same run."""

from __future__ import annotations

import msgspec
from driving import ALICE, BOB, accept, ended, finish, outcome, shape, single, start, steps, take
from graphs import define, join, node, workflow
from support.costs import counted

from kubemin.model.graph import Concurrency, Graph
from kubemin.model.records import Claim, Definition
from kubemin.model.states import TaskState
from kubemin.store.base import Verdict
from kubemin.store.redis import keys
from kubemin.store.redis.node import NodeStore

CHAIN = workflow("chain", node("a"), node("b", 0), node("c", 1))
FAN = workflow("fan", node("a"), *(node(f"m{n}", 0) for n in range(20)), node("z", *range(1, 21)))
TEN = define(Graph("ten", tuple(CHAIN.graph.nodes[:1]) + tuple(node(f"s{n}", n - 1) for n in range(1, 10))))


def worked_off(store: NodeStore, batch: int) -> int:
    """All there is, by one worker; how many."""
    claims = take(store, batch)
    count = 0
    while claims:
        count += len(claims)
        _, claims = store.finish_and_claim(ALICE, [outcome(each, output=1) for each in claims], ["default"], batch)
    return count


def form(store: NodeStore, run: str, idx: int) -> str:
    """The first letter of a record: w, q, r are short forms."""
    raw: bytes = store.client.execute("HGET", keys.tasks(run), idx)
    return raw[:1].decode("latin-1")


def test_a_step_costs_few_commands_and_no_look_at_its_definition(store: NodeStore) -> None:
    store.define([TEN])
    runs = [start(store, TEN) for _ in range(32)]
    calls = counted(store.client, lambda: worked_off(store, 16))
    assert all(ended(store, run) == ("completed", None) for run in runs)
    inside = sum(count for name, count in calls.items() if name not in ("evalsha", "time"))
    print(f"commands inside the scripts for a step of a batch: {inside / 320:.2f}")
    assert inside / 320 < 8.5
    assert calls["hget"] <= 2 * len(runs) + 5, "one at the begin of a run and one at its end"


def test_a_submitted_run_is_written_as_it_is_after_its_release(store: NodeStore) -> None:
    run = start(store, FAN)
    assert [form(store, run, idx) for idx in (0, 1, 21)] == ["q", "w", "w"]
    assert store.client.execute("HGET", keys.tasks(run), "h") == b"w22"
    assert worked_off(store, 7) == 22
    assert ended(store, run) == ("completed", None) and len(store.outputs([run])[run]) == 22
    view = store.run(run)
    assert all(task.started_at and task.finished_at and task.attempt == 1 for task in view.tasks), view.tasks
    assert store.client.execute("HGET", keys.tasks(run), "h") is None


def test_bad_news_is_heard_between_plain_ends(store: NodeStore) -> None:
    run = start(store, FAN)
    (first,) = take(store)
    finish(store, outcome(first))
    good, bad, *others = take(store, 20)
    finish(store, outcome(good))
    finish(store, outcome(bad, TaskState.FAILED))
    told = store.finish(ALICE, [outcome(each) for each in others])
    assert told == [Verdict.ACCEPTED] * 18
    assert ended(store, run) == ("failed", "failed") and shape(store, run)["z"] == ("skipped", "upstream")


def test_a_batch_of_plain_ends_and_others(store: NodeStore) -> None:
    """Ends of one run in one call, some through the engine: each is counted once."""
    mixed = workflow("mixed", node("a"), node("b"), node("c"), node("plain", 0), node("after", 1, 2, when="always"))
    run, (alone,) = start(store, mixed), accept(store, single())
    claims = take(store)
    assert store.finish(ALICE, [outcome(each, output=1) for each in claims]) == [Verdict.ACCEPTED] * 4
    assert steps(claims := take(store)) == ["after", "plain"]
    assert store.finish(ALICE, [outcome(each) for each in claims]) == [Verdict.ACCEPTED] * 2
    assert ended(store, run) == ended(store, alone) == ("completed", None)


def test_a_group_after_plain_steps(store: NodeStore) -> None:
    group = workflow(
        "group", node("a"), node("g/", 0), node("g/x", 1), node("g/y", 1), join("g", 1, 2, 3), node("z", 4)
    )
    run = start(store, group)
    assert worked_off(store, 3) == 4
    assert ended(store, run) == ("completed", None)


def test_a_run_that_is_stopped_takes_no_plain_end(store: NodeStore) -> None:
    run = start(store, CHAIN)
    (first,) = take(store)
    store.cancel(run)
    assert store.finish(ALICE, [outcome(first)]) == [Verdict.ACCEPTED]
    assert ended(store, run) == ("cancelled", "cancelled")
    assert shape(store, run) == {"a": ("completed", None), "b": ("cancelled",) * 2, "c": ("cancelled",) * 2}


def test_a_time_out_counts_from_the_first_plain_step(store: NodeStore) -> None:
    run = start(store, workflow("timed", *CHAIN.graph.nodes, timeout=3600.0))
    deadline = ("ZSCORE", keys.deadlines(), run)
    assert form(store, run, 0) == "q" and store.client.execute(*deadline) is None
    (first,) = take(store)
    left = float(store.client.execute(*deadline)) / 1e6 - store.now() / 1e6
    assert 3590 < left <= 3600 and form(store, run, 0) == "r"
    finish(store, outcome(first))
    assert worked_off(store, 1) == 2 and ended(store, run) == ("completed", None)
    assert store.client.execute(*deadline) is None and store.expire() == 0


def test_plain_steps_of_runs_that_share_a_concurrency_key(store: NodeStore) -> None:
    """The last end goes through the engine, which hands the key over."""
    shared = workflow("shared", *CHAIN.graph.nodes, concurrency=Concurrency("k"))
    runs = [start(store, shared) for _ in range(3)]
    assert [form(store, run, 0) for run in runs] == ["q", "w", "w"]
    assert worked_off(store, 5) == 9
    assert [ended(store, run) for run in runs] == [("completed", None)] * 3
    assert store.client.execute("EXISTS", keys.HOLDERS, keys.waiters("k")) == 0


def test_a_repeated_end_counts_once(store: NodeStore) -> None:
    run = start(store, CHAIN)
    (first,) = take(store)
    assert store.finish(ALICE, [outcome(first)] * 2) == [Verdict.ACCEPTED, Verdict.DUPLICATE]
    assert store.finish(BOB, [outcome(first)]) == [Verdict.DUPLICATE]
    assert steps(take(store)) == ["b"] and store.client.execute("HGET", keys.tasks(run), "h") == b"2"


def test_a_plain_step_that_is_given_back_goes_on(store: NodeStore) -> None:
    run = start(store, CHAIN)
    (first,) = take(store)
    assert store.give_back(ALICE, [(first.run, first.idx, first.token)]) == 1 and form(store, run, 0) == "g"
    (again,) = take(store)
    assert again.token > first.token and again.attempt == 1 and form(store, run, 0) == "r"
    assert store.finish(ALICE, [outcome(first)]) == [Verdict.FENCED]
    finish(store, outcome(again))
    assert worked_off(store, 1) == 2 and ended(store, run) == ("completed", None)


def test_records_as_they_were_before_short_forms_are_read(store: NodeStore) -> None:
    run = start(store, CHAIN)
    record = msgspec.msgpack.decode(store.client.execute("HGET", keys.run(run), "r"))
    record |= {"l": 3, "li": {"default": 1}, "x": None}
    place = int(store.client.execute("ZSCORE", keys.pending("default"), f"{run}.0"))
    store.client.execute("HSET", keys.run(run), "r", msgspec.msgpack.encode(record))
    old: list[dict[str, int]] = [{"s": 1, "o": 0, "q": place, "Q": 1}, {"s": 0, "o": 1}, {"s": 0, "o": 1}]
    for idx, task in enumerate(old):
        store.client.execute("HSET", keys.tasks(run), idx, msgspec.msgpack.encode(task))
    store.client.execute("HDEL", keys.tasks(run), "h", "i")
    assert worked_off(store, 2) == 3
    assert ended(store, run) == ("completed", None)


def test_a_count_that_somebody_deleted_ends_its_run_alone(store: NodeStore) -> None:
    run, other = start(store, CHAIN), start(store, CHAIN)
    claims = take(store)
    store.client.execute("HDEL", keys.tasks(run), "h")
    told = dict(
        zip([each.run for each in claims], store.finish(ALICE, [outcome(each) for each in claims]), strict=True)
    )
    assert told == {run: Verdict.FENCED, other: Verdict.ACCEPTED}
    assert ended(store, run) == ("failed", "corrupt")
    assert worked_off(store, 2) == 2 and ended(store, other) == ("completed", None)


def state_byte(store: NodeStore, run: str) -> int:
    """Where lua/states.lua looks for it: clients that wait ask for thousands."""
    raw: bytes = store.client.execute("HGET", keys.run(run), "r")
    first = 3 if raw[0] == 0xDE else 1  # a map of 16 fields and more has a longer head
    assert raw[first : first + 2] == b"\xa1s"
    return raw[first + 2]


def test_a_runs_record_begins_with_its_state(store: NodeStore) -> None:
    many = workflow("many", node("a"), concurrency=Concurrency("k"), timeout=60.0)
    runs = [start(store, CHAIN), start(store, many, key="key")]
    assert store.client.execute("HGET", keys.run(runs[1]), "r")[0] == 0xDE
    claims: list[Claim] = []
    for state, name in ((0, "waiting"), (2, "running"), (3, "completed")):
        assert [state_byte(store, run) for run in runs] == [state] * 2
        assert {each.value for each in store.states(runs).values()} == {name}
        claims = take(store, 2) if state == 0 else claims
        while state == 2 and claims:
            _, claims = store.finish_and_claim(ALICE, [outcome(each) for each in claims], ["default"], 2)


def test_a_definition_that_was_kept_before_there_were_plain_steps(store: NodeStore) -> None:
    """Its runs go through the engine."""
    fresh: Definition = workflow("kept", node("a"), node("b", 0))
    store.define([fresh])
    meta = msgspec.msgpack.decode(store.client.execute("HGET", keys.graph(fresh.hash), "meta"))
    del meta["x"]
    store.client.execute("HSET", keys.graph(fresh.hash), "meta", msgspec.msgpack.encode(meta))
    store.client.execute("HDEL", keys.graph(fresh.hash), "t")
    run = start(store, fresh)
    assert store.client.execute("HEXISTS", keys.tasks(run), "i") == 0
    assert worked_off(store, 2) == 2 and ended(store, run) == ("completed", None)
