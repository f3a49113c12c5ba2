"""Reads of a fleet's node that has runs in its own SQLite as well: from before it joined, or still ending there.

Redis is asked first; what it does not know may be here. Lists show the fleet alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kubemin.errors import KubeminError, NotFound
from kubemin.model.obstacles import Obstacles
from kubemin.model.records import Definition, RunView
from kubemin.model.states import RunState
from kubemin.store.base import QueueView, RunFilter, WorkflowView

if TYPE_CHECKING:
    from kubemin.store.base import Reader
    from kubemin.store.redis.node import NodeStore


class CarriedReader:
    """`path`: the SQLite file, which need not be there."""

    def __init__(self, fleet: NodeStore, path: str) -> None:
        self.fleet = fleet
        self._path = path
        self._local: Reader | None = None

    def run(self, run: str) -> RunView:
        try:
            return self.fleet.run(run)
        except NotFound:
            local = self._open()
            if local is None:
                raise
            return local.run(run)

    def runs(self, where: RunFilter) -> list[RunView]:
        return self.fleet.runs(where)

    def states(self, ids: Sequence[str]) -> dict[str, RunState]:
        found = self.fleet.states(ids)
        local = self._open() if len(found) < len(set(ids)) else None
        if local is not None:
            missing = [run for run in ids if run not in found]
            found = {**local.states(missing), **found}
            # One that moved between the two reads is in neither answer: it is in the fleet now.
            gone = [run for run in missing if run not in found]
            found |= self.fleet.states(gone) if gone else {}
        return found

    def outputs(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        found = self.fleet.outputs(ids)
        local = self._open() if any(not found.get(run) for run in ids) else None
        if local is not None:
            found |= {run: known for run, known in local.outputs([r for r in ids if not found.get(r)]).items() if known}
        return found

    def queues(self) -> list[QueueView]:
        return self.fleet.queues()

    def workflows(self) -> list[WorkflowView]:
        return self.fleet.workflows()

    def definition(self, name_or_hash: str) -> Definition | None:
        return self.fleet.definition(name_or_hash)

    def obstacles(self, run: str, step: str | None = None) -> Obstacles:
        try:
            return self.fleet.obstacles(run, step)
        except NotFound:
            local = self._open()
            if local is None:
                raise
            return local.obstacles(run, step)

    def close(self) -> None:
        self.fleet.close()
        if self._local is not None:
            self._local.close()

    def _open(self) -> Reader | None:
        if self._local is None and os.access(self._path, os.R_OK):
            from kubemin.store.sqlite import SqliteReader

            try:
                self._local = SqliteReader(self._path)
            except KubeminError:  # it is of no use now: what Redis said stands
                return None
        return self._local
