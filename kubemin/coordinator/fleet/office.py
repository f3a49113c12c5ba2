"""The leader's office: the election's outcome, and the duties while this node holds it.

The elector runs in a thread of its own; duties run in the coordinator's loop, on its connection, and carry the term.
A term begins for the store only when it has accepted its epoch; a duty that is refused as fenced ends it here.
"""

from __future__ import annotations

from kubemin.clock import boottime
from kubemin.config import Settings
from kubemin.coordinator.fleet.duties import FleetDuties
from kubemin.coordinator.fleet.election import make_campaign, node_of
from kubemin.coordinator.fleet.timing import Every
from kubemin.leader.campaign import STOP_TIMEOUT
from kubemin.store.redis.errors import Fenced
from kubemin.store.redis.node import NodeStore, TermRecord
from kubemin.telemetry import log
from kubemin.telemetry.metrics import Values

WISH_SECONDS = 0.5  # between looks whether somebody asks the leader to step down
WORD_SECONDS = 0.8  # between looks whether the leader has handed over, and up to a fifth more


class Office:
    def __init__(self, store: NodeStore, settings: Settings) -> None:
        self._store = store
        self.campaign = make_campaign(settings)
        self.duties = FleetDuties(store, settings, self._valid)
        self._epoch = 0  # of the term that the store has accepted; 0: none
        self._wishes = Every(WISH_SECONDS)
        self._words = Every(WORD_SECONDS, jitter=0.2)
        self._released = 0  # the epoch that was last told to have been given up
        self._started = False

    @property
    def leading(self) -> bool:
        return self._epoch != 0

    @property
    def leader(self) -> str:
        """The name of the node that leads, as last seen; empty: nobody is known."""
        holder = self.campaign.figures.holder
        return node_of(holder) if holder else ""

    @property
    def epoch(self) -> int:
        """Of the term that `leader` is in."""
        figures = self.campaign.figures
        return figures.transitions + 1 if figures.holder else 0

    def term(self) -> TermRecord | None:
        """For the heartbeat: the term, while this node leads."""
        if not self.leading:
            return None
        figures, view = self.campaign.figures, self.campaign.view()
        return TermRecord(
            self._epoch, figures.holder, figures.leader_since, figures.transitions, view.lease, view.backend
        )

    def values(self) -> Values:
        """For `/metrics`, in another thread."""
        figures, term = self.campaign.figures, self.campaign.term
        ago = max(boottime() - figures.last_renewal, 0.0)
        return {
            "kubemin_leader_transitions": {(): figures.transitions},
            "kubemin_leader_terms_total": {(): figures.terms},
            "kubemin_leader_renewals_total": {(): figures.renewals},
            "kubemin_leader_request_failures_total": {(): figures.failures},
            "kubemin_leader_renewal_seconds": {(): figures.latencies},
            "kubemin_leader_renewed_seconds_ago": {(): ago} if figures.leading else {},
            "kubemin_leader_term_left_seconds": {(): term.remaining()},
            "kubemin_leader_lease_up": {(): int(not (figures.outage or figures.problem))},
            "kubemin_leader_duty_seconds": self.duties.seconds,
        }

    def left(self) -> float:
        return self.duties.left() if self.leading else min(WISH_SECONDS, self._words.left())

    def open(self) -> None:
        if not self._started:
            self._started = True
            self.campaign.start()

    def turn(self) -> None:
        """Take office, do what is due, or leave it."""
        grant = self.campaign.term.current()
        if grant is None:
            self._leave()
            self._hear_of_release()
            return
        try:
            if grant.epoch != self._epoch and not self._enter(grant.epoch, grant.holder):
                return
            self.duties.turn()
            if self._wishes.due() and self._store.handover.asked(grant.holder):
                self._leave()
                self.campaign.step_down("asked for")
        except Fenced as exc:
            log.warning("a duty was refused: another node leads", reason=str(exc))
            self._leave()
            self.campaign.step_down("the store knows a newer term")

    def close(self, seconds: float = STOP_TIMEOUT) -> None:
        """The daemon stops: the next leader need not wait. `seconds`: how long the release is waited for."""
        self._leave()
        if self._started:
            self.campaign.stop(seconds)

    def _enter(self, epoch: int, holder: str) -> bool:
        if not self._store.lead(epoch, holder):
            log.warning("the store knows a newer term", epoch=epoch)
            self.campaign.step_down("the store knows a newer term")
            return False
        self._epoch = epoch
        self.duties.invalidate()
        return True

    def _hear_of_release(self) -> None:
        """Each word once. The lease itself says whether it is true."""
        if self._words.due():
            before, self._released = self._released, self._store.handover.told()
            if self._released not in (0, before):
                self.campaign.look()

    def _leave(self) -> None:
        if self._epoch:
            self._epoch = 0
            self._store.follow()

    def _valid(self) -> bool:
        return self.campaign.term.valid(self._epoch)
