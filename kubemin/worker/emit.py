"""One line of a step's output into the log, with the fields that say whose it is."""

from __future__ import annotations

from collections.abc import Callable

from kubemin.model.records import Claim
from kubemin.telemetry import log


class Emitter:
    """Called for a sink `(stream, line)` only when there is a line: most tasks print nothing."""

    __slots__ = ("_claim", "_slot")

    def __init__(self, claim: Claim, slot: int) -> None:
        self._claim = claim
        self._slot = slot

    def __call__(self) -> Callable[[str, str], None]:
        claim = self._claim
        fields = {
            "run": claim.run,
            "step": claim.step,
            "task": claim.task,
            "attempt": claim.attempt,
            "workflow": claim.workflow,
            "worker": self._slot,
        }
        return lambda stream, line: log.step_line(stream, line, **fields)
