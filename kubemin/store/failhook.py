"""`onFailure`: a command that gets the JSON of a failed run on standard input.

It is submitted in the transaction that ends the run, so a crash loses it no more than the end itself. It runs as a
task of its own, on a worker; its own failure starts no other.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from kubemin.config import Settings
from kubemin.model import ids
from kubemin.model.records import Submission
from kubemin.store.base import Change, Store

WORKFLOW = "on-failure"
_FAILURES = frozenset({"failed", "timeout"})


def submit_for(store: Store, changes: Iterable[Change], settings: Settings, into: Store | None = None) -> None:
    """For each run that failed in this transaction. `into`: the store that takes it, where it is another."""
    if not settings.on_failure:
        return
    failed = [c.run for c in changes if not c.step and c.state in _FAILURES and c.workflow != WORKFLOW]
    for run in failed:
        view = msgspec.json.encode(store.run(run)).decode()
        work = {"run": list(settings.on_failure), "stdin": view}
        (into or store).submit([Submission(id=ids.run_id(), workflow=WORKFLOW, work=work)])
