"""Ending workers: past their deadline, stopped, on the coordinator's order, at the end of the grace period.

What a task is, it does not know: it reads deadlines and tokens from the scoreboard.
"""

from __future__ import annotations

import math
import signal

import msgspec

from kubemin import processes
from kubemin.clock import boottime
from kubemin.modes import in_fleet
from kubemin.scoreboard import EMPTY, SlotState
from kubemin.supervisor.node import Node
from kubemin.supervisor.pool import Pool
from kubemin.supervisor.slots import Life, kill, tell_to_end
from kubemin.telemetry import log

END_SECONDS = 60.0  # for a worker that was told to end and runs no task
LOOK_SECONDS = 0.2  # between two looks at the deadlines; one that was seen in time is met exactly


class KillOrder(msgspec.Struct, frozen=True, tag="kill"):
    """A message of the coordinator: the step does not end by itself."""

    slot: int
    incarnation: int
    token: int
    reason: str


class Enforcer:
    def __init__(self, node: Node, pool: Pool) -> None:
        self._board = node.board
        self._pool = pool
        self._next_look = 0.0
        # In a fleet the coordinator judges: it lets a stopped worker's lock go, and orders the kill.
        self._patience = math.inf if in_fleet(node.settings) else node.settings.lock.ttl
        self._stopped: dict[int, float] = {}  # pid -> since when it is seen to be stopped

    def next_due(self, now: float) -> float:
        return max(0.0, self._next_look - now)

    def enforce(self, now: float) -> None:
        """Kill workers whose task is past its deadline, that are stopped, or that were told to end and do not."""
        if now < self._next_look:
            return
        at, nearest = boottime(), LOOK_SECONDS
        for life in self._pool.lives():
            deadline = self._board.deadline(life.slot)
            if deadline and deadline <= at:
                self._past_deadline(life, at)
            elif deadline:
                nearest = min(nearest, deadline - at + 0.001)
            elif life.told_at is not None and now > life.told_at + END_SECONDS:
                self._does_not_end(life)
        self._end_stopped(now)
        self._next_look = now + nearest

    def carry_out(self, order: KillOrder) -> None:
        """Kill this life if it still runs this task."""
        life = self._pool.life(order.slot)
        record = self._pool.record(life) if life is not None and life.incarnation == order.incarnation else None
        if life is not None and record is not None and record.token == order.token:
            kill(life, order.reason, order.token)

    def signal_all(self, number: signal.Signals, now: float) -> None:
        """TERM or INT to every worker."""
        for life in self._pool.lives():
            tell_to_end(life, now, number)

    def kill_all(self, reason: str) -> None:
        for life in self._pool.lives():
            kill(life, reason, (self._pool.record(life) or EMPTY).token)

    def _past_deadline(self, life: Life, at: float) -> None:
        record = self._pool.record(life)
        if record is not None and record.state is SlotState.RUNNING and 0 < record.deadline <= at:
            kill(life, "deadline", record.token)

    def _end_stopped(self, now: float) -> None:
        """A worker that is stopped (SIGSTOP) for longer than a lock lives: its task would wait for its deadline."""
        stopped = {life.pid: life for life in self._pool.lives() if processes.is_stopped(life.pid)}
        self._stopped = {pid: self._stopped.get(pid, now) for pid in stopped}
        for pid, since in self._stopped.items():
            if now > since + self._patience:
                kill(stopped[pid], "fenced", (self._pool.record(stopped[pid]) or EMPTY).token)

    def _does_not_end(self, life: Life) -> None:
        record = self._pool.record(life)
        if record is not None and record.state is not SlotState.RUNNING:
            log.error("worker does not end", worker=life.slot, pid=life.pid, seconds=END_SECONDS)
            kill(life, "drain")
