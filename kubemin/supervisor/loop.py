"""The supervisor's loop: a list of steps, none of which waits but the first.

It knows pids, slots and deadlines, never what a task means, and nothing that a disk, a server or a file does can
delay it: whatever may wait for those lives in a child.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterable

import msgspec

from kubemin import clock, kernel, processes
from kubemin.clock import boottime
from kubemin.proctitle import set_title
from kubemin.supervisor import wishes
from kubemin.supervisor.coordinator import Keeper, Started
from kubemin.supervisor.dump import dump_state
from kubemin.supervisor.enforcing import Enforcer, KillOrder
from kubemin.supervisor.node import Node
from kubemin.supervisor.notify import Notifier
from kubemin.supervisor.orphans import Orphans
from kubemin.supervisor.pool import Pool
from kubemin.supervisor.reload import Outcome, Reload
from kubemin.supervisor.signals import SignalBox
from kubemin.supervisor.slots import Life
from kubemin.supervisor.stopping import Stop
from kubemin.telemetry import log

LONGEST_WAIT = 5.0  # seconds; nothing depends on it
TELL_SECONDS = 1.0  # between two status lines to the service manager
NOW = frozenset({signal.SIGINT, signal.SIGQUIT})
CONTROL = frozenset({signal.SIGHUP, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU})


class Supervisor:
    """One life of the daemon. `run` returns its exit code."""

    def __init__(self, node: Node, signals: SignalBox, notify: Notifier, predecessor: list[Started]) -> None:
        self.node = node
        self.signals = signals
        self.notify = notify
        self.keeper = Keeper(node, predecessor, self._lives)
        self.pool = Pool(node, self.keeper)
        self.enforcer = Enforcer(node, self.pool)
        self.reload = Reload(node, self.pool, self.keeper, self._reloaded)
        self.stop = Stop(self.pool, self.enforcer, self.keeper)
        self.orphans = Orphans()
        self.ready = False
        self.drained = False
        self.wishes = wishes.Wishes(self)
        self._shown: dict[str, object] = {}
        self._next_status = 0.0
        self._reloads = {True: 0, False: 0}  # by whether they were carried out
        self._refused = ""  # why the last one was not
        self._started = boottime()
        node.forker.own([*signals.descriptors, *notify.descriptors])

    def run(self) -> int:
        self.node.entries.rehearse(self.node.settings, self.node.board)
        self.node.forker.prepare()
        self.reload.check_at_start(clock.monotonic())
        while not self.stop.done:
            now = clock.monotonic()
            self.handle_signals(now)
            self.reap(now)
            self.hear_coordinator()
            self.enforcer.enforce(now)
            self.keeper.maintain(now)
            self.pool.maintain(now)
            self.reload.maintain(now)
            self.stop.maintain(now)
            self.give_up_if_hopeless(now)
            self.announce(now)
            self.notify.feed()
            self.wait()
        return self.stop.exit_code

    # --- steps --------------------------------------------------------------------------------------------------------

    def wait(self) -> None:
        """Until a signal, a message, room for one, or the next thing to do."""
        poller = select.poll()
        poller.register(self.signals.fd, select.POLLIN)
        link = self.keeper.fileno()
        if link is not None:
            poller.register(link, select.POLLIN | (select.POLLOUT if self.keeper.wants_to_write else 0))
        now = clock.monotonic()
        parts = (self.pool, self.enforcer, self.keeper, self.reload, self.stop)
        seconds = min(LONGEST_WAIT, self.notify.next_due(), *(part.next_due(now) for part in parts))
        seconds = max(0.0, min(seconds, self.orphans.next_due - now))
        poller.poll(0 if self.stop.done else seconds * 1000)

    def handle_signals(self, now: float) -> None:
        taken = self.signals.take()
        if signal.SIGUSR1 in taken:
            dump_state(self)
        if taken & NOW or signal.SIGTERM in taken:
            self.begin_stop(0.0 if taken & NOW or self.stop.active else self.node.settings.graceful_timeout, now)
        if taken & CONTROL:
            self.wishes.carry_out(taken, now)

    def reap(self, now: float) -> None:
        """Known children by their pid; the others are orphans, which are killed with all that is below them."""
        ended = False
        while (pid := processes.ended_child()) is not None:
            ended = True
            if pid in self._known():
                self._bury(pid, os.waitpid(pid, 0)[1], now)
            else:
                self.orphans.reap(pid)
        if ended or now >= self.orphans.next_due:
            self.orphans.sweep(self._known(), now)

    def hear_coordinator(self) -> None:
        for message in self.keeper.receive():
            try:
                order = msgspec.convert(message, KillOrder)
            except msgspec.ValidationError as exc:
                log.error("the coordinator says what is not understood", told=str(message), reason=str(exc))
            else:
                self.enforcer.carry_out(order)

    def give_up_if_hopeless(self, now: float) -> None:
        """What cannot start at all stops the daemon, with the reason; it does not fill the disk with attempts."""
        code, reason = self.keeper.failure or (1, self.pool.failure)
        if reason and not self.stop.active:
            log.error("the daemon cannot go on", reason=reason)
            self.begin_stop(0.0, now, code)

    def announce(self, now: float) -> None:
        """Readiness, the scoreboard's header, the service manager."""
        can_work = self.keeper.ready and self.reload.checked and self.keeper.published
        became_ready = not self.ready and can_work and self.pool.complete()
        self.ready |= became_ready
        self._publish()
        if became_ready:
            seconds = round(boottime() - self._started, 3)
            log.info("ready", workers=self.pool.want, node=self.node.settings.node_id, seconds=seconds)
            self.notify.ready()
            self._next_status = now
            kernel.forget_code()
        if self.notify.active and now >= self._next_status:
            self._next_status = now + TELL_SECONDS
            self.notify.status(self._status())
            if self.stop.active:
                self.notify.extend(self.stop.seconds_left(now))

    # --- acts ---------------------------------------------------------------------------------------------------------

    def begin_stop(self, grace: float, now: float, exit_code: int = 0) -> None:
        if not self.stop.active:
            log.info("stopping", grace=grace, workers=len(self.pool.pids))
            self.reload.abort()
            self.notify.stopping()
        self.stop.begin(grace, now, exit_code)

    def begin_reload(self, request: str, now: float) -> None:
        log.info("reloading")
        if self.ready:
            self.notify.reloading()
        self.reload.request(request, now)

    def answer(self, request: str, ok: bool, text: str) -> None:
        """The outcome of a request, for the one who waits at the scoreboard."""
        self.node.board.write_header(request=request, outcome=text, outcome_ok=ok)

    def _reloaded(self, outcome: Outcome) -> None:
        self._reloads[outcome.ok] += 1
        self._refused = "" if outcome.ok else outcome.text.partition("\n")[0]
        self._next_status = 0.0
        for line in outcome.text.splitlines():
            (log.info if outcome.ok else log.error)("reload", outcome=line)
        self._publish()
        self.node.board.write_header(reload_at=boottime(), reload_ok=outcome.ok, reload_text=outcome.text)
        if outcome.request:
            self.answer(outcome.request, outcome.ok, outcome.text)
        if self.ready and not self.reload.again:
            self.notify.ready()

    def _bury(self, pid: int, status: int, now: float) -> None:
        parts = (self.pool, self.keeper, self.reload)
        if not any(part.reap(pid, status, now) for part in parts):
            log.error("a child ended that nobody knows", pid=pid)

    # --- reads --------------------------------------------------------------------------------------------------------

    def _lives(self) -> Iterable[Life]:
        return self.pool.lives()

    def _known(self) -> set[int]:
        return self.pool.pids.union(pid for pid in (self.keeper.pid, self.reload.checker) if pid is not None)

    def _publish(self) -> None:
        shown: dict[str, object] = {
            "ready": self.ready,
            "drained": self.drained,
            "stopping": self.stop.active,
            "generation": self.pool.generation,
            "max_workers": self.pool.want,
            "reloads": self._reloads[True],
            "reloads_failed": self._reloads[False],
            "worker_ends": self.pool.ended,
            "worker_deaths": self.pool.died,
            "coordinator_restarts": self.keeper.restarts,
            "mode": self._mode(),
        }
        if shown == self._shown:
            return
        self._shown = shown
        self.node.board.write_header(**shown)
        generation = self.pool.generation
        set_title(f"kubemin: supervisor [{self.node.settings.node_id} {shown['mode']} gen {generation}]")

    def _mode(self) -> str:
        record = self.node.board.read_coordinator()
        return record.mode if record is not None else str(self._shown.get("mode", "local"))

    def _status(self) -> str:
        if self.stop.active:
            return f"Stopping: {len(self.pool.pids)} workers left"
        state = "Drained" if self.drained else "Running" if self.ready else "Starting"
        refused = f"; last reload failed: {self._refused}" if self._refused else ""
        return (
            f"{state}: {len(self.pool.pids)} of {self.pool.want} workers, generation {self.pool.generation}"
            f"{refused}{self._problem()}"
        )

    def _problem(self) -> str:
        record = self.node.board.read_coordinator()
        return f"; {record.error}" if record is not None and record.error else ""
