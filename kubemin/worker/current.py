"""What `kubemin.current_task()` returns inside a worker. One object for the worker's life: tasks are many and short."""

from __future__ import annotations

from kubemin.clock import boottime
from kubemin.errors import KubeminError
from kubemin.model.records import Claim
from kubemin.model.states import Cause
from kubemin.scoreboard import SlotWriter
from kubemin.worker.interrupts import Interrupts


class Current:
    """A function that keeps it beyond its own end sees the next task: that is what the name says."""

    __slots__ = ("_deadline", "_interrupts", "_writer", "claim", "seen")

    def __init__(self, interrupts: Interrupts, writer: SlotWriter) -> None:
        self._interrupts = interrupts
        self._writer = writer
        self._deadline = 0.0
        self.claim: Claim | None = None
        self.seen: Cause | None = None  # the cancellation that the function was told

    def begin(self, claim: Claim, deadline: float) -> None:
        """`deadline` in boottime seconds."""
        self.claim = claim
        self.seen = None
        self._deadline = deadline

    @property
    def _running(self) -> Claim:
        if self.claim is None:
            raise KubeminError("this task has ended; ask current_task() again", code="no_task")
        return self.claim

    @property
    def id(self) -> str:
        return self._running.task

    @property
    def run(self) -> str:
        return self._running.run

    @property
    def step(self) -> str:
        return self._running.step

    @property
    def workflow(self) -> str:
        return self._running.workflow

    @property
    def token(self) -> int:
        return self._running.token

    @property
    def attempt(self) -> int:
        return self._running.attempt

    @property
    def cancelled(self) -> bool:
        if self.seen is None:
            self.seen = self._interrupts.cancelled(self._running.token)
        return self.seen is not None

    @property
    def deadline_seconds(self) -> float:
        return max(0.0, self._deadline - boottime()) if self._running else 0.0

    def progress(self, fraction: float) -> None:
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"progress is a fraction from 0 to 1, not {fraction}")
        if self._running:
            self._writer.progress(fraction)
