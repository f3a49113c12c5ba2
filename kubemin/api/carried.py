"""Reads of a fleet's node that has runs in its own SQLite as well: ended before it joined, or still on their way.

A run moves from this machine's store into Redis and never back, and is there before it is gone here: so who looks in
Redis, then here, then in Redis again misses none, at any moment. Lists are of both.
"""

from __future__ import annotations

import contextlib
import heapq
import os
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from kubemin.errors import KubeminError, NotFound, Refused, Unreachable
from kubemin.model.obstacles import Obstacles
from kubemin.model.records import Definition, RunView
from kubemin.model.states import RUN_TERMINAL, RunState
from kubemin.store.base import QueueView, RunFilter, WorkflowView
from kubemin.store.parcel import IN_FLEET

if TYPE_CHECKING:
    from kubemin.store.base import Reader
    from kubemin.store.redis.node import NodeStore

T = TypeVar("T")


class CarriedReader:
    """`path`: the SQLite file, which need not be there."""

    def __init__(self, fleet: NodeStore, path: str) -> None:
        self.fleet = fleet
        self._path = path
        self._local: Reader | None = None

    def run(self, run: str) -> RunView:
        return self._find(lambda reader: reader.run(run))

    def runs(self, where: RunFilter) -> list[RunView]:
        """Newest first; one that is on its way may be seen in both, and counts once."""
        local = self._open()
        found = self.fleet.runs(where)
        if local is None:
            return found
        known = {view.id for view in found}
        ours = (view for view in local.runs(where) if view.id not in known)
        return list(islice(heapq.merge(found, ours, key=lambda view: view.id, reverse=True), where.limit))

    def states(self, ids: Sequence[str]) -> dict[str, RunState]:
        found = self.fleet.states(ids)
        local = self._open() if len(found) < len(set(ids)) else None
        if local is not None:
            missing = [run for run in ids if run not in found]
            found = {**local.states(missing), **found}
            gone = [run for run in missing if run not in found]
            found |= self.fleet.states(gone) if gone else {}
        return found

    def outputs(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        found = self.fleet.outputs(ids)
        missing = [run for run in ids if run not in found]
        local = self._open() if missing else None
        if local is not None:
            found = local.outputs(missing) | found
            gone = [run for run in missing if run not in found]
            found |= self.fleet.outputs(gone) if gone else {}
        return found

    def queues(self) -> list[QueueView]:
        return self.fleet.queues()

    def workflows(self) -> list[WorkflowView]:
        return self.fleet.workflows()

    def definition(self, name_or_hash: str) -> Definition | None:
        return self.fleet.definition(name_or_hash)

    def obstacles(self, run: str, step: str | None = None) -> Obstacles:
        return self._find(lambda reader: reader.obstacles(run, step))

    # --- writes that mean a run which is still here ---

    def cancel_later(self, run: str, node: str) -> bool:
        """It is on its way into the fleet: cancelled when it is there. Raises NotFound, Refused."""
        if self.not_ended(run) is None:
            raise NotFound(f"there is no run {run}")
        self.fleet.arrivals.cancel_when_here(run, node)
        with contextlib.suppress(NotFound, Refused):
            self.fleet.cancel(run)  # it may have arrived just before
        return True

    def not_ended(self, run: str) -> RunState | None:
        """Its state; None when it is not here. Raises Refused when it ended here: nothing can be changed any more."""
        local = self._open()
        state = local.states([run]).get(run) if local is not None else None
        if state in RUN_TERMINAL:
            raise Refused(f"run {run} has ended: {state.value}; it was this machine's own, before it joined its fleet")
        return state

    def close(self) -> None:
        self.fleet.close()
        if self._local is not None:
            self._local.close()

    def _find(self, look: Callable[[Reader], T]) -> T:
        try:
            return look(self.fleet)
        except NotFound:
            local = self._open()
            if local is None:
                raise
        try:
            return look(local)
        except NotFound:
            return look(self.fleet)
        except Unreachable as exc:
            if exc.code != IN_FLEET:
                raise
            return look(self.fleet)

    def _open(self) -> Reader | None:
        if self._local is None and os.access(self._path, os.R_OK):
            from kubemin.store.sqlite.reader import SqliteReader

            try:
                self._local = SqliteReader(self._path)
            except KubeminError:  # it is of no use now: what Redis said stands
                return None
        return self._local
