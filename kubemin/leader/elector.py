"""The elector: makes this node the leader when nobody else is, and keeps it so.

```
            free, and acquired                      SIGTERM, step-down, work crashed:
 CANDIDATE ───────────────────▶ LEADER ───────────────────────────────▶ RELEASING ──▶ STOPPED
     ▲  ▲                         │          (after its work has stopped)   │
     │  └── term over, or taken ──┘                                         ▼
     └────────────────── somebody else leads, or nobody for a while ── STANDING_BACK
```

**Trust window.** A term is valid until (time before the last successful write was sent) + `renewDeadline`. Candidates
wait until the record has not changed for `leaseDuration`, by their own clocks, from when they received it. Both count
from the same write, the leader from before it, the candidates from after it: so between the end of one term and the
beginning of the next lie at least `leaseDuration - renewDeadline`, whatever the network did and whatever the wall
clocks say. In that time an effect that was let through just before the end comes to its own end; one that is later
still carries an old epoch, and the store refuses it.

**Failures.** Each request is answered, or fails as one of `lease.base`'s classes, or is abandoned on time:

| answer | leader | candidate |
|---|---|---|
| none, 429, 5xx | tries again until the term is over | tries again; says so once |
| 409 | reads at once: still its own → writes again, else stands down | reads again |
| 404, the lease | makes it again, transitions kept (Redis: term lost) | waits the last term out, then makes it |
| 401 | reads the credentials again, tries at once | the same |
| 403, 404 of the namespace, 400, 422 | says so once; the term runs out | says so once, does not lead |

`step` makes at most a few bounded requests and returns how long to wait. Validity does not depend on it being called:
that is the `Term`'s. May touch: the lease, through its backend; the term; the log, through the announcer.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import StrEnum

import msgspec

from kubemin import clock
from kubemin.clock import Micros, boottime
from kubemin.config import LeaderElection
from kubemin.leader.announcer import Announcer, Figures
from kubemin.leader.health import Health, Stage
from kubemin.leader.lease.base import (
    Claim,
    Conflict,
    Interrupted,
    LeaseBackend,
    LeaseFailure,
    LeaseRecord,
    Missing,
    Unanswered,
    Unauthorized,
)
from kubemin.leader.pace import CONFLICT_PAUSE, Pace
from kubemin.leader.sight import Sight
from kubemin.leader.term import Grant, Term
from kubemin.leader.wishes import Wish, Wishes

REQUEST_TIMEOUT = 3.0  # seconds; less when less is left of the term
# Retry periods without campaigning after giving the lease up: every other candidate has looked by then.
STAND_BACK = 4.0
NO_FLOOR = "the store cannot say its highest epoch, so this node does not campaign"


class Role(StrEnum):
    CANDIDATE = "candidate"
    LEADER = "leader"
    RELEASING = "releasing"
    STANDING_BACK = "standing back"
    STOPPED = "stopped"


class Elector:
    """`epoch_floor()` is the highest epoch that the store has accepted; raises Unanswered. It, `tell_released` and the
    backend have to return on time by themselves (`bounded`)."""

    def __init__(
        self,
        backend: LeaseBackend,
        identity: str,
        settings: LeaderElection,
        epoch_floor: Callable[[], int],
        announcer: Announcer,
        *,
        may_campaign: Callable[[], None] = lambda: None,
        working: Callable[[], bool] = lambda: True,
        tell_released: Callable[[int], None] = lambda epoch: None,
        interrupt: Callable[[], None] = lambda: None,
        resume: Callable[[], None] = lambda: None,
        now: Callable[[], float] = boottime,
        wall: Callable[[], Micros] = clock.wall,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.identity = identity
        self.term = Term(now)
        self.figures = Figures()
        self.role = Role.CANDIDATE
        self._backend = backend
        self._settings = settings
        self._epoch_floor = epoch_floor
        self._announcer = announcer
        self._may_campaign = may_campaign  # raises a LeaseFailure: this fleet elects in another way
        self._working = working
        self._tell_released = tell_released  # the others: so that they need not wait for their next look
        self._now, self._wall = now, wall
        self._pace = Pace(settings.retry_period, now, chance)
        self._wishes = Wishes(self.term, interrupt, resume)
        self._sight = Sight(identity, settings.lease_duration)
        self._health = Health(announcer, self.figures)
        self._stage = Stage.READ
        self._held: LeaseRecord | None = None
        self._perhaps_ours = False  # an acquisition was sent and its fate is not known
        self._epoch = 0
        self._stalled = False
        self._refused = False  # the credentials were refused, and read again
        self._resume_at = 0.0
        self._gave_up = 0  # transitions of the lease that was handed over
        self._follows: str | None = None  # the leader last announced; None: not a follower

    # --- asked by others: any thread ----------------------------------------------------------------------------------

    def step_down(self, reason: str) -> None:
        """Hand over. The leader's work has stopped already, or sees its term end now. A no-op where it does not
        lead."""
        self._wishes.ask(Wish(reason, stop=False))

    def stop(self, reason: str = "the daemon stops") -> None:
        """Never lead again; what is held is released. To be called after the leader's work has stopped."""
        self._wishes.ask(Wish(reason, stop=True))

    @property
    def stopped(self) -> bool:
        return self.role is Role.STOPPED

    # --- the machine --------------------------------------------------------------------------------------------------

    def step(self) -> float:
        """Do what is due; returns seconds until there is more to do."""
        self._hear()
        self._stage = Stage.READ
        started = self._now()
        try:
            pause = self._STEPS[self.role](self)
        except LeaseFailure as exc:
            pause = self._failed(exc, started)
        else:
            self._refused = False
        if self.role is Role.LEADER:
            return min(pause, self.term.remaining())
        return pause

    def _hear(self) -> None:
        leading = self.role is Role.LEADER
        wish = self._wishes.take(leading=leading)
        if wish is None:
            return
        self._resume_at = float("inf") if wish.stop else self._now() + STAND_BACK * self._settings.retry_period
        self._gave_up = self._sight.highest
        self.role = Role.RELEASING
        self._leave()
        if leading:
            self._announcer.released(self._epoch, wish.reason)

    # --- candidate ----------------------------------------------------------------------------------------------------

    def _campaign(self) -> float:
        self._look()
        now = self._now()
        free_at = self._sight.free_at(now)
        if free_at > now:
            self._health.idle(now)
            self._pace.calm()
            self._announce_follower()
            return min(self._pace.period(), free_at - now)
        if not self._working():
            self._announce_follower()
            return self._pace.period()  # its work hangs since an earlier term: somebody else is to lead
        return self._acquire(self._floor())

    def _look(self) -> None:
        record = self._backend.read(REQUEST_TIMEOUT)
        self._passed(Stage.READ)
        self._sight.note(record, self._now())
        if self._sight.holder:
            self._perhaps_ours = self._sight.holder == self.identity
        self.figures.holder = self._sight.holder
        self.figures.transitions = max(self._sight.highest, 0)

    def _floor(self) -> int:
        self._stage = Stage.PERMISSION
        try:
            self._may_campaign()
            floor = self._epoch_floor()
        except Interrupted:
            raise
        except Unanswered as exc:
            raise Unanswered(f"{NO_FLOOR}: {exc}") from exc
        self._passed(Stage.PERMISSION)
        return floor

    def _acquire(self, floor: int) -> float:
        self._stage = Stage.WRITE
        claim = self._claim(self._sight.next_transitions(floor))
        sent = self._now()
        self._perhaps_ours = True
        try:
            record = self._backend.acquire(self._sight.record, claim, self._time_to_take())
        except (Conflict, Missing):
            self._perhaps_ours = False
            return self._pace.after_conflict()  # somebody else was faster: see who
        self._passed(Stage.WRITE)
        self.figures.renewed(sent, self._now())
        return self._take_office(record, sent)

    def _claim(self, transitions: int) -> Claim:
        return Claim(self.identity, self._settings.lease_duration, transitions, self._wall())

    def _time_to_take(self) -> float:
        return min(REQUEST_TIMEOUT, self._settings.renew_deadline)

    def _take_office(self, record: LeaseRecord, sent: float) -> float:
        self._sight.note(record, self._now())
        grant = Grant(epoch=record.transitions + 1, holder=self.identity, until=sent + self._settings.renew_deadline)
        self.figures.holder, self.figures.transitions = record.holder, record.transitions
        if not self.term.begin(grant):
            return 0.0  # too late, or barred: the lease is ours by name only, and acquired anew or released
        self._held, self._epoch, self._follows = record, grant.epoch, None
        self._pace.calm()
        self._stalled = False
        self.role = Role.LEADER
        self.figures.leading, self.figures.epoch, self.figures.leader_since = True, grant.epoch, self._wall()
        self.figures.terms += 1
        self._announcer.became_leader(grant)
        return self._pace.until_renewal(sent)

    # --- leader -------------------------------------------------------------------------------------------------------

    def _lead(self) -> float:
        if not self.term.valid(self._epoch):
            return self._lose("it could not be renewed in time")
        if self._hangs():
            return self._settings.retry_period
        self._stage = Stage.WRITE
        sent = self._now()
        try:
            record = self._write()
        except Conflict:
            return self._look_whose()
        except Missing:
            return self._recreate()
        self._passed(Stage.WRITE)
        self.figures.renewed(sent, self._now())
        self._held = record
        self._pace.calm()
        if not self.term.extend(self._epoch, sent + self._settings.renew_deadline):
            return self._lose("the answer to its renewal came too late")
        return self._pace.until_renewal(sent)

    def _hangs(self) -> bool:
        """Work that hangs has not stopped, so nothing is released: its term runs out, and its late effects are
        refused."""
        stalled = not self._working()
        if stalled and not self._stalled:
            self._announcer.stalled(self._epoch)
        self._stalled = stalled
        return stalled

    def _write(self) -> LeaseRecord:
        held = self._held
        assert held is not None
        timeout = min(REQUEST_TIMEOUT, self.term.remaining())
        if held.version:
            return self._backend.renew(held, self._wall(), timeout)
        return self._backend.acquire(None, self._claim(held.transitions), timeout)

    def _recreate(self) -> float:
        """The lease was deleted under its leader."""
        assert self._held is not None
        if not self._backend.recreates:
            return self._lose("its lock is gone")
        self._held = msgspec.structs.replace(self._held, version="", uid="")
        return 0.0

    def _look_whose(self) -> float:
        """After a 409. A lost answer to our own write is the harmless reason; any other is the end of this term."""
        record = self._backend.read(min(REQUEST_TIMEOUT, self.term.remaining()))
        if record is None:
            return self._recreate()
        held = self._held
        assert held is not None
        ours = record.holder == self.identity and record.transitions == held.transitions
        if not ours or held.uid not in ("", record.uid):
            self._sight.note(record, self._now())
            return self._lose(f"it was taken by {record.holder or 'nobody'}")
        self._held = record
        return self._pace.after_conflict()

    def _lose(self, reason: str) -> float:
        self._leave()
        self.role = Role.CANDIDATE
        self._announcer.lost(self._epoch, reason)
        return 0.0

    def _leave(self) -> None:
        self.term.end()
        self.figures.leading, self.figures.leader_since = False, 0

    # --- giving up ----------------------------------------------------------------------------------------------------

    def _release(self) -> float:
        """One write, a second where our own last one had landed unheard. What fails here, the lease's duration
        mends."""
        self._end_release()  # whatever comes of the requests
        self._stage = Stage.WRITE
        until = self._now() + REQUEST_TIMEOUT
        held, self._held = self._held, None
        record = held if held is not None and held.version else self._ours_now(until)
        try:
            self._let_go(record, until)
        except Conflict:
            self._let_go(self._ours_now(until), until)
        except Missing:
            pass
        self._perhaps_ours = False
        return self._pace.period()

    def _let_go(self, record: LeaseRecord | None, until: float) -> None:
        if record is not None:
            self._backend.release(record, self._wall(), until - self._now())
            self._tell_released(record.transitions + 1)

    def _ours_now(self, until: float) -> LeaseRecord | None:
        """The record, where it names us; not asked for where that cannot be."""
        if not self._perhaps_ours:
            return None
        record = self._backend.read(until - self._now())
        return record if record is not None and record.holder == self.identity else None

    def _end_release(self) -> None:
        stopping = self._resume_at == float("inf")
        self.role = Role.STOPPED if stopping else Role.STANDING_BACK
        if not stopping:
            self.term.unbar()

    def _stand_back(self) -> float:
        """Let the others go first. Over when one of them has led, also where it has left again, or when none wanted
        to."""
        now = self._now()
        if now < self._resume_at:
            self._look()
            if self._sight.holder in ("", self.identity) and self._sight.highest == self._gave_up:
                return min(self._pace.period(), max(self._resume_at - now, 0.0))
        self.role = Role.CANDIDATE
        return 0.0

    def _stopped(self) -> float:
        return self._settings.retry_period

    _STEPS: dict[Role, Callable[[Elector], float]] = {
        Role.CANDIDATE: _campaign,
        Role.LEADER: _lead,
        Role.RELEASING: _release,
        Role.STANDING_BACK: _stand_back,
        Role.STOPPED: _stopped,
    }

    # --- failures -----------------------------------------------------------------------------------------------------

    def _failed(self, exc: LeaseFailure, started: float) -> float:
        if isinstance(exc, Interrupted):
            return 0.0
        self.figures.failures += 1
        if isinstance(exc, Unauthorized) and not self._refused:
            self._refused = True
            self._backend.reconnect()
            return 0.0
        self._health.failed(exc, self._stage, self._now())
        if isinstance(exc, Unauthorized):
            self._backend.reconnect()  # the next try reads the credentials again
        if self.role is Role.LEADER:
            return max(started + self._settings.retry_period - self._now(), CONFLICT_PAUSE)
        self._announce_follower()
        wished = exc.retry_after if isinstance(exc, Unanswered) else 0.0
        return max(self._pace.period(), min(wished, self._settings.lease_duration))

    def _passed(self, stage: Stage) -> None:
        self._health.passed(stage, self._now())

    def _announce_follower(self) -> None:
        holder = self._sight.holder if self._sight.holder != self.identity else ""
        if self._follows is None:
            self._announcer.follows(holder)
        elif holder and holder != self._follows:
            self._announcer.changed_leader(holder)
        self._follows = holder
