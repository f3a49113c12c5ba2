"""What the daemon of this node is doing, read from its scoreboard and pid file. Nothing is asked or written."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kubemin import processes
from kubemin.api.gateway import no_rights
from kubemin.clock import boottime
from kubemin.errors import Refused, Unreachable
from kubemin.scoreboard import OTHER_VERSION, Header, Scoreboard, SlotRecord, SlotState
from kubemin.why import Pool

if TYPE_CHECKING:
    from kubemin.config import Settings


@dataclass(slots=True)
class Worker:
    """One slot. `seconds`: how long it has been executing its task; None without one."""

    slot: int
    pid: int | None
    state: str  # starting, idle, running, reporting, stopping, dead; unknown for a record that is torn
    run: str | None = None
    step: str | None = None
    task: str | None = None
    seconds: float | None = None
    label: str = ""
    progress: float | None = None
    done: int = 0


@dataclass(slots=True)
class PoolState:
    """The daemon. Of one that is not there, only `alive` and `node` mean anything."""

    alive: bool
    node: str
    halted: bool = False  # the supervisor, by a signal
    mode: str = "local"
    leader: str | None = None
    epoch: int = 0  # of the leader's term, in a fleet
    redis: str = ""  # up or down; empty: none is looked for
    generation: int = 0
    supervisor_pid: int | None = None
    version: str = ""
    uptime: float = 0.0
    max_workers: int = 0
    ready: bool = False
    drained: bool = False
    stopping: bool = False
    error: str = ""  # what keeps the coordinator from working
    finished: int = 0
    failed: int = 0
    recoveries: int = 0
    rate: float = 0.0  # tasks a second, over the last minute or so
    reload_ago: float | None = None  # seconds since the last reload; None: there was none
    reload_ok: bool = True
    reload_text: str = ""
    worker_deaths: int = 0
    workers: list[Worker] = field(default_factory=list)


def pid_path(settings: Settings) -> str:
    return os.path.join(settings.runtime_dir, "kubemin.pid")


def scoreboard_path(settings: Settings) -> str:
    return os.path.join(settings.runtime_dir, "scoreboard")


def live_pid(settings: Settings) -> int | None:
    """The supervisor's pid; None when no daemon runs on this runtime directory. Raises Refused without rights to it."""
    from kubemin.supervisor import pidfile

    path = pid_path(settings)
    try:
        os.stat(path)
    except PermissionError:
        raise Refused(no_rights(settings.runtime_dir), code="no_rights") from None
    except OSError:
        return None
    return pidfile.read_live(path)


def read_pool(settings: Settings) -> PoolState:
    """The daemon as it is now; `alive` False when there is none. Raises Unreachable for one of another version."""
    pid = live_pid(settings)
    if pid is None:
        return PoolState(alive=False, node=settings.node_id)
    try:
        board = Scoreboard.open(scoreboard_path(settings))
    except Unreachable as exc:
        if exc.code == OTHER_VERSION:
            raise
        return PoolState(alive=True, node=settings.node_id, supervisor_pid=pid)
    try:
        return _state(board, pid)
    finally:
        board.close()


def require_pool(settings: Settings) -> PoolState:
    """Raises Unreachable when no daemon runs."""
    pool = read_pool(settings)
    if not pool.alive:
        raise no_daemon(settings)
    return pool


def no_daemon(settings: Settings) -> Unreachable:
    return Unreachable(
        f"no daemon is running with runtimeDir {settings.runtime_dir}; start it: systemctl start kubemin, or kubemind",
        code="no_daemon",
    )


def _state(board: Scoreboard, pid: int) -> PoolState:
    header = board.read_header() or Header()
    coordinator = board.read_coordinator()
    state = PoolState(
        alive=True,
        node=header.node,
        halted=processes.is_halted(pid),
        mode=header.mode,
        generation=header.generation,
        supervisor_pid=pid,
        version=header.version,
        uptime=max(0.0, boottime() - header.started),
        max_workers=header.max_workers,
        ready=header.ready,
        drained=header.drained,
        stopping=header.stopping,
        reload_ago=max(0.0, boottime() - header.reload_at) if header.reload_at else None,
        reload_ok=header.reload_ok is not False,
        reload_text=header.reload_text,
        worker_deaths=header.worker_deaths,
        workers=_workers(board, header.max_workers),
    )
    if coordinator is not None:
        state.leader, state.epoch = coordinator.leader or None, coordinator.epoch
        state.redis = coordinator.redis
        state.mode = coordinator.mode or state.mode
        state.error = coordinator.error
        state.finished, state.failed = coordinator.finished, coordinator.failed
        state.recoveries, state.rate = coordinator.recoveries, coordinator.rate
    return state


def _workers(board: Scoreboard, wanted: int) -> list[Worker]:
    """Every slot up to the wanted size, and whatever lives above it (a canary, or one that has not gone yet)."""
    found = []
    for slot in range(board.slots):
        record = board.read_slot(slot)
        if slot < wanted or record is None or record.state is not SlotState.DEAD:
            found.append(_worker(slot, record))
    return found


def _worker(slot: int, record: SlotRecord | None) -> Worker:
    if record is None:
        return Worker(slot, None, "unknown")
    worker = Worker(slot, record.pid or None, record.state.value, done=record.done)
    if record.run:
        worker.run = record.run
        worker.task = f"{record.run}.{record.idx}"
        worker.label = record.label
        worker.step = record.label.partition("/")[2] or record.label
        worker.seconds = max(0.0, boottime() - record.started)
        worker.progress = record.progress if record.progress >= 0 else None
    return worker


def why_pool(settings: Settings) -> Pool:
    """The pool's facts as `kubemin.why` takes them."""
    pool = read_pool(settings)
    return Pool(
        node=pool.node,
        state_dir=settings.state_dir,
        alive=pool.alive,
        drained=pool.drained,
        stopping=pool.stopping,
        queues=settings.queues,
        idle=sum(worker.state == "idle" for worker in pool.workers),
        workers=len(pool.workers),
        seconds={worker.slot: worker.seconds for worker in pool.workers if worker.seconds is not None},
    )
