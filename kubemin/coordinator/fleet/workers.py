"""The node's workers as a fleet's coordinator sees them: what they execute is read from the scoreboard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kubemin.channel import WorkerMode
from kubemin.coordinator.control import Died
from kubemin.coordinator.link import Held, Link
from kubemin.coordinator.pending import Pending
from kubemin.coordinator.pool import Pool
from kubemin.model.records import Owner
from kubemin.model.states import Cause
from kubemin.scoreboard import Scoreboard, SlotRecord, SlotState
from kubemin.store.base import Stop


class FleetPool(Pool):
    """Nothing is handed out here; a link's `held` is what has to be stopped, or is charged at a death."""

    def tell_mode(self, mode: WorkerMode) -> None:
        for link in self.links:
            link.tell_mode(mode)

    def running(self, board: Scoreboard) -> Iterator[tuple[Link, SlotRecord]]:
        for link in self.links:
            record = board.read_slot(link.slot)
            if record is not None and record.pid == link.pid and record.state is SlotState.RUNNING:
                yield link, record

    def bury(self, died: Died, pending: Pending) -> None:
        link = self._by_owner.get(Owner(self.instance, died.slot, died.incarnation))
        record = died.record
        if link is not None and record is not None and record["run"]:
            _note(link, record["run"], record["idx"], record["token"])
        super().bury(died, pending)

    def end(self, stops: Iterable[Stop], board: Scoreboard) -> None:
        """Ask for the end of steps, each once."""
        for stop in stops:
            link = self._by_owner.get(stop.owner)
            if link is not None:
                record = board.read_slot(link.slot)
                within = record is not None and record.token == stop.token and record.within
                _note(link, stop.run, stop.idx, stop.token, within)
                link.stop(stop.token, stop.cause)

    def forget_stopped(self, running: dict[Owner, int]) -> None:
        """What a worker does not run any more has ended."""
        for link in self.links:
            for token in [token for token, held in link.held.items() if held.stopping]:
                if running.get(link.owner) != token:
                    del link.held[token]

    def cause_of(self, link: Link, token: int) -> Cause | None:
        held = link.held.get(token)
        return held.stop_cause if held is not None else None

    def counts(self) -> Iterator[tuple[Link, bytes]]:
        """What workers have counted, since the last call."""
        for link in self.links:
            for packet in link.counts:
                yield link, packet
            link.counts.clear()

    def cut_off(self) -> bool:
        """Some worker lost its connection while it waited, since the last call."""
        found = False
        for link in self.links:
            found |= link.cut_off
            link.cut_off = False
        return found


def _note(link: Link, run: str, idx: int, token: int, within: bool = False) -> None:
    if token not in link.held:
        link.held[token] = Held(run, idx, token, within=within)
