"""What `httpAddr` serves: `/metrics`, `/healthz`, `/readyz`. Called in the thread of `http.py`; only reads.

Numbers come from what this process counted or was told (`Tally`), the scoreboard (all processes), a reader of the store
with a connection of its own, and in a fleet from `sources`: the election, the locks, Redis. A scrape is rendered once a
second at most, whoever asks how often.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from kubemin import __version__, clock
from kubemin.clock import boottime
from kubemin.config import Settings
from kubemin.coordinator.http import Answer, HttpServer
from kubemin.errors import KubeminError
from kubemin.modes import elects
from kubemin.scoreboard import CoordinatorRecord, Header, Scoreboard, SlotState
from kubemin.store.base import QueueView, Reader
from kubemin.store.counting import Tally
from kubemin.telemetry.metrics import CONTENT_TYPE, Value, Values, expose

FRESH_SECONDS = 1.0  # a rendered scrape is good for
SILENT_SECONDS = 1.0  # beyond what it said: the coordinator's loop hangs
_NONE: tuple[str, ...] = ()
_STORE_FILES = ("kubemin.db", "kubemin.db-wal")


def serve(
    settings: Settings, board: Scoreboard, tally: Tally, reader: Callable[[], Reader], *sources: Callable[[], Values]
) -> None:
    """Begin to serve, when `httpAddr` is set."""
    if settings.http_addr:
        HttpServer(settings.http_addr, Exposition(settings, board, tally, reader, sources).answer).start()


class Exposition:
    """`reader` and `sources` are called at each scrape, in the thread that serves."""

    def __init__(
        self,
        settings: Settings,
        board: Scoreboard,
        tally: Tally,
        reader: Callable[[], Reader],
        sources: Sequence[Callable[[], Values]] = (),
    ) -> None:
        self._settings = settings
        self._board = board
        self._tally = tally
        self._reader = reader
        self._sources = sources
        self._text = b""
        self._rendered = -FRESH_SECONDS

    def answer(self, path: str) -> Answer:
        if path == "/metrics":
            return Answer(200, self._metrics(), CONTENT_TYPE)
        if path in ("/healthz", "/readyz"):
            problems = list(self._unhealthy() if path == "/healthz" else self._unready())
            return Answer(503 if problems else 200, "".join(f"{line}\n" for line in problems or ["ok"]).encode())
        if path == "/":
            return Answer(200, b"/metrics\n/healthz\n/readyz\n")
        return Answer(404, b"there are /metrics, /healthz and /readyz\n")

    # --- health -------------------------------------------------------------------------------------------------------

    def _unhealthy(self) -> Iterator[str]:
        """Why it should be restarted."""
        late = boottime() - self._board.pulse.due
        if late > SILENT_SECONDS:
            yield f"the coordinator's sign of life is {late:.0f} s late"
        if not _alive(self._header().supervisor_pid):
            yield "the supervisor is gone"

    def _unready(self) -> Iterator[str]:
        """Why no work should be sent here."""
        header, record = self._header(), self._record()
        yield from self._unhealthy()
        if header.stopping:
            yield "the daemon is stopping"
        elif not header.ready:
            yield "the daemon is starting"
        if header.drained:
            yield "the node is drained"
        if not record.ready:
            yield "the coordinator is starting"
        if record.error:
            yield record.error

    def _header(self) -> Header:
        return self._board.read_header() or Header()

    def _record(self) -> CoordinatorRecord:
        return self._board.read_coordinator() or CoordinatorRecord()

    # --- metrics ------------------------------------------------------------------------------------------------------

    def _metrics(self) -> bytes:
        now = clock.monotonic()
        if now >= self._rendered + FRESH_SECONDS:
            self._text = expose({**self._counted(), **self._node(), **self._workers(), **self._store(), **self._more()})
            self._rendered = now
        return self._text

    def _counted(self) -> Values:
        meter = self._tally.meter
        return {} if meter is None else meter.values()

    def _more(self) -> Values:
        return {name: series for source in self._sources for name, series in source().items()}

    def _node(self) -> Values:
        header, record = self._header(), self._record()
        started = time.time() - (boottime() - header.started)
        ready = not any(self._unready())
        return {
            "kubemin_build_info": {(__version__, header.node, record.mode): 1},
            "kubemin_start_time_seconds": {_NONE: round(started, 3)},
            "kubemin_ready": {_NONE: int(ready)},
            "kubemin_drained": {_NONE: int(header.drained)},
            "kubemin_leader": {_NONE: int(_leads(header, record))},
            "kubemin_leader_term": {_NONE: record.epoch},
            "kubemin_coordinator_restarts_total": {_NONE: header.coordinator_restarts},
            **({"kubemin_redis_up": {_NONE: int(record.redis == "up")}} if record.redis else {}),
            "kubemin_reloads_total": {("ok",): header.reloads, ("failed",): header.reloads_failed},
        }

    def _workers(self) -> Values:
        header = self._header()
        states: Counter[str] = Counter({state.value: 0 for state in SlotState})
        for slot in range(self._board.slots):
            record = self._board.read_slot(slot)
            if record is not None and (slot < header.max_workers or record.state is not SlotState.DEAD):
                states[record.state.value] += 1
        return {
            "kubemin_workers": {(state,): count for state, count in states.items()},
            "kubemin_workers_wanted": {_NONE: header.max_workers},
            "kubemin_worker_ends_total": {_NONE: header.worker_ends},
            "kubemin_worker_deaths_total": {_NONE: header.worker_deaths},
        }

    def _store(self) -> Values:
        length: dict[tuple[str, ...], Value] = {(queue,): 0 for queue in self._settings.queues}
        oldest, paused = dict(length), dict(length)
        for view in self._queues():
            length[view.name,] = view.length
            oldest[view.name,] = view.oldest_seconds or 0.0
            paused[view.name,] = int(view.paused)
        return {
            "kubemin_queue_length": length,
            "kubemin_queue_oldest_seconds": oldest,
            "kubemin_queue_paused": paused,
            "kubemin_store_up": {_NONE: int(not self._record().error)},
            "kubemin_store_bytes": {_NONE: sum(map(self._size, _STORE_FILES))},
        }

    def _queues(self) -> list[QueueView]:
        """A store that cannot be read now has no figures; that it is so is told by another."""
        try:
            return self._reader().queues()
        except KubeminError:
            return []

    def _size(self, name: str) -> int:
        try:
            return os.stat(os.path.join(self._settings.state_dir, name)).st_size
        except OSError:
            return 0


def _leads(header: Header, record: CoordinatorRecord) -> bool:
    """A term ends by the clock; alone on a machine there is none."""
    return record.term_until > boottime() if elects(record.mode) else record.leader == header.node


def _alive(pid: int) -> bool:
    return os.getppid() == pid
