"""Whether the lease can be reached and used, told once a change. Pure but for the announcer.

An election is a chain of stages: read the lease, ask what the store allows, write. Success at a stage says nothing of
a later one: a node that may read and not write the lease would else announce its trouble, and the end of it, at every
look.
"""

from __future__ import annotations

from enum import IntEnum

from kubemin.leader.announcer import Announcer, Figures
from kubemin.leader.lease.base import LeaseFailure, Misconfigured, Unauthorized


class Stage(IntEnum):
    READ = 0
    PERMISSION = 1
    WRITE = 2


class Health:
    def __init__(self, announcer: Announcer, figures: Figures) -> None:
        self._announcer, self._figures = announcer, figures
        self._outage_at = self._problem_at = Stage.READ

    def failed(self, exc: LeaseFailure, stage: Stage, now: float) -> None:
        """Told at its start; the reason shown is the latest."""
        figures = self._figures
        if isinstance(exc, Misconfigured | Unauthorized):
            if not figures.problem:
                self._announcer.misconfigured(str(exc))
            figures.problem, self._problem_at = str(exc), stage
        else:
            if not figures.outage:
                self._announcer.outage(str(exc), now)
            figures.outage, self._outage_at = str(exc), stage

    def passed(self, stage: Stage, now: float) -> None:
        figures = self._figures
        if figures.outage and stage >= self._outage_at:
            self._end_outage(now)
        if figures.problem and stage >= self._problem_at:
            figures.problem = ""
            self._announcer.configured()

    def idle(self, now: float) -> None:
        """Somebody else leads: what stood in the way of writing is of no account now, except what somebody has to
        change."""
        if self._figures.outage:
            self._end_outage(now)

    def _end_outage(self, now: float) -> None:
        self._figures.outage = ""
        self._announcer.outage_over(now)
