"""The scoreboard: what every process of the daemon is doing, in one shared file (docs/design.md section 3).

It exists so that nobody has to ask a busy process anything: the supervisor reads deadlines, the coordinator and
`kubeminctl` read states, and a worker pays about 1 µs a change. The file is made anew at each start, renamed into
place and mapped MAP_SHARED before the first fork. Each record has one writer; a record carries a sequence number and a
CRC-32, is written by one copy, and a reader that finds it torn five times says None ("unknown").

Layout, little-endian: 16 KiB header, 16 KiB coordinator, then 512 bytes a slot. The first two are JSON behind
`sequence, length, CRC`, because they change rarely; a slot record is a fixed structure: it changes twice a task. The
last bytes of the coordinator's part are its pulse (`kubemin/pulse.py`).

May touch: the one file. Its times are `clock.boottime`. Imports only errors, the clock and the pulse.
"""

from __future__ import annotations

import mmap
import os
import struct
from enum import StrEnum
from typing import Any, TypeVar
from zlib import crc32

import msgspec

from kubemin import pulse
from kubemin.clock import boottime
from kubemin.errors import StoreUnavailable, Unreachable

OTHER_VERSION = "other_version"  # code of the error: a daemon lives there, and cannot be looked at
SLOTS = 1026  # the largest pool (1024), a canary during a reload, one spare
TRIES = 5  # torn reads before a reader says "unknown"
NOTHING = 0.0  # a time field without a time

_MAGIC = b"KMSB\x01\0\0\0"
_PREAMBLE = struct.Struct("<8sI4x")  # magic, number of slots
_TEXT = struct.Struct("<QII")  # sequence, length, CRC of what follows
_HEADER_AT = 64
_HEADER_SIZE = 16384 - 64
_COORDINATOR_AT = 16384
_COORDINATOR_SIZE = 16384 - pulse.SIZE
_PULSE_AT = _COORDINATOR_AT + _COORDINATOR_SIZE
_SLOTS_AT = 32768
_SLOT_SIZE = 512
_LABEL_BYTES = 240
_LONGEST_TEXT = 1000  # characters kept of a text field, so that the record fits

_BODY = struct.Struct(f"<QdQQdddIIIiB?20s{_LABEL_BYTES}s")
_RECORD = struct.Struct(f"<I4x{_BODY.size}s")  # CRC of the body, body
_SEQUENCE_AT = 8
_DEADLINE_AT = 16  # aligned, so that the supervisor can look at it alone
_DEADLINE = struct.Struct("<d")
_SEQUENCE = struct.Struct("<Q")
_BLANK = bytes(_RECORD.size)


class SlotState(StrEnum):
    DEAD = "dead"  # nobody there: never forked, cleared, or gone
    STARTING = "starting"
    IDLE = "idle"
    RUNNING = "running"
    REPORTING = "reporting"  # its step has ended, the store has yet to say so: no deadline counts (fleet)
    STOPPING = "stopping"


_STATES = tuple(SlotState)
_CODES = {state: code for code, state in enumerate(_STATES)}
_IDLE = _CODES[SlotState.IDLE]
_RUNNING = _CODES[SlotState.RUNNING]


class Header(msgspec.Struct, frozen=True):
    """Written by the supervisor. `started` and `reload_at` are boottime seconds, `supervisor_start` is field 22 of
    /proc/PID/stat."""

    instance: str = ""
    node: str = ""
    version: str = ""
    mode: str = "local"
    generation: int = 0
    supervisor_pid: int = 0
    supervisor_start: int = 0
    started: float = NOTHING
    max_workers: int = 0  # wanted, not counted
    ready: bool = False
    drained: bool = False
    stopping: bool = False
    taken: str = ""  # the last request of wanted.json that was read
    request: str = ""  # and the last that has its outcome
    outcome: str = ""
    outcome_ok: bool = True
    reload_at: float = NOTHING
    reload_ok: bool | None = None  # None: never reloaded
    reload_text: str = ""
    reloads: int = 0  # that were carried out
    reloads_failed: int = 0
    worker_ends: int = 0
    worker_deaths: int = 0  # of those: killed from outside or crashed
    coordinator_restarts: int = 0


class CoordinatorRecord(msgspec.Struct, frozen=True):
    """Written by the coordinator. `term_until`, `tick` are boottime seconds; counters are of the whole instance."""

    pid: int = 0
    mode: str = "local"
    leader: str = ""
    epoch: int = 0  # number of the leader's term, as last seen; 0: alone on a machine, or nobody is known
    term_until: float = NOTHING
    tick: float = NOTHING
    ready: bool = False
    finished: int = 0
    failed: int = 0
    requeued: int = 0  # tasks that went back to their queue
    recoveries: int = 0
    rate: float = 0.0  # tasks that ended a second, over the last minute or so
    redis: str = ""  # up or down; empty: it works alone and looks for none
    error: str = ""  # what keeps it from working, for `status`


