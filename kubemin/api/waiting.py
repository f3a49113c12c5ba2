"""Waiting for runs to end: asked of the daemon, which answers the moment they have; by looking, while none runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from kubemin import clock
from kubemin.api.gateway import Connection, Dropped, result
from kubemin.errors import StoreUnavailable
from kubemin.model.states import RUN_TERMINAL

if TYPE_CHECKING:
    from kubemin.client import Client

AT_ONCE = 1000  # runs in one request
SHORTEST, LONGEST = 0.02, 0.5  # seconds between two looks
OUTAGE_SECONDS = 60.0  # of the fleet's Redis, until a wait gives up: a fail-over or a restart is over by then

_encode = msgspec.json.Encoder().encode
_decode_states = msgspec.json.Decoder(dict[str, str]).decode
_ENDED = frozenset(state.value for state in RUN_TERMINAL)


class Waiting:
    """One wait for many runs, with one deadline."""

    def __init__(self, client: Client, runs: Sequence[str], timeout: float | None) -> None:
        self._client = client
        self._runs = list(dict.fromkeys(runs))
        self._timeout = timeout
        self._deadline = None if timeout is None else clock.monotonic() + timeout
        self._pause = SHORTEST
        self._outage_ends: float | None = None  # while the fleet's Redis does not answer

    def finish(self, open_connection: Callable[[], Connection | None]) -> dict[str, str]:
        """Id -> terminal state of all, in the order asked. Raises TimeoutError, NotFound, and StoreUnavailable
        where there is no way to ask: in a fleet, after a minute in which its Redis did not answer.

        `open_connection` gives a stream of our own, None without a daemon.
        """
        ended: dict[str, str] = {}
        connection: Connection | None = None
        try:
            for start in range(0, len(self._runs), AT_ONCE):
                part = self._runs[start : start + AT_ONCE]
                while part:
                    connection = connection or open_connection()
                    states = None if connection is None or self._expired() else self._ask(connection, part)
                    if states is None or len(states) < len(part):
                        connection = None if states is None else connection  # dropped: look, then ask a new daemon
                        states = self._look(part)
                    ended.update((run, state) for run, state in states.items() if state in _ENDED)
                    part = [run for run in part if run not in ended]
        finally:
            if connection is not None:
                connection.close()
        return {run: ended[run] for run in self._runs}

    def _ask(self, connection: Connection, part: Sequence[str]) -> dict[str, str] | None:
        """The daemon's answer once all of `part` have ended, or are not known to it; None: the connection was lost."""
        try:
            reply = connection.wait_for(_encode({"op": "wait", "runs": part}), self._left())
        except Dropped:
            connection.close()
            return None
        if reply is None:
            raise self._too_late()
        return _decode_states(result(reply))

    def _look(self, part: Sequence[str]) -> dict[str, str]:
        states = self._states_in_an_outage(part)
        if any(states.get(run) not in _ENDED for run in part):
            left = self._left()
            time.sleep(self._pause if left is None else min(self._pause, left))
            self._pause = min(self._pause * 1.5, LONGEST)
        return states

    def _states_in_an_outage(self, part: Sequence[str]) -> dict[str, str]:
        """Empty while the fleet's Redis is away, which says nothing about the runs. Raises StoreUnavailable when that
        lasts."""
        try:
            states = self._states(part)
        except StoreUnavailable as exc:
            now = clock.monotonic()
            self._outage_ends = self._outage_ends or now + OUTAGE_SECONDS
            if exc.fatal or not self._client.in_fleet or now >= self._outage_ends:
                raise
            return {}
        self._outage_ends = None
        return states

    def _states(self, part: Sequence[str]) -> dict[str, str]:
        """Of all of them. Raises NotFound, Unreachable. A run that is not where the daemon worked a moment ago may have
        moved with it into its fleet: who then asks where the daemon works now misses none (`api/carried.py`)."""
        states = self._client.states(part)
        if len(states) < len(part):
            states = self._client.states(part, anew=True)
        for run in part:
            if run not in states:
                states[run] = self._client.reader().run(run).status.value  # or says what has become of it
        return states

    def _expired(self) -> bool:
        return self._deadline is not None and clock.monotonic() >= self._deadline

    def _left(self) -> float | None:
        """Seconds until the deadline. Raises TimeoutError when it has passed."""
        if self._deadline is None:
            return None
        left = self._deadline - clock.monotonic()
        if left <= 0:
            raise self._too_late()
        return left

    def _too_late(self) -> TimeoutError:
        what = f"run {self._runs[0]}" if len(self._runs) == 1 else f"some of {len(self._runs)} runs"
        return TimeoutError(f"{what} had not ended after {self._timeout:g} s")
