"""A fail-over that loses writes sets the counter of tokens back: a task's own tokens rise all the same."""

from __future__ import annotations

import pytest
from driving import ALICE, BOB, accept, ended, outcome, single, start, take
from graphs import node, workflow

from kubemin.model.records import Claim
from kubemin.store.base import Verdict
from kubemin.store.redis import keys
from kubemin.store.redis.node import NodeStore

PLAIN = workflow("plain", node("a"), node("b", 0))
ENGINE = workflow("engine", node("a"), node("each", 0, items=[1]))


def begun(store: NodeStore, kind: str) -> Claim:
    """Claimed under a token of some height, by ALICE."""
    store.client.execute("INCRBY", keys.SEQ, 1000)
    if kind == "single":
        accept(store, single())
    else:
        start(store, PLAIN if kind == "plain" else ENGINE)
    return take(store, 1)[0]


@pytest.mark.parametrize("kind", ["single", "plain", "engine"])
def test_a_tokens_counter_that_went_back_gives_no_lower_one(store: NodeStore, kind: str) -> None:
    claim = begun(store, kind)
    store.client.execute("DECRBY", keys.SEQ, 500)
    assert store.lose(ALICE, None) == [(claim.run, claim.idx)]
    again = take(store, 1, BOB)[0]
    assert again.task == claim.task and again.token > claim.token
    assert store.finish(ALICE, [outcome(claim)]) == [Verdict.FENCED], "of the former holder"
    assert store.finish(BOB, [outcome(again)]) == [Verdict.ACCEPTED]


@pytest.mark.parametrize("kind", ["single", "plain", "engine"])
def test_what_was_given_back_rises_too(store: NodeStore, kind: str) -> None:
    claim = begun(store, kind)
    store.client.execute("DECRBY", keys.SEQ, 500)
    assert store.give_back(ALICE, [(claim.run, claim.idx, claim.token)]) == 1
    again = take(store, 1, BOB)[0]
    assert again.task == claim.task and again.token > claim.token
    assert store.finish(ALICE, [outcome(claim)]) == [Verdict.FENCED]
    assert store.finish(BOB, [outcome(again)]) == [Verdict.ACCEPTED]


def test_what_runs_lifts_the_counter(store: NodeStore) -> None:
    """With the first renewal after a fail-over: what its node knows is enough, also where Redis has lost the claim."""
    claim = begun(store, "single")
    store.client.execute("DECRBY", keys.SEQ, 500)
    store.renew([ALICE], [(ALICE, claim.run, claim.idx, claim.token)])
    assert int(store.client.execute("GET", keys.SEQ)) == claim.token
    run = accept(store, single())[0]
    assert take(store, 1, BOB)[0].token > claim.token
    assert ended(store, run)[0] == "running"
