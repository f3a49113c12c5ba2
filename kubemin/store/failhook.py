"""`onFailure`: a command that gets the JSON of a failed run on standard input.

It is submitted in the transaction that ends the run, so a crash loses it no more than the end itself (in a fleet the
script that ends the run owes it: redis/hooks.py). It runs as a task of its own, on a worker; its own failure starts no
other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from kubemin.config import Settings
from kubemin.model import ids
from kubemin.model.records import RunView, Submission
from kubemin.store.base import Change, Store

WORKFLOW = "on-failure"
FAILURES = frozenset({"failed", "timeout"})


def submit_for(store: Store, changes: Iterable[Change], settings: Settings, into: Store | None = None) -> None:
    """For each run that failed in this transaction. `into`: the store that takes it, where it is another."""
    if not settings.on_failure:
        return
    failed = [c.run for c in changes if not c.step and c.state in FAILURES and c.workflow != WORKFLOW]
    for run in failed:
        (into or store).submit([call_for(store.run(run), settings.on_failure)])


def call_for(run: RunView, argv: Sequence[str], key: str | None = None) -> Submission:
    """`run` as it is now goes to the command's standard input."""
    work = {"run": list(argv), "stdin": msgspec.json.encode(run).decode()}
    return Submission(id=ids.run_id(), workflow=WORKFLOW, work=work, key=key)
