"""All workers of the node, as the coordinator sees them: who is there, who gets what, who has to be stopped."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable, Sequence

from kubemin import clock
from kubemin.channel import close_all, from_fd
from kubemin.clock import boottime
from kubemin.coordinator.control import Died
from kubemin.coordinator.deaths import blame_for
from kubemin.coordinator.link import Link
from kubemin.coordinator.pending import Pending
from kubemin.model.estimates import WINDOW_SECONDS, Estimates, label_of
from kubemin.model.records import Claim, Outcome, Owner
from kubemin.model.states import Cause
from kubemin.scoreboard import Scoreboard, SlotState
from kubemin.store.base import Stop, Store
from kubemin.telemetry import log

Grant = tuple[Link, list[Claim]]


class Pool:
    """Links by descriptor (for the poller) and by owner (for the store's answers)."""

    def __init__(self, instance: str, poller: select.epoll) -> None:
        self.instance = instance
        self.estimates = Estimates()
        self._poller = poller
        self._by_fd: dict[int, Link] = {}
        self._by_owner: dict[Owner, Link] = {}

    @property
    def links(self) -> Iterable[Link]:
        return self._by_owner.values()

    def owners(self) -> list[Owner]:
        return list(self._by_owner)

    def link(self, owner: Owner) -> Link | None:
        return self._by_owner.get(owner)

    def owns(self, fd: int) -> bool:
        return fd in self._by_fd

    # --- lives --------------------------------------------------------------------------------------------------------

    def attach(self, slot: int, incarnation: int, pid: int, fds: list[int]) -> None:
        """A worker was forked, or lived before this coordinator did."""
        owner = Owner(self.instance, slot, incarnation)
        if owner in self._by_owner:
            close_all(fds)  # told twice: the supervisor repeats itself to be sure
            return
        writer, reader, reports = (from_fd(fd) for fd in fds)
        link = Link(owner, pid, writer, reader, reports)
        self._by_owner[owner] = link
        self._by_fd[reports.fileno()] = link
        self._poller.register(reports.fileno(), select.EPOLLIN)

    def adopt(self, claims: Iterable[tuple[Owner, str, int, int]]) -> None:
        """Note what the store says that living workers hold, and ask them for reports that got lost with a
        predecessor."""
        for owner, run, idx, token in claims:
            if (link := self._by_owner.get(owner)) is not None:
                link.adopt(run, idx, token)
        for link in self.links:
            link.hello()

    def bury(self, died: Died, pending: Pending) -> None:
        """Take note of a death: its last reports count, what it had not begun goes back, one task is charged."""
        link = self._by_owner.pop(Owner(self.instance, died.slot, died.incarnation), None)
        if link is None:
            return
        pending.report(link.owner, link.read_reports(self.estimates, limit=1 << 30))
        pending.give_back(link.owner, link.take_back())
        blame = blame_for(died, link)
        if blame is not None and blame.cause is Cause.DRAIN:
            drained = Outcome(blame.run, blame.idx, blame.token, None, Cause.DRAIN, message=blame.message)
            pending.report(link.owner, [drained])
            blame = None
        pending.deaths.append((link.owner, blame))
        del self._by_fd[link.reports.fileno()]
        self._poller.unregister(link.reports.fileno())
        link.close()
        if died.reason is None and not (os.WIFEXITED(died.status) and died.status == 0):
            log.warning("worker died", worker=died.slot, pid=died.pid, status=os.waitstatus_to_exitcode(died.status))

    # --- what they say ------------------------------------------------------------------------------------------------

    def read(self, fd: int, pending: Pending) -> bool:
        """Take a worker's reports. True when all of them are of quiet tasks: nothing waits for their commit."""
        link = self._by_fd[fd]
        quiet = bool(link.held) and all(held.quiet for held in link.held.values())
        outcomes = link.read_reports(self.estimates)
        pending.report(link.owner, outcomes)
        if link.greeted and link.unheard:
            # All that it was handed before our hello is reported: the rest was committed and never sent.
            pending.give_back(link.owner, link.never_handed(executing=0))
        elif not outcomes:
            self._look_for_end(link)
        return quiet

    def _look_for_end(self, link: Link) -> None:
        """A dead worker's channel stays readable until the supervisor tells of the death: do not spin on it."""
        poller = select.poll()
        poller.register(link.reports.fileno(), select.POLLIN)
        if any(events & (select.POLLHUP | select.POLLERR) for _, events in poller.poll(0)):
            self._poller.modify(link.reports.fileno(), 0)

    def take_back_stalled(self, pending: Pending) -> None:
        now = clock.monotonic()
        for link in self.links:
            if link.stalled(now):
                pending.give_back(link.owner, link.take_back())

    def release_never_handed(self, board: Scoreboard, pending: Pending) -> None:
        """The same for a worker that is busy for long and cannot answer a hello: what it would have got after the task
        that it has been executing for a second is not in its hands."""
        now = boottime()
        for link in self.links:
            if link.unheard and not link.greeted:
                record = board.read_slot(link.slot)
                running = record and record.pid == link.pid and record.state is SlotState.RUNNING
                if record and running and now > record.started + 1.0:
                    pending.give_back(link.owner, link.take_back())
                    pending.give_back(link.owner, link.never_handed(record.token))

    def take_back_all(self, pending: Pending) -> None:
        for link in self.links:
            pending.give_back(link.owner, link.take_back())

    def any_queued_behind(self) -> bool:
        return any(len(link.held) > 1 for link in self.links)

    # --- handing out --------------------------------------------------------------------------------------------------

    def claim(self, store: Store, queues: Sequence[str]) -> list[Grant]:
        """Claim for every worker with room, idle ones first; nothing is handed over before the commit."""
        grants: list[Grant] = []
        wanting = sorted((link for link in self.links if link.room() > 0), key=lambda link: len(link.held))
        for link in wanting:
            claims = store.claim(link.owner, queues, link.room())
            if not claims:
                return grants
            grants.append((link, self._fit(store, link, claims)))
        for link, claims in grants:  # the first of its kind went alone; if it is short, more may follow it
            more = link.window - len(link.held) - len(claims)
            if more > 0 and link.window > 1:
                extra = store.claim(link.owner, queues, more)
                if not extra:
                    break
                claims += self._fit(store, link, extra)
        return grants

    def _fit(self, store: Store, link: Link, claims: list[Claim]) -> list[Claim]:
        """Keep as many as are expected to take WINDOW_SECONDS; nothing stands behind a long or unknown one."""
        expected, keep, kind = 0.0, 0, None
        for claim in claims:
            if (label := label_of(claim)) != kind:
                kind, window = label, self.estimates.window(label)
            keep += 1
            expected += WINDOW_SECONDS / window
            if window == 1 or expected >= WINDOW_SECONDS:
                break
        link.window = window
        if keep < len(claims):
            store.give_back(link.owner, [(claim.run, claim.idx, claim.token) for claim in claims[keep:]])
        return claims[:keep]

    def acknowledge(self) -> None:
        for link in self.links:
            if link.unsent:
                link.send()
            link.acknowledge()

    # --- stopping -----------------------------------------------------------------------------------------------------

    def stop(self, stops: Iterable[Stop], pending: Pending) -> None:
        """Ask workers to end what was cancelled; what they have not begun is taken back instead."""
        for stop in stops:
            link = self._by_owner.get(stop.owner)
            if link is None:
                continue
            if len(link.held) > 1:
                pending.give_back(link.owner, link.take_back())
            link.stop(stop.token, stop.cause)

    def overdue(self) -> list[tuple[Link, int]]:
        now = clock.monotonic()
        return [(link, token) for link in self.links for token in link.overdue(now)]