class SlotRecord(msgspec.Struct, frozen=True):
    """One life of one worker. Times are boottime seconds, 0 = none; `progress` -1 = not told."""

    pid: int = 0
    incarnation: int = 0
    generation: int = 0
    state: SlotState = SlotState.DEAD
    run: str = ""
    idx: int = 0
    token: int = 0
    label: str = ""
    started: float = NOTHING
    deadline: float = NOTHING
    tick: float = NOTHING
    done: int = 0
    progress: float = -1.0
    within: bool = False  # the task runs in the worker's own process, and ends only with it if it does not listen


_Text = TypeVar("_Text", Header, CoordinatorRecord)


class SlotWriter:
    """The pen of one slot, held by one process at a time. `running` and `idle` are the hot calls (about 1 µs)."""

    __slots__ = (
        "_generation",
        "_incarnation",
        "_map",
        "_pid",
        "_progress",
        "_sequence",
        "_span",
        "_state",
        "_task",
        "done",
    )

    def __init__(self, map_: mmap.mmap, at: int) -> None:
        self._map = map_
        self._span = slice(at, at + _RECORD.size)
        self._sequence: int = _SEQUENCE.unpack_from(map_, at + _SEQUENCE_AT)[0]
        was = _decode_slot(map_[self._span]) or EMPTY
        self._pid, self._incarnation, self._generation = was.pid, was.incarnation, was.generation
        self._state = _CODES[was.state]
        self._task = (was.run.encode(), was.idx, was.token, was.label.encode(), was.started, was.deadline, was.within)
        self._progress = was.progress
        self.done = was.done

    def running(
        self, run: str, idx: int, token: int, label: str, started: float, deadline: float, within: bool = False
    ) -> None:
        """The worker executes a task; `started` and `deadline` are boottime seconds, deadline 0 = none."""
        self._state = _RUNNING
        self._progress = -1.0
        self._task = (run.encode(), idx, token, label.encode(), started, deadline, within)
        self._write(started)

    def idle(self, done: int) -> None:
        """The worker waits for a task; `done` tasks so far in this life."""
        self._state = _IDLE
        self.done = done
        self._task = _NO_TASK
        self._write(boottime())

    def reporting(self) -> None:
        """The task has ended; what is charged at a death of the worker is still this task."""
        self.state(SlotState.REPORTING)

    def state(
        self, state: SlotState, *, pid: int | None = None, incarnation: int | None = None, generation: int | None = None
    ) -> None:
        """Change the state alone, or begin a life with its identity. The task, if any, stays."""
        self._pid = self._pid if pid is None else pid
        self._incarnation = self._incarnation if incarnation is None else incarnation
        self._generation = self._generation if generation is None else generation
        self._state = _CODES[state]
        self._write(boottime())

    def progress(self, fraction: float) -> None:
        """How far the running task is, 0 to 1. Also a sign of life."""
        self._progress = fraction
        self._write(boottime())

    def clear(self) -> None:
        """Nobody is in this slot."""
        self._pid = self._incarnation = self._generation = self.done = 0
        self._progress = -1.0
        self._task = _NO_TASK
        self.state(SlotState.DEAD)

    def _write(self, tick: float) -> None:
        run, idx, token, label, started, deadline, within = self._task
        self._sequence += 1
        body = _BODY.pack(
            self._sequence,
            deadline,
            token,
            self._incarnation,
            started,
            tick,
            self._progress,
            self._generation,
            self._pid,
            self.done & 0xFFFFFFFF,
            idx,
            self._state,
            within,
            run,
            label,
        )
        self._map[self._span] = _RECORD.pack(crc32(body), body)


