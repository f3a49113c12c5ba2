"""The store when a reply is lost, or when what follows a reply fails: a claim is told to its owner, sooner or later."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from driving import ALICE, accept, outcome, single, start
from graphs import node, workflow
from support.faultproxy import FaultProxy
from support.redis_server import running

from kubemin.errors import StoreUnavailable
from kubemin.store.base import Verdict
from kubemin.store.redis.node import NodeStore


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    with running() as server, FaultProxy(server.port) as made:
        yield made


@pytest.fixture
def store(proxy: FaultProxy) -> Iterator[NodeStore]:
    made = NodeStore(f"127.0.0.1:{proxy.port}", instance="test", node="node-a")
    made.client.execute("PING")
    yield made
    made.close()


def lost(proxy: FaultProxy, store: NodeStore, *outcomes: object) -> None:
    """A request that is carried out, and of which nobody hears."""
    store.now()  # else the time is asked for, and that is all that is lost
    proxy.swallow = 1.0
    with pytest.raises(StoreUnavailable):
        store.finish_and_claim(ALICE, outcomes, ("default",), 1)  # type: ignore[arg-type]
    proxy.swallow = 0.0
    while store.client.retry_in():
        pass


def test_what_was_claimed_without_a_reply_is_told_when_asked_again(proxy: FaultProxy, store: NodeStore) -> None:
    (run,) = accept(store, single())
    assert not store.owes(ALICE)
    lost(proxy, store)
    assert store.owes(ALICE)
    _, claims = store.finish_and_claim(ALICE, (), (), 0)
    assert [claim.run for claim in claims] == [run] and not store.owes(ALICE)
    assert store.finish(ALICE, [outcome(claims[0])]) == [Verdict.ACCEPTED]


def test_a_report_in_between_does_not_drop_the_claim(proxy: FaultProxy, store: NodeStore) -> None:
    first, second = accept(store, single(), single())
    _, (claim,) = store.finish_and_claim(ALICE, (), ("default",), 1)
    lost(proxy, store)
    assert store.finish(ALICE, [outcome(claim)]) == [Verdict.ACCEPTED]
    assert store.owes(ALICE)
    _, claims = store.finish_and_claim(ALICE, (), (), 0)
    assert [claim.run, *(each.run for each in claims)] == [first, second]


def test_what_follows_a_reply_may_fail(store: NodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Consequences that were left to this side: they are gone on with by others, the claims are not."""
    chain = workflow("chain", node("a"), node("b", 0, when="always"), node("c", 1))
    run = start(store, chain)
    _, (first,) = store.finish_and_claim(ALICE, (), ("default",), 1)
    fails = [True]
    really = store._session.take

    def take(*beside: object) -> None:
        if fails and fails.pop():
            raise StoreUnavailable("the connection broke")
        really(*beside)  # type: ignore[arg-type]

    monkeypatch.setattr(store._session, "take", take)
    with pytest.raises(StoreUnavailable):
        store.finish_and_claim(ALICE, [outcome(first)], ("default",), 1)
    verdicts, claims = store.finish_and_claim(ALICE, [outcome(first)], ("default",), 0)
    assert verdicts == [Verdict.DUPLICATE] and [claim.step for claim in claims] == ["b"]
    assert len(store.running()) == 1 and store.run(run).status == "running"


def test_inputs_that_cannot_be_read_now_leave_the_request_unanswered(
    store: NodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(store, workflow("one", node("a")))
    really = store._session.plans.get
    fails = [True]

    def get(digest: str) -> object:
        if fails and fails.pop():
            raise StoreUnavailable("the connection broke")
        return really(digest)

    monkeypatch.setattr(store._session.plans, "get", get)
    with pytest.raises(StoreUnavailable):
        store.finish_and_claim(ALICE, (), ("default",), 1)
    assert store.owes(ALICE)
    _, claims = store.finish_and_claim(ALICE, (), (), 0)
    assert [claim.step for claim in claims] == ["a"]
