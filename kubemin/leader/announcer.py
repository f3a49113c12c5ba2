"""What the election tells: log lines that operators grep for, each change once, and the figures for metrics.

An outage is one warning at its start and one line with its length at its end, not one a request. May touch: the log.
"""

from __future__ import annotations

from kubemin.clock import Micros
from kubemin.leader.term import Grant
from kubemin.telemetry import log
from kubemin.telemetry.metrics import RENEWALS, Histogram


class Figures:
    """Counters and last values; written by the elector's thread, read by any. Times are boottime seconds."""

    def __init__(self) -> None:
        self.leading = False
        self.epoch = 0  # of the present or last term of this node
        self.transitions = 0  # as last seen in the lease
        self.holder = ""
        self.leader_since: Micros = 0  # wall clock, for people; 0: not leading
        self.terms = 0
        self.renewals = 0
        self.failures = 0
        self.last_renewal = 0.0
        self.renewal_seconds = 0.0  # how long the last renewal took
        self.outage = ""  # why the lease cannot be reached now
        self.problem = ""  # what somebody has to change before this node can lead
        self.latencies = Histogram(RENEWALS)  # of renewals and acquisitions that went through

    def renewed(self, sent: float, now: float) -> None:
        self.renewals += 1
        self.last_renewal = now
        self.renewal_seconds = now - sent
        self.latencies.observe(now - sent)


class Announcer:
    """Subclass it to act on a change: `exitOnLostLeader`, tests. Called in the elector's thread."""

    def __init__(self, node: str, place: str) -> None:
        self._node, self._place = node, place
        self._outage_since = 0.0

    def became_leader(self, grant: Grant) -> None:
        log.info(f"Node {self._node} became leader", epoch=grant.epoch, lease=self._place, holder=grant.holder)

    def lost(self, epoch: int, reason: str) -> None:
        log.warning("leadership lost", node=self._node, epoch=epoch, reason=reason)

    def released(self, epoch: int, reason: str) -> None:
        log.info("leadership given up", node=self._node, epoch=epoch, reason=reason)

    def stalled(self, epoch: int) -> None:
        log.error("the leader's work hangs: its lease is not renewed any more", node=self._node, epoch=epoch)

    def follows(self, holder: str) -> None:
        log.info(f"Node {self._node} is follower", leader=holder or None, lease=self._place)

    def changed_leader(self, holder: str) -> None:
        log.debug("another leader", leader=holder, lease=self._place)

    def outage(self, reason: str, now: float) -> None:
        self._outage_since = now
        log.warning("the leader's lease cannot be reached; trying on", lease=self._place, reason=reason)

    def outage_over(self, now: float) -> None:
        log.info(
            "the leader's lease can be reached again", lease=self._place, seconds=round(now - self._outage_since, 1)
        )

    def misconfigured(self, reason: str) -> None:
        log.error("this node cannot take part in the election", lease=self._place, reason=reason)

    def configured(self) -> None:
        log.info("this node takes part in the election again", lease=self._place)
