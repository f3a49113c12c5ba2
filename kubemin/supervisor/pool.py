"""The workers: exactly `want` of them, one more (the canary) during a reload.

Forks into free slots, takes note of deaths, tells surplus workers and those of an older generation to end.
`enforcing.py` kills what does not end.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Protocol

import msgspec

from kubemin import clock
from kubemin.config import Settings
from kubemin.exits import EXIT_SOILED
from kubemin.scoreboard import EMPTY, SlotRecord, SlotState
from kubemin.steps.containment import kill_slot
from kubemin.supervisor.birth import Birth
from kubemin.supervisor.node import Node
from kubemin.supervisor.rolling import View, next_to_replace
from kubemin.supervisor.slots import YOUNG, Life, Slot, ending, kill, tell_to_end
from kubemin.telemetry import log

FORK_SECONDS = 0.02  # of forking in one round, so that starting 1024 workers does not hold up a signal
FORKS_IN_A_ROW = 16  # without a look at the time
START_SECONDS = 60.0  # for a worker to become idle
START_LOOK = 0.005  # between two looks while a worker starts
ROLL_LOOK = 0.05  # the same while workers are replaced
CANNOT_START = 3  # workers in a row that died before they were idle, with none ever idle: give up
OUTSIDE = (signal.SIGKILL, signal.SIGTERM)  # what others kill a worker with
STARTED = (SlotState.IDLE, SlotState.RUNNING, SlotState.REPORTING, SlotState.STOPPING)


class Told(Protocol):
    """Who has to know of forks and deaths: the coordinator's keeper."""

    def worker_forked(self, life: Life) -> None: ...

    def worker_died(self, life: Life, status: int, reason: str | None, record: SlotRecord | None) -> None: ...


class Canary(msgspec.Struct):
    """One extra worker that tries new settings before all others get them, and stays until they have them."""

    slot: int
    generation: int
    settings: Settings
    accepted: bool = False
    failure: str | None = None


