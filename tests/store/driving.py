"""What the tests say to a store over and over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from kubemin.model.ids import run_id
from kubemin.model.records import Accepted, Claim, Definition, Outcome, Owner, Submission
from kubemin.model.states import Cause, TaskState
from kubemin.store.base import Store, Verdict

ALICE = Owner("test", 0, 1)
BOB = Owner("test", 1, 1)
WORK = {"python": "reports.load:run", "args": [1]}


def single(**more: Any) -> Submission:
    more.setdefault("work", WORK)
    return Submission(more.pop("id", run_id()), **more)


def of(definition: Definition, **more: Any) -> Submission:
    return Submission(more.pop("id", run_id()), workflow=definition.graph.workflow, definition=definition.hash, **more)


def accept(store: Store, *submissions: Submission) -> list[str]:
    answers = store.submit(submissions)
    assert all(isinstance(answer, Accepted) for answer in answers), answers
    return [answer.id for answer in answers]


def start(store: Store, definition: Definition, **more: Any) -> str:
    store.define([definition])
    return accept(store, of(definition, **more))[0]


def outcome(
    claim: Claim,
    state: TaskState | None = TaskState.COMPLETED,
    cause: Cause | None = None,
    output: Any = None,
    **more: Any,
) -> Outcome:
    raw = None if output is None else msgspec.Raw(msgspec.json.encode(output))
    return Outcome(claim.run, claim.idx, claim.token, state, cause, output=raw, **more)


def take(store: Store, limit: int = 100, owner: Owner = ALICE, queues: Sequence[str] = ("default",)) -> list[Claim]:
    return store.claim(owner, queues, limit)


def steps(claims: Iterable[Claim]) -> list[str]:
    return sorted(claim.step for claim in claims)


def finish(store: Store, *outcomes: Outcome, owner: Owner = ALICE) -> None:
    assert store.finish(owner, outcomes) == [Verdict.ACCEPTED] * len(outcomes)


def run_one(
    store: Store,
    step: str,
    state: TaskState | None = TaskState.COMPLETED,
    cause: Cause | None = None,
    output: Any = None,
) -> Claim:
    """Claim until `step` comes (the others are given back), and end it so."""
    claims = take(store)
    found = next(claim for claim in claims if claim.step == step)
    store.give_back(ALICE, [(claim.run, claim.idx, claim.token) for claim in claims if claim is not found])
    finish(store, outcome(found, state, cause, output))
    return found


def drain(store: Store) -> None:
    for _ in range(10_000):
        if not store.advance():
            return
    raise AssertionError("advance never ends")


def complete_all(store: Store, queues: Sequence[str] = ("default",)) -> list[str]:
    """Work until nothing is ready; the steps in the order they were claimed."""
    done: list[str] = []
    while True:
        drain(store)
        claims = take(store, queues=queues)
        if not claims:
            return done
        done += [claim.step for claim in claims]
        finish(store, *map(outcome, claims))


def shape(store: Store, run: str) -> dict[str, tuple[str, str | None]]:
    return {task.step: (task.status.value, task.cause) for task in store.run(run).tasks}


def ended(store: Store, run: str) -> tuple[str, str | None]:
    view = store.run(run)
    return view.status.value, view.cause
