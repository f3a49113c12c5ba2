"""Brings the runs of this node's own store into the fleet's, one small step after the other.

```
pack (here, one commit) → unload each part → arrive (there, one script) → carried (here, one commit) → forget (there)
```

Killed between any two, the next process goes on from what both stores say: a parcel that is still `carrying` is sent
again, and arrives once (`store/redis/arrivals.py`). A step is bounded in time and records, so that a large run, or a
hundred thousand small ones, hold up nothing else of the loop that calls it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile

import msgspec

from kubemin import clock, faults
from kubemin.clock import Micros
from kubemin.errors import NotDurable, NotFound
from kubemin.store.parcel import Parcel
from kubemin.store.redis.arrivals import Incomplete
from kubemin.store.redis.node import NodeStore
from kubemin.store.sqlite.moving import Moving
from kubemin.telemetry import log

AT_ONCE = 500  # runs in one step
STEP_SECONDS = 0.03
DOUBT_SECONDS = 2.0  # before they are
CONFIRM_AT_ONCE = 2000
KEEP_MARKS = 30 * 86_400 * clock.SECOND  # how long this node knows that a run has moved


class Carriage:
    """`durability`: what the fleet's store has to answer for before a run is forgotten here."""

    def __init__(self, moving: Moving, target: NodeStore, durability: str = "none") -> None:
        self._moving, self._target, self._durability = moving, target, durability
        self._unloaded: dict[str, int] = {}  # run -> parts that are there
        self._defined: set[str] = set()
        self._not_before = 0.0
        self.moved = 0

    def step(self) -> bool:
        """False: nothing can move now. Raises StoreUnavailable of either store: the same step is made again later."""
        if clock.monotonic() < self._not_before:
            return False
        parcels = self._moving.parcels(AT_ONCE)
        if not parcels and self._moving.pack(AT_ONCE):
            faults.point("carrier.packed")
            parcels = self._moving.parcels(AT_ONCE)
        if not parcels:
            return self._confirm()
        try:
            self._bring(parcels)
        except (NotDurable, Incomplete) as exc:
            log.warning("runs that move into the fleet are not kept there; they are sent again", reason=str(exc))
            self._unloaded.clear()
            self._not_before = clock.monotonic() + DOUBT_SECONDS
            return False
        return True

    def _bring(self, parcels: Sequence[Parcel]) -> None:
        shift = self._target.now() - self._moving.now()
        connection = self._target.client.serial
        singles = list(takewhile(lambda parcel: parcel.single, parcels))
        arrived = self._bring_singles(singles, shift) if singles else list(self._bring_runs(parcels, shift))
        faults.point("carrier.arrived")
        self._target.durability.confirm(self._durability)
        if self._target.client.serial != connection:
            return  # it may be another server, which has lost them: the same again
        self._moving.carried(arrived)
        self.moved += len(arrived)
        faults.point("carrier.carried")

    def _confirm(self) -> bool:
        """Only now may the fleet's store forget where they came from. False: there was nothing to tell it."""
        runs = self._moving.unconfirmed(CONFIRM_AT_ONCE)
        if not runs:
            self._defined.clear()
            return False
        self._target.arrivals.forget(runs)
        faults.point("carrier.forgotten")
        self._moving.confirmed(runs, self._moving.now() - KEEP_MARKS)
        return True

    # --- runs of a workflow ------------------------------------------------------------------------------------------

    def _bring_runs(self, parcels: Sequence[Parcel], shift: Micros) -> Iterator[Parcel]:
        """As many as there is time for, at least one part of one."""
        until = clock.monotonic() + STEP_SECONDS
        for parcel in parcels:
            if parcel.single or not self._unload(parcel, shift, until):
                return
            self._arrive(parcel, shift)
            yield parcel
            if clock.monotonic() >= until:
                return

    def _unload(self, parcel: Parcel, shift: Micros, until: float) -> bool:
        """True: all of it is there."""
        self._define(parcel)
        first = self._unloaded.get(parcel.id, 0)
        for number in range(first, parcel.parts):
            if number > first and clock.monotonic() >= until:
                return False
            self._target.arrivals.unload(parcel, self._moving.part(parcel, number), shift)
            self._unloaded[parcel.id] = number + 1
            faults.point("carrier.unloaded")
        return True

    def _arrive(self, parcel: Parcel, shift: Micros) -> None:
        try:
            other = self._target.arrivals.arrive(parcel, shift)
        except NotFound:  # its definition was pruned a moment ago
            self._defined.discard(parcel.definition or "")
            self._define(parcel)
            other = self._target.arrivals.arrive(parcel, shift)
        if other is not None:
            self._target.arrivals.arrive(_without_key(parcel, other), shift)
        self._unloaded.pop(parcel.id, None)

    def _define(self, parcel: Parcel) -> None:
        digest = parcel.definition or ""
        if digest not in self._defined and (definition := self._moving.definition(digest)) is not None:
            self._target.define([definition])
            self._defined.add(digest)

    # --- single tasks ------------------------------------------------------------------------------------------------

    def _bring_singles(self, parcels: Sequence[Parcel], shift: Micros) -> Sequence[Parcel]:
        taken = self._target.arrivals.arrive_singles(parcels, shift)
        if taken:
            bare = [_without_key(each, taken[each.id]) for each in parcels if each.id in taken]
            self._target.arrivals.arrive_singles(bare, shift)
        return parcels


def _without_key(parcel: Parcel, other: str) -> Parcel:
    log.warning(
        "the key of a run that moves into the fleet is another's there; the run goes on without it",
        run=parcel.id,
        key=parcel.key,
        other=other,
    )
    return msgspec.structs.replace(parcel, key=None)