class Pool:
    def __init__(self, node: Node, told: Told) -> None:
        self.want = node.settings.max_workers
        self.generation = 1
        self.forking = True  # False: no new lives, the daemon stops
        self.failure: str | None = None  # why the daemon cannot go on
        self._node = node
        self._told = told
        self._slots: dict[int, Slot] = {}
        self._by_pid: dict[int, Slot] = {}
        self._incarnation = 0
        self._canary: Canary | None = None
        self._ever_idle = False
        self._dead_starts = 0
        self.ended = 0
        self.died = 0  # of those: killed by others, or crashed

    # --- reads --------------------------------------------------------------------------------------------------------

    @property
    def pids(self) -> set[int]:
        return set(self._by_pid)

    def lives(self) -> Iterator[Life]:
        return (slot.life for slot in self._slots.values() if slot.life is not None)

    @property
    def empty(self) -> bool:
        return not self._by_pid

    def complete(self) -> bool:
        """Every wanted worker is there and has been idle."""
        slots = (self._slots.get(number) for number in range(self.want))
        return all(slot is not None and slot.life is not None and slot.life.was_idle for slot in slots)

    def life(self, slot: int) -> Life | None:
        return self._slots[slot].life if slot in self._slots else None

    def record(self, life: Life) -> SlotRecord | None:
        """The life's own record; EMPTY when it has not written one yet, None when it is torn."""
        record = self._node.board.read_slot(life.slot)
        return record if record is None or record.incarnation == life.incarnation else EMPTY

    def rolled(self) -> bool:
        """No worker of an older generation is left."""
        return all(life.generation == self.generation for life in self.lives())

    def next_due(self, now: float) -> float:
        """Seconds until `maintain` has something to do."""
        if any(not life.was_idle for life in self.lives()):
            return START_LOOK
        if self.forking and not self.rolled():
            return ROLL_LOOK
        waits = [slot.not_before - now for slot in self._slots.values() if slot.life is None and self.forking]
        return max(0.0, min(waits, default=float("inf")))

    # --- the pool's size and generation -------------------------------------------------------------------------------

    def maintain(self, now: float) -> None:
        """Note who became idle, fork what is missing, tell the surplus and the old to end."""
        self._note_idle(now)
        if not self.forking:
            return
        self._fill(now)
        self._retire_surplus(now)
        self._roll(now)

    def start_canary(self, generation: int, settings: Settings) -> Canary:
        """One extra worker with settings that are not in force yet."""
        number = max([self.want - 1, *self._slots]) + 1
        self._canary = Canary(min(number, self._node.board.slots - 1), generation, settings)
        return self._canary

    def canary_idle(self) -> bool:
        canary = self._canary
        life = self.life(canary.slot) if canary else None
        return life is not None and canary is not None and life.generation == canary.generation and life.was_idle

    def accept_canary(self) -> None:
        """Its generation is the one in force from now on; it goes when the others have been replaced."""
        if self._canary is not None:
            self._canary.accepted = True
            self.generation = self._canary.generation

    def drop_canary(self) -> None:
        canary, self._canary = self._canary, None
        life = self.life(canary.slot) if canary else None
        if life is not None and life.generation != self.generation:
            kill(life, "stop")

    def _fill(self, now: float) -> None:
        canary = self._canary
        numbers = set(range(self.want))
        if canary is not None and not canary.failure:
            numbers.add(canary.slot)  # of the pool by now, perhaps, if that has grown
        slots = [self._slots.setdefault(number, Slot(number)) for number in sorted(numbers)]
        missing = [slot for slot in slots if slot.life is None and slot.not_before <= now]
        for at in range(0, len(missing), FORKS_IN_A_ROW):
            self._fork(missing[at : at + FORKS_IN_A_ROW], now)
            if clock.monotonic() > now + FORK_SECONDS:
                return
        for number in [n for n, slot in self._slots.items() if slot.life is None and n not in numbers]:
            del self._slots[number]
            self._node.board.slot_writer(number).clear()

    def _retire_surplus(self, now: float) -> None:
        canary = self._canary
        if canary is not None and canary.accepted and self.rolled() and self.complete():
            log.info("all workers were replaced", generation=self.generation, workers=self.want)
            self._canary = canary = None
        kept = canary.slot if canary else None
        for life in self.lives():
            if life.slot >= self.want and life.slot != kept and life.told_at is None:
                tell_to_end(life, now)

    def _roll(self, now: float) -> None:
        if self.rolled():
            return
        number = next_to_replace(self._views(), now)
        if number is not None and (life := self._slots[number].life) is not None:
            tell_to_end(life, now)

    def _views(self) -> Iterator[View]:
        for number in range(self.want):
            slot = self._slots.get(number)
            life = slot.life if slot else None
            if life is None:
                yield View(number, there=False)
                continue
            record = self.record(life) or EMPTY
            yield View(
                number,
                there=True,
                starting=not life.was_idle,
                old=life.generation != self.generation,
                told_at=life.told_at,
                running=record.state is SlotState.RUNNING,
                started=record.started,
            )

    def _note_idle(self, now: float) -> None:
        for life in self.lives():
            if not life.was_idle:
                record = self.record(life)
                if record is not None and record.state in STARTED:
                    life.was_idle = self._ever_idle = True
                    self._dead_starts = 0
                elif now > life.born + START_SECONDS and life.kill is None:
                    log.error("worker does not become idle", worker=life.slot, pid=life.pid, seconds=START_SECONDS)
                    kill(life, "stop")

    # --- forks --------------------------------------------------------------------------------------------------------

    def _fork(self, slots: list[Slot], now: float) -> None:
        births: list[Birth] = []
        for slot in slots:
            try:
                births.append(self._prepare(slot))
            except OSError as exc:
                self._cannot_fork(slot, now, exc)
        pids, refusal = self._node.forker.fork_row([birth.child for birth in births])
        for birth, pid in zip(births, pids, strict=False):
            self._note_birth(birth, pid, now)
        for birth in births[len(pids) :]:
            self._node.forker.disown(birth.channel)
            assert refusal is not None
            self._cannot_fork(self._slots[birth.slot], now, refusal)

    def _prepare(self, slot: Slot) -> Birth:
        """Raises OSError (no more descriptors)."""
        generation, settings = self.generation, self._node.settings
        if self._canary is not None and self._canary.slot == slot.number:
            generation, settings = self._canary.generation, self._canary.settings
        self._incarnation += 1
        return Birth.prepare(self._node, slot, self._incarnation, generation, settings)

    def _note_birth(self, birth: Birth, pid: int, now: float) -> None:
        slot = self._slots[birth.slot]
        slot.life = life = Life(birth.slot, pid, birth.incarnation, birth.generation, now, birth.channel)
        self._by_pid[pid] = slot
        log.debug("worker started", worker=life.slot, pid=pid, incarnation=life.incarnation, generation=life.generation)
        self._told.worker_forked(life)

    def _cannot_fork(self, slot: Slot, now: float, exc: OSError) -> None:
        pause = slot.could_not_fork(now)
        self._note_canary(slot.number, f"could not be forked: {exc.strerror}")
        log.error("cannot fork a worker", worker=slot.number, reason=exc.strerror, retry_in=round(pause, 1))

    # --- deaths -------------------------------------------------------------------------------------------------------

    def reap(self, pid: int, status: int, now: float) -> bool:
        """Take note of a death; False when `pid` is no worker."""
        slot = self._by_pid.pop(pid, None)
        if slot is None or slot.life is None:
            return False
        life, record = slot.life, self.record(slot.life)
        started = life.was_idle or (record is not None and record.state in STARTED)
        told = life.told_at is not None or life.kill is not None
        if _is_soiled(status, record):
            status = 0
            slot.was_soiled(now)
        # Who was killed from outside once it could work is no failure to start: it is back at once, however often.
        by_itself = status != 0 and not (os.WIFSIGNALED(status) and os.WTERMSIG(status) in OUTSIDE)
        young = not told and (not started or (by_itself and now < life.born + YOUNG))
        pause = slot.ended(now, young=young)
        self._log_death(life, status, pause)
        self._count_dead_start(life, status, started=started or told)
        kill_slot(life.slot)
        reason = _reason(life, status, record)
        self._told.worker_died(life, status, reason, record)
        # The task stays in the record until the next life: should we be killed now, our successor reads it.
        self._node.board.slot_writer(life.slot).state(SlotState.DEAD)
        self._note_canary(life.slot, ending(status))
        self.ended += 1
        self.died += reason is None and status != 0
        return True

    def _note_canary(self, slot: int, failure: str) -> None:
        if self._canary is not None and self._canary.slot == slot and not self._canary.accepted:
            self._canary.failure = failure

    def _count_dead_start(self, life: Life, status: int, *, started: bool) -> None:
        if started or self._ever_idle or not self.forking:
            return
        self._dead_starts += 1
        if self._dead_starts >= CANNOT_START:
            self.failure = (
                f"workers cannot start: {self._dead_starts} in a row ended before they were idle, "
                f"the last one {ending(status)}; the log says why"
            )

    def _log_death(self, life: Life, status: int, pause: float) -> None:
        fields = {"worker": life.slot, "pid": life.pid, "ending": ending(status)}
        if pause:
            log.warning("worker died young; the next one waits", **fields, seconds=round(pause, 2))
        else:
            log.debug("worker ended", **fields)


def _is_soiled(status: int, record: SlotRecord | None) -> bool:
    """It said so itself; a step that exits with this code does so in the middle of its task."""
    ended_well = record is not None and record.state is SlotState.STOPPING
    return ended_well and os.WIFEXITED(status) and os.WEXITSTATUS(status) == EXIT_SOILED


def _reason(life: Life, status: int, record: SlotRecord | None) -> str | None:
    """Why we ended this life; None when we did not. A kill that was meant for another task than the one that it hit
    charges nothing to the innocent one."""
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    if life.kill is not None and number == signal.SIGKILL:
        hit = record is None or not life.kill.token or record.token in (0, life.kill.token)
        return life.kill.reason if hit else "stop"
    return "stop" if number in life.signals else None
