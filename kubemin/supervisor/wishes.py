"""What operators ask for by signals: reload, size, drain.

A signal may be accompanied by `wanted.json`, which says exactly what is wanted and under which request id; a plain
signal (sent by `kill`) means the same as in the table of signals.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from kubemin.scoreboard import SLOTS
from kubemin.supervisor import wanted
from kubemin.telemetry import log

if TYPE_CHECKING:
    from kubemin.supervisor.loop import Supervisor

LARGEST_POOL = SLOTS - 2
_NOTHING = wanted.Wanted()


class Wishes:
    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._last = ""  # request that was read already

    def carry_out(self, signals: set[int], now: float) -> None:
        """All of HUP, USR2, TTIN and TTOU that came, together with the wish if there is a new one."""
        wish = self._new_wish()
        if self._supervisor.stop.active:
            self._refuse(wish)
            return
        done = [self._resize(signals, wish), self._drain(signals, wish)]
        if signal.SIGHUP in signals:
            self._supervisor.begin_reload(wish.request, now)
        elif wish.request:
            wrong = [text for ok, text in filter(None, done) if not ok]
            right = [text for ok, text in filter(None, done) if ok]
            self._supervisor.answer(wish.request, not wrong, "; ".join(wrong or right) or "nothing was asked for")

    def _new_wish(self) -> wanted.Wanted:
        wish = wanted.read(self._supervisor.node.settings.runtime_dir)
        if wish is None or wish.request == self._last:
            return _NOTHING
        self._last = wish.request
        self._supervisor.node.board.write_header(taken=wish.request)
        return wish

    def _refuse(self, wish: wanted.Wanted) -> None:
        log.warning("ignored: the daemon is stopping")
        if wish.request:
            self._supervisor.answer(wish.request, False, "the daemon is stopping")

    def _resize(self, signals: set[int], wish: wanted.Wanted) -> tuple[bool, str] | None:
        pool = self._supervisor.pool
        want = pool.want
        if wish.workers is not None:
            want = wish.workers
        elif not wish.request:
            want = want + (signal.SIGTTIN in signals) - (signal.SIGTTOU in signals)
        if want == pool.want:
            return (True, f"{want} workers") if wish.workers is not None else None
        if not 1 <= want <= LARGEST_POOL:
            log.error("this size of the pool is not possible", workers=want)
            return False, f"the pool cannot have {want} workers; 1 to {LARGEST_POOL} are possible"
        log.info("the pool is resized", workers=want, before=pool.want)
        pool.want = want
        return True, f"{want} workers"

    def _drain(self, signals: set[int], wish: wanted.Wanted) -> tuple[bool, str] | None:
        supervisor = self._supervisor
        drained = wish.drained
        if drained is None and not wish.request and signal.SIGUSR2 in signals:
            drained = not supervisor.drained
        if drained is None:
            return None
        if drained != supervisor.drained:
            log.info("drained: no task is handed out" if drained else "no longer drained")
            supervisor.drained = drained
            supervisor.keeper.drain(drained)
        return True, "drained" if drained else "not drained"
