"""A run whose definition cannot be read any more: it fails, alone, and the bytes stay where they are.

Whatever needs the graph of a run asks `Session.plan`, which raises `CorruptRun` before anything of the step at hand was
changed. Loops over several runs put that run aside here and go on with the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubemin.errors import StoreUnavailable
from kubemin.model.states import Cause
from kubemin.store.base import Change
from kubemin.store.codec import FAILED
from kubemin.store.sqlite.ripples import RELEASED

if TYPE_CHECKING:
    from kubemin.store.sqlite.settle import Settler


class CorruptRun(StoreUnavailable):
    code = "corrupt"

    def __init__(self, run: str, reason: str) -> None:
        super().__init__(f"run {run}: {reason}")
        self.run = run


def put_aside(settler: Settler, corrupt: CorruptRun) -> None:
    """End the run as it stands. What a worker still does for it is refused when it reports."""
    session = settler.s
    session.flush()
    run = session.run(corrupt.run)
    session.write("end_all_tasks", (session.now, run.id))
    session.write("delete_ripples", (run.id,))
    session.forget_run(run.id)
    for key in [key for key in session.claims if key[0] == run.id]:
        del session.claims[key]
        session.stopping.pop(key, None)
    run = session.run(corrupt.run)
    session.touch_run(run)
    run.state, run.cause, run.finished, run.stage = FAILED, Cause.CORRUPT.value, session.now, RELEASED
    run.live, run.listed, run.parked, run.due, run.deadline = 0, {}, 0, None, None
    told = Change("quarantined", run.id, run.workflow, state="failed", cause="corrupt", message=str(corrupt))
    session.changes += [told, Change("finished", run.id, run.workflow, state="failed", cause="corrupt")]
    settler.release_key(run)
