"""The campaign: the elector's thread in the coordinator, and what the coordinator asks of it.

The coordinator's loop does the leader's work; this thread only campaigns and renews. They share the `Term`, which
needs no thread to end. To lead in the store, too, the coordinator shows it the grant's epoch and holder before the
first duty; when the store knows a higher epoch, it calls `step_down`.

    grant = campaign.term.current()        # None: not the leader
    campaign.beat()                        # at each turn of the loop: its work does not hang
    campaign.step_down("asked for")        # hands over; returns at once, the term is over when it returns
    campaign.look()                        # another is said to have handed over
    campaign.stop()                        # after the leader's work has stopped; releases, 3 s at most

May touch: threads, the lease through its backend.
"""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Callable

import msgspec

from kubemin import clock
from kubemin.clock import Micros, boottime
from kubemin.config import LeaderElection
from kubemin.errors import Invalid, Problem
from kubemin.leader.announcer import Announcer, Figures
from kubemin.leader.bounded import BoundedBackend, BoundedCalls
from kubemin.leader.elector import REQUEST_TIMEOUT, Elector
from kubemin.leader.lease.base import LeaseBackend, Unanswered
from kubemin.leader.term import Term
from kubemin.telemetry import log

STOP_TIMEOUT = REQUEST_TIMEOUT + 0.2  # seconds a release may take; what does not end is left to the lease's duration
WORD_TIMEOUT = 1.0  # seconds to tell the others that it is released
WORK_STOPS_WITHIN = 5.0  # seconds between the end of one term and the next: the leader's last effects end in them
RENEW_JITTER = 1.2  # renewDeadline is more than this many retry periods (client-go has the same rule)


class LeaderView(msgspec.Struct, rename="camel"):
    """The election as this node sees it: `kubeminctl leader`, health, metrics. Seconds are ages or what is left."""

    backend: str
    lease: str
    holder: str
    leading: bool
    role: str
    epoch: int
    transitions: int
    since: int | None  # wall clock, microseconds: this node's term began
    term_seconds: float  # left of this node's term
    renewal_seconds: float  # how long the last renewal took
    renewed_seconds_ago: float | None
    renewals: int
    failures: int
    terms: int
    outage: str
    problem: str


def process_identity() -> str:
    """Host, pid, and what no other start of a process has: cloned machines share the first two."""
    return f"{socket.gethostname()}_{os.getpid()}_{uuid.uuid4()}"


def check_parameters(settings: LeaderElection) -> None:
    """Raises Invalid. The three durations have to leave room for each other, or two nodes act at once."""
    lease, renew, retry = settings.lease_duration, settings.renew_deadline, settings.retry_period
    gap = min(WORK_STOPS_WITHIN, renew / 2)
    problems = []
    if lease - renew < gap:
        text = (
            f"{lease:g}s is not enough: it must exceed renewDeadline ({renew:g}s) by {gap:g}s, in which a leader stops"
        )
        problems.append(Problem("leaderElection.leaseDuration", "contradiction", text))
    if renew <= RENEW_JITTER * retry:
        text = f"{renew:g}s is not enough: it must be more than {RENEW_JITTER:g} times retryPeriod ({retry:g}s)"
        problems.append(Problem("leaderElection.renewDeadline", "contradiction", text))
    if problems:
        raise Invalid(problems)


class Campaign:
    """`epoch_floor`, `may_campaign` and `tell_released` are called in this campaign's threads: give them connections of
    their own."""

    def __init__(
        self,
        backend: LeaseBackend,
        settings: LeaderElection,
        epoch_floor: Callable[[], int],
        announcer: Announcer,
        *,
        identity: str | None = None,
        may_campaign: Callable[[], None] = lambda: None,
        tell_released: Callable[[int], None] = lambda epoch: None,
        wall: Callable[[], Micros] = clock.wall,
        work_stalls_after: float | None = None,
    ) -> None:
        check_parameters(settings)
        self._calls = BoundedCalls("lease request")
        self._backend = backend
        self._settings = settings
        self._floor = epoch_floor
        self._word = tell_released
        self._stalls_after = work_stalls_after
        self._beat = boottime()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="elector", daemon=True)
        self.elector = Elector(
            BoundedBackend(backend, self._calls),
            identity or process_identity(),
            settings,
            self._bounded_floor,
            announcer,
            may_campaign=lambda: self._calls.call(may_campaign, REQUEST_TIMEOUT),
            working=self._works,
            tell_released=self._tell_released,
            wall=wall,
            interrupt=self._calls.interrupt,
            resume=self._calls.resume,
        )

    # --- for the coordinator ------------------------------------------------------------------------------------------

    @property
    def term(self) -> Term:
        return self.elector.term

    @property
    def identity(self) -> str:
        return self.elector.identity

    @property
    def figures(self) -> Figures:
        return self.elector.figures

    def start(self) -> None:
        self._beat = boottime()
        self._thread.start()

    def beat(self) -> None:
        """The leader's work goes on. Without it for `work_stalls_after` seconds the lease is not renewed any more."""
        self._beat = boottime()

    def step_down(self, reason: str) -> None:
        """The term is over when this returns; another node has the lease within a retry period and a half."""
        self.elector.step_down(reason)
        self._wake.set()

    def look(self) -> None:
        """The lease is said to have been released: ask for it now, and not at the end of a candidate's period. Not
        where its server answers badly: that is asked no more often than it wants."""
        if not self.figures.outage:
            self._wake.set()

    def stop(self, timeout: float = STOP_TIMEOUT) -> bool:
        """To be called after the leader's work has stopped. False: the release hangs; the lease runs out by itself."""
        self.elector.stop()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def view(self) -> LeaderView:
        figures, term, now = self.figures, self.term, boottime()
        return LeaderView(
            backend=self._backend.kind,
            lease=self._backend.place,
            holder=figures.holder,
            leading=term.valid(),
            role=self.elector.role,
            epoch=figures.epoch,
            transitions=figures.transitions,
            since=figures.leader_since or None,
            term_seconds=round(term.remaining(), 3),
            renewal_seconds=round(figures.renewal_seconds, 6),
            renewed_seconds_ago=round(now - figures.last_renewal, 3) if figures.last_renewal else None,
            renewals=figures.renewals,
            failures=figures.failures,
            terms=figures.terms,
            outage=figures.outage,
            problem=figures.problem,
        )

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self.elector.stopped:
            pause = self._step()
            if not self.elector.stopped:
                self._wake.wait(pause)
                self._wake.clear()
        self._calls.close()

    def _step(self) -> float:
        try:
            return self.elector.step()
        except Exception as exc:  # an answer that no code foresaw must not end the campaign in silence
            log.exception("the election failed; trying on", exc)
            return self._settings.retry_period

    def _bounded_floor(self) -> int:
        try:
            return self._calls.call(self._floor, REQUEST_TIMEOUT)
        except Unanswered:
            raise
        except Exception as exc:
            raise Unanswered(str(exc)) from exc

    def _tell_released(self, epoch: int) -> None:
        """Nothing depends on it: the others look by themselves, too."""
        try:
            self._calls.call(lambda: self._word(epoch), WORD_TIMEOUT)
        except Exception as exc:
            log.debug("the other nodes were not told that the lease is free", reason=str(exc))

    def _works(self) -> bool:
        return self._stalls_after is None or boottime() - self._beat < self._stalls_after
