"""`SqliteReader`: reads of the file beside the daemon, or without one. Apart from the store, which commands that only
read need not import."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from kubemin.model.obstacles import Obstacles
from kubemin.model.records import Definition, RunView
from kubemin.model.states import RunState
from kubemin.store.base import QueueView, RunFilter, WorkflowView
from kubemin.store.sqlite.database import connect_reader, queries, translated
from kubemin.store.sqlite.obstacles import obstacles
from kubemin.store.sqlite.reading import Reads


class Snapshots:
    """The `Reader` methods, each within one snapshot."""

    def _snapshot(self) -> AbstractContextManager[Reads]:
        raise NotImplementedError

    def run(self, run: str) -> RunView:
        with self._snapshot() as reads:
            return reads.run(run)

    def runs(self, where: RunFilter) -> list[RunView]:
        with self._snapshot() as reads:
            return reads.runs(where)

    def states(self, ids: Sequence[str]) -> dict[str, RunState]:
        with self._snapshot() as reads:
            return reads.states(ids)

    def outputs(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        with self._snapshot() as reads:
            return reads.outputs(ids)

    def queues(self) -> list[QueueView]:
        with self._snapshot() as reads:
            return reads.queues()

    def workflows(self) -> list[WorkflowView]:
        with self._snapshot() as reads:
            return reads.workflows()

    def definition(self, name_or_hash: str) -> Definition | None:
        with self._snapshot() as reads:
            return reads.definition(name_or_hash)

    def obstacles(self, run: str, step: str | None = None) -> Obstacles:
        with self._snapshot() as reads:
            return obstacles(reads, run, step)


class SqliteReader(Snapshots):
    """Read-only, beside the daemon or without one. Opened when made; raises StoreUnavailable."""

    def __init__(self, path: str) -> None:
        self._path = str(path)
        self._db = connect_reader(self._path)
        self._reads = Reads(self._db, queries())

    @contextmanager
    def _snapshot(self) -> Iterator[Reads]:
        with translated(self._path):
            self._db.execute("BEGIN")
            try:
                yield self._reads
            finally:
                self._db.execute("ROLLBACK")

    def close(self) -> None:
        self._db.close()