class Scoreboard:
    """The mapped file. Made by `create` (supervisor; children inherit it) or `open` (clients, read-only)."""

    def __init__(self, map_: mmap.mmap, slots: int, path: str) -> None:
        self._map = map_
        self.slots = slots
        self.path = path
        self.pulse = pulse.Pulse(map_, _PULSE_AT)
        self._header: Header | None = None
        self._coordinator: CoordinatorRecord | None = None

    @classmethod
    def create(cls, path: str, slots: int = SLOTS) -> Scoreboard:
        """A fresh scoreboard at `path`, replacing an old one for whoever opens it next. Raises StoreUnavailable."""
        size = _SLOTS_AT + slots * _SLOT_SIZE
        temporary = f"{path}.new"
        try:
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                os.posix_fallocate(fd, 0, size)  # a full disk is told now, not by SIGBUS at a later write
                map_ = mmap.mmap(fd, size, mmap.MAP_SHARED)
                _PREAMBLE.pack_into(map_, 0, _MAGIC, slots)
                os.rename(temporary, path)
            finally:
                os.close(fd)
        except OSError as exc:
            raise StoreUnavailable(f"cannot make the scoreboard {path}: {exc.strerror}", fatal=True) from exc
        return cls(map_, slots, path)

    @classmethod
    def open(cls, path: str) -> Scoreboard:
        """The scoreboard of a daemon, for reading. Raises Unreachable when there is none, or of another version."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                size = os.fstat(fd).st_size
                map_ = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ) if size >= _SLOTS_AT else None
            finally:
                os.close(fd)
        except FileNotFoundError as exc:
            raise Unreachable(f"no scoreboard at {path}: the daemon is not running, or has another runtimeDir") from exc
        except OSError as exc:
            raise Unreachable(f"cannot read the scoreboard {path}: {exc.strerror}") from exc
        if map_ is not None:
            magic, slots = _PREAMBLE.unpack_from(map_, 0)
            if magic == _MAGIC and size >= _SLOTS_AT + slots * _SLOT_SIZE:
                return cls(map_, slots, path)
            if magic[:4] == _MAGIC[:4] and magic != _MAGIC:
                other = "a newer" if magic > _MAGIC else "an older"
                text = f"{path}: the daemon is of {other} version than this command; restart it"
                raise Unreachable(text, code=OTHER_VERSION)
        raise Unreachable(f"{path} is not a scoreboard of kubemin; is runtimeDir right?")

    def close(self) -> None:
        self._map.close()

    def read_header(self) -> Header | None:
        return self._read_text(_HEADER_AT, Header)

    def write_header(self, **changes: Any) -> None:
        """Supervisor only. Texts that are too long are cut."""
        self._header = msgspec.structs.replace(self._header or Header(), **_clipped(changes))
        self._write_text(_HEADER_AT, _HEADER_SIZE, self._header)

    def read_coordinator(self) -> CoordinatorRecord | None:
        return self._read_text(_COORDINATOR_AT, CoordinatorRecord)

    def write_coordinator(self, **changes: Any) -> None:
        """Coordinator only. A new coordinator goes on with its predecessor's counters."""
        known = self._coordinator or self.read_coordinator() or CoordinatorRecord()
        self._coordinator = msgspec.structs.replace(known, **_clipped(changes))
        self._write_text(_COORDINATOR_AT, _COORDINATOR_SIZE, self._coordinator)

    def slot_writer(self, slot: int) -> SlotWriter:
        """The pen of a slot; it goes on from the record that is there."""
        return SlotWriter(self._map, self._at(slot))

    def read_slot(self, slot: int) -> SlotRecord | None:
        """The slot's record (`EMPTY` when nobody ever wrote it), or None when it is torn."""
        at = self._at(slot)
        for _ in range(TRIES):
            record = _decode_slot(self._map[at : at + _RECORD.size])
            if record is not None:
                return record
        return None

    def deadline(self, slot: int) -> float:
        """The slot's deadline alone, unchecked: cheap enough to be looked at several times a second for 1024 slots."""
        deadline: float = _DEADLINE.unpack_from(self._map, self._at(slot) + _DEADLINE_AT)[0]
        return deadline

    def _at(self, slot: int) -> int:
        if not 0 <= slot < self.slots:
            raise IndexError(f"slot {slot} is not in 0..{self.slots - 1}")
        return _SLOTS_AT + slot * _SLOT_SIZE

    def _write_text(self, at: int, room: int, record: Header | CoordinatorRecord) -> None:
        text = msgspec.json.encode(record)
        if len(text) > room - _TEXT.size:
            raise ValueError(f"a scoreboard record of {len(text)} bytes does not fit")
        sequence = _SEQUENCE.unpack_from(self._map, at)[0] + 1
        self._map[at : at + _TEXT.size + len(text)] = _TEXT.pack(sequence, len(text), crc32(text)) + text

    def _read_text(self, at: int, type_: type[_Text]) -> _Text | None:
        for _ in range(TRIES):
            sequence, length, crc = _TEXT.unpack_from(self._map, at)
            if sequence == 0:
                return type_()
            text = self._map[at + _TEXT.size : at + _TEXT.size + min(length, _HEADER_SIZE)]
            if crc32(text) == crc:
                return msgspec.json.decode(text, type=type_)
        return None


def _printable(text: str) -> str:
    """Cut to what fits, without control characters, which would take six bytes each in JSON."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text[:_LONGEST_TEXT])


def _clipped(changes: dict[str, Any]) -> dict[str, Any]:
    return {key: _printable(value) if isinstance(value, str) else value for key, value in changes.items()}


def _decode_slot(raw: bytes) -> SlotRecord | None:
    """A record from its bytes; None when they are torn."""
    if raw == _BLANK:
        return EMPTY
    crc, body = _RECORD.unpack(raw)
    if crc32(body) != crc:
        return None
    _, deadline, token, incarnation, started, tick, progress, generation, pid, done, idx, state, within, run, label = (
        _BODY.unpack(body)
    )
    return SlotRecord(
        pid=pid,
        incarnation=incarnation,
        generation=generation,
        state=_STATES[state],
        run=run.rstrip(b"\0").decode(errors="replace"),
        idx=idx,
        token=token,
        label=label.rstrip(b"\0").decode(errors="ignore"),  # may be cut inside a character
        started=started,
        deadline=deadline,
        tick=tick,
        done=done,
        progress=progress,
        within=within,
    )


_NO_TASK = (b"", 0, 0, b"", NOTHING, NOTHING, False)
EMPTY = SlotRecord()
