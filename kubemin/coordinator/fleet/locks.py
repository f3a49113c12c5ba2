"""The locks of all tasks that this node's workers hold, renewed in one call; what the answer says is passed on.

A worker that holds the GIL cannot lose its lock: it has no part in this. Two kinds of workers are not renewed for, and
are killed when their locks have lapsed: one that is stopped (state T in /proc), and one that has ended its step and
begins no `finish` while Redis answers (engine rule 9).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kubemin import clock
from kubemin.coordinator.fleet.timing import Every
from kubemin.coordinator.fleet.workers import FleetPool
from kubemin.coordinator.link import Link
from kubemin.model.records import Owner
from kubemin.model.states import Cause
from kubemin.processes import is_halted
from kubemin.scoreboard import Scoreboard
from kubemin.store.base import Stop
from kubemin.store.redis.node import Held, NodeStore
from kubemin.telemetry import log
from kubemin.telemetry.metrics import Values

LOOK_SECONDS = 0.25  # between renewals while something runs: they bring the news of what is to be stopped
STATE_SECONDS = 1.0  # between looks at the states of the workers' processes
KILL_CANCELLED, KILL_FENCED = "cancelled", "fenced"

Kill = Callable[[Link, int, str], None]  # whom, the token that it runs, why


class Locks:
    def __init__(self, store: NodeStore, board: Scoreboard, pool: FleetPool, ttl: float, renew: float, kill: Kill):
        self._store, self._board, self._pool, self._kill = store, board, pool, kill
        self._ttl = ttl
        self._idle = Every(renew, jitter=0.1)
        self._look = Every(min(LOOK_SECONDS, renew))
        self._states = Every(STATE_SECONDS)
        self._silent_seconds = max(ttl / 4, 0.5)
        self._silent_look = Every(self._silent_seconds)
        self._silent_looked = 0.0
        self._stopped: dict[Owner, float] = {}  # since when
        self._silent: dict[tuple[Owner, int], float] = {}  # claims of ended steps, since when
        self._suspect: set[Held] = set()  # fenced at the last renewal; a finish may have been on its way
        self.held = 0  # at the last renewal
        self.renewed = self.lapsed = self.lost = 0
        self._not_ours: set[tuple[str, int]] = set()  # tasks of this node's own store, on their way out

    def left(self) -> float:
        return self._look.left()

    def leave_out(self, tasks: set[tuple[str, int]]) -> None:
        """Tasks (run, idx) that workers still execute for this node's own store."""
        self._not_ours = tasks

    def turn(self) -> None:
        if not self._look.due():
            return
        if self._states.due():
            self._look_at_states()
        running = list(self._held())
        if running or self._idle.due():
            self._renew(running)
        self._pool.forget_stopped({owner: token for owner, _, _, token in running})
        for link, token in self._pool.overdue():
            fenced = self._pool.cause_of(link, token) is Cause.NODE_LOST
            self._kill(link, token, KILL_FENCED if fenced else KILL_CANCELLED)
        if self._silent_look.due():
            self._look_for_silent()

    # --- renewing -----------------------------------------------------------------------------------------------------

    def _held(self) -> Iterator[Held]:
        for link, record in self._pool.running(self._board):
            if (record.run, record.idx) not in self._not_ours:
                yield link.owner, record.run, record.idx, record.token

    def _renew(self, running: list[Held]) -> None:
        owners = [owner for owner in self._pool.owners() if owner not in self._stopped]
        renewal = self._store.renew(owners, running)
        self.held = len(running)
        self.renewed += len(running)
        self.lapsed += renewal.again
        if renewal.again:
            log.warning("locks had lapsed and were set again", locks=renewal.again)
        self._pool.end(renewal.stops, self._board)
        fenced = set(renewal.fenced)
        for held in fenced & self._suspect:
            self._fence(held)
        self._suspect = fenced

    def _fence(self, held: Held) -> None:
        owner, run, idx, token = held
        link = self._pool.link(owner)
        if link is None or token in link.held:
            return
        self.lost += 1
        log.warning("task fenced", task=f"{run}.{idx}", worker=owner.slot, token=token, reason="its lock was lost")
        self._pool.end([Stop(owner, run, idx, token, Cause.NODE_LOST)], self._board)

    def values(self) -> Values:
        """For `/metrics`, in another thread."""
        return {
            "kubemin_locks_held": {(): self.held},
            "kubemin_locks_renewed_total": {(): self.renewed},
            "kubemin_locks_lapsed_total": {(): self.lapsed},
            "kubemin_locks_lost_total": {(): self.lost},
        }

    # --- workers that do not go on ------------------------------------------------------------------------------------

    def _look_at_states(self) -> None:
        now = clock.monotonic()
        stopped = {link.owner for link in self._pool.links if is_halted(link.pid)}
        self._stopped = {owner: self._stopped.get(owner, now) for owner in stopped}
        for owner, since in self._stopped.items():
            link = self._pool.link(owner)
            record = self._board.read_slot(owner.slot)
            if link is not None and record is not None and record.token and now - since > self._ttl:
                log.warning("a stopped worker lost its lock; it is killed", worker=owner.slot, pid=link.pid)
                self._kill(link, record.token, KILL_FENCED)

    def _look_for_silent(self) -> None:
        now = clock.monotonic()
        runs = {owner: token for owner, _, _, token in self._held()}
        ended = {(owner, token) for owner, _, _, token in self._store.running() if runs.get(owner) != token}
        if now - self._silent_looked > 2 * self._silent_seconds:
            self._silent.clear()  # Redis did not answer meanwhile: whoever could not report is not late
        self._silent_looked = now
        self._silent = {one: self._silent.get(one, now) for one in ended}
        for (owner, token), since in self._silent.items():
            link = self._pool.link(owner)
            record = self._board.read_slot(owner.slot)
            if link is not None and record is not None and record.pid == link.pid and now - since > self._ttl:
                log.warning("a worker ended its step and does not report; it is killed", worker=owner.slot, token=token)
                self._kill(link, record.token, KILL_FENCED)
