"""SIGUSR1: everything that the supervisor knows, written to the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubemin import clock
from kubemin.clock import boottime
from kubemin.telemetry import log

if TYPE_CHECKING:
    from kubemin.supervisor.loop import Supervisor


def dump_state(supervisor: Supervisor) -> None:
    pool, keeper, stop = supervisor.pool, supervisor.keeper, supervisor.stop
    log.info(
        "state of the supervisor",
        pid=supervisor.node.pid,
        generation=pool.generation,
        workers=len(pool.pids),
        wanted=pool.want,
        ready=supervisor.ready,
        drained=supervisor.drained,
        stop=stop.phase.name.lower(),
        reload=supervisor.reload.active,
        ended_workers=pool.ended,
        orphans_killed=supervisor.orphans.killed,
    )
    _dump_coordinator(supervisor)
    log.info("state of the channel", pid=keeper.pid, restarts=keeper.restarts, deaths_kept=keeper.deaths_kept)
    for life in sorted(pool.lives(), key=lambda life: life.slot):
        record = pool.record(life)
        log.info(
            "state of a worker",
            worker=life.slot,
            pid=life.pid,
            incarnation=life.incarnation,
            generation=life.generation,
            age=round(clock.monotonic() - life.born, 1),
            state=record.state.value if record else "unknown",
            run=record.run if record else "",
            step=record.label if record else "",
            token=record.token if record else 0,
            seconds=round(boottime() - record.started, 1) if record and record.started else 0,
            done=record.done if record else 0,
            told_to_end=life.told_at is not None,
        )


def _dump_coordinator(supervisor: Supervisor) -> None:
    record = supervisor.node.board.read_coordinator()
    if record is not None:
        log.info(
            "state of the coordinator",
            pid=record.pid,
            ready=record.ready,
            mode=record.mode,
            silent=round(boottime() - record.tick, 1) if record.tick else 0,
            finished=record.finished,
            failed=record.failed,
            requeued=record.requeued,
            error=record.error,
        )
