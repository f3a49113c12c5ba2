"""How long tasks take, by what they run, so that short ones can be handed out several at a time.

An estimate is an exponentially weighted mean of what was measured, in seconds. What was never seen counts as long: the
first task of a kind is always handed out alone. Wrong estimates cost speed and nothing else: what stands behind a task
that turns out long is taken back (coordinator/link.py, coordinator/fleet/batches.py).
"""

from __future__ import annotations

from kubemin.model.records import Claim

WINDOW_TASKS = 200  # handed to one worker at once, at most (a socket pair holds about 160 small packets)
WINDOW_SECONDS = 0.008  # of expected work
_WEIGHT = 0.2
_KEPT = 10_000  # labels; the oldest half is forgotten beyond that


def label_of(claim: Claim) -> str:
    """What a task runs, for estimates: the function of a single Python task, else workflow and step."""
    # The items of a fan-out (`load[7]`) are of one kind; no step's own name has a bracket.
    return claim.step if claim.quiet else f"{claim.workflow}/{claim.step.partition('[')[0]}"


class Estimates:
    """label -> expected seconds."""

    def __init__(self) -> None:
        self._mean: dict[str, float] = {}

    def record(self, label: str, seconds: float) -> None:
        known = self._mean.get(label)
        if known is None:
            if len(self._mean) >= _KEPT:
                self._mean = dict(list(self._mean.items())[_KEPT // 2 :])
            self._mean[label] = seconds
        else:
            self._mean[label] = known + _WEIGHT * (seconds - known)

    def seconds(self, label: str) -> float | None:
        """What one of this kind is expected to take; None: unknown."""
        return self._mean.get(label)

    def window(self, label: str) -> int:
        """How many tasks of this kind one worker may have at once; 1 for what is long or unknown."""
        mean = self._mean.get(label)
        if mean is None or mean > WINDOW_SECONDS:
            return 1
        return min(WINDOW_TASKS, int(WINDOW_SECONDS / max(mean, 1e-5)) or 1)
