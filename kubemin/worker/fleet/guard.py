"""A worker's part in signing: what it begins is no replay, and what a step put out is signed.

What it is given to run was verified when the claim was read (`store/redis/signatures.py`). Without a key this does
nothing. May touch: the node's record of tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubemin import clock
from kubemin.model.records import Claim, Outcome
from kubemin.model.states import Cause, TaskState
from kubemin.store.redis.node import NodeStore
from kubemin.telemetry import log
from kubemin.worker.execute import Executor

if TYPE_CHECKING:
    from kubemin.worker.fleet.replays import Replays

_BEGUN = "it was begun on this node before, under this token or a higher one"


class Guard:
    def __init__(self, store: NodeStore, executor: Executor, replays: Replays | None) -> None:
        self._store = store
        self._executor = executor
        self._replays = replays

    def execute(self, claim: Claim) -> Outcome:
        """As the executor does, or refused. Never raises for what a task does."""
        if self._replays is None:
            return self._executor.execute(claim)
        outcome = self._refusal(claim, self._replays) or self._executor.execute(claim)
        outcome.signature = self._store.sign_output(claim, outcome)
        return outcome

    def _refusal(self, claim: Claim, replays: Replays) -> Outcome | None:
        try:
            if replays.admit(claim.run, claim.step, claim.token):
                return None
            cause, reason = Cause.REPLAYED, _BEGUN
        except OSError as error:
            cause, reason = Cause.RESOURCES, f"its token cannot be noted: {error.strerror}"
        log.warning("a task was refused", task=claim.task, step=claim.step, cause=cause, reason=reason)
        now = clock.wall()
        return Outcome(claim.run, claim.idx, claim.token, TaskState.FAILED, cause, reason, started=now, finished=now)
