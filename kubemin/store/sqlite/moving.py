"""Runs that move from this file into a fleet's store: those of which nothing was ever started.

They leave as the submissions that they came as, under their own ids, so that one which is submitted again after a
crash in between is recognised there. What has begun has tokens, outputs and counters here, and ends here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from kubemin.model.graph import Graph
from kubemin.model.records import Definition, Submission
from kubemin.store.codec import decode_extra
from kubemin.store.sqlite.session import Session
from kubemin.store.sqlite.store import SqliteStore

_decode: Any = msgspec.json.decode


class Moving:
    """Of a store that was just opened and does nothing else meanwhile."""

    def __init__(self, store: SqliteStore) -> None:
        self._session: Session = store._session

    def unstarted(self, limit: int) -> list[Submission]:
        """The oldest, at most `limit` of each kind."""
        with self._session.group:
            self._session.flush()
            runs = [self._run(*row) for row in self._session.all("unstarted_runs", ("", limit))]
            solos = [self._solo(*row) for row in self._session.all("unstarted_solos", ("", limit))]
        return sorted(runs + solos, key=lambda submission: submission.id)

    def definition(self, digest: str) -> Definition | None:
        with self._session.group:
            row = self._session.one("definition", (digest,))
        return None if row is None else Definition(row[0], _decode(row[1], type=Graph), row[2])

    def moved(self, submissions: Sequence[Submission]) -> None:
        """They are in the fleet's store: forget them here, in one commit."""
        with self._session.group:
            for each in submissions:
                self._session.write("delete_run", (each.id,))
                self._session.write("delete_ripples", (each.id,))
                self._session.write("delete_tasks_of", (each.id,))
                self._session.write("delete_payload", (each.id,))
                if each.key is not None:
                    self._session.write("delete_key", (each.key, each.id))

    def unfinished(self) -> int:
        """Runs that have not ended."""
        with self._session.group:
            self._session.flush()
            return int(self._session.one("unfinished")[0])

    def _run(
        self, run: str, digest: str, workflow: str, start_at: int | None, scheduled_at: int | None, key: str | None
    ) -> Submission:
        return Submission(
            id=run,
            workflow=workflow,
            definition=digest,
            params=_decode(self._payload(run) or b"{}"),
            key=key,
            start_at=start_at,
            scheduled_at=scheduled_at,
        )

    def _solo(self, run: str, queue: str, key: str | None, extra: bytes | None, spec: bytes) -> Submission:
        more = decode_extra(extra) if extra else None
        return Submission(
            id=run,
            workflow=more.label if more else "",
            work=_decode(spec or self._payload(run) or b"{}"),
            key=key,
            start_at=more.start_at if more else None,
            queue=queue,
            timeout=more.timeout if more else None,
            retry=more.retry if more else None,
        )

    def _payload(self, run: str) -> bytes | None:
        row = self._session.one("payload", (run,))
        return None if row is None else row[0]
