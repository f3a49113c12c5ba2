"""Claims of tasks in their first life. Their ends are plain: this side makes the whole record, and tells the story, so
that the script only writes (lua/ends.lua, steps.lua).

In memory only: a claim that is not known here any more ends through the engine.
"""

from __future__ import annotations

from kubemin.clock import SECOND, Micros
from kubemin.model.records import Claim, Outcome
from kubemin.model.states import TaskState
from kubemin.store.base import Change
from kubemin.store.codec import COMPLETED, SETTLED
from kubemin.store.redis.records import Final, detail_of, pack

MOST = 1000  # claims whose end nobody told


class Fresh:
    """A claim. `at`: when it was made; `after`: of a step, what needs it (plain.py)."""

    __slots__ = ("after", "at", "claim", "queue", "queued", "version")

    def __init__(self, claim: Claim, at: Micros, queued: str, after: bytes = b"") -> None:
        self.claim, self.at, self.after = claim, at, after
        self.queued, self.version, self.queue = int(queued), 1, ""

    @classmethod
    def single(cls, claim: Claim, at: Micros, state: str) -> Fresh:
        queued, version, queue = state[1:].split(" ", 2)
        fresh = cls(claim, at, queued)
        fresh.queue, fresh.version = "" if queue == "default" else queue, int(version)
        return fresh

    def record(self, outcome: Outcome, place: str, now: Micros, shift: Micros) -> bytes:
        """Of its plain end."""
        begun = outcome.started + shift if outcome.started else self.at
        detail, queue = detail_of(outcome), self.queue
        final = Final(COMPLETED, outcome.token, place, begun, now, self.queued, SETTLED, 1, detail, queue, self.version)
        return pack(final)

    def finished(self, outcome: Outcome) -> Change:
        claim = self.claim
        seconds = max(outcome.finished - outcome.started, 0) / SECOND
        if claim.quiet:
            waited = max(self.at - self.queued, 0) / SECOND
            return Change("finished", claim.run, claim.step, "", "", "completed", "", 1, "", True, seconds, waited)
        task = claim.task
        return Change("finished", claim.run, claim.workflow, claim.step, task, "completed", "", 1, "", False, seconds)


class FreshClaims:
    """Of one life of a worker, by TASK@TOKEN."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[str, Fresh] = {}

    def keep(self, name: str, fresh: Fresh) -> None:
        if len(self._known) > MOST:
            self._known.clear()
        self._known[name] = fresh

    def plain(self, name: str, outcome: Outcome) -> Fresh | None:
        """The claim, where the outcome is its plain end."""
        return self._known.get(name) if is_plain(outcome) else None

    def pop(self, outcome: Outcome) -> Fresh | None:
        return self._known.pop(f"{outcome.run}.{outcome.idx}@{outcome.token}", None) if self._known else None


def is_plain(outcome: Outcome) -> bool:
    return outcome.state is TaskState.COMPLETED and not outcome.stdout and not outcome.stderr


def started(claim: Claim, waited: Micros) -> Change:
    """Of a step."""
    seconds = max(waited, 0) / SECOND
    return Change("started", claim.run, claim.workflow, claim.step, claim.task, "running", "", 0, "", False, seconds)
