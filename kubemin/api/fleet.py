"""A client's way in a fleet: straight to Redis, with the same requests and replies as through the daemon's socket.

Which way is right is the daemon's to say: its mode stands in the scoreboard. With no daemon on this machine a fleet's
client goes to Redis, and never to the file, which no other node would see.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from kubemin import clock
from kubemin.errors import Unreachable
from kubemin.modes import uses_redis
from kubemin.scoreboard import Scoreboard

if TYPE_CHECKING:
    from kubemin.api.gateway import Gateway
    from kubemin.config import Settings
    from kubemin.store.redis.node import NodeStore

SURE_SECONDS = 0.5  # that an answer about the daemon's mode is relied on
CONFIRMED = frozenset({"submit", "seal"})  # what `durability` is about

_encode = msgspec.json.Encoder().encode


class Fleet:
    """One process' access to the fleet. Not thread-safe: `Client` holds a lock around `exchange`."""

    def __init__(self, settings: Settings, gateway: Gateway) -> None:
        self._settings = settings
        self._gateway = gateway
        self._store: NodeStore | None = None
        self._asked = float("-inf")
        self._right = True

    def is_right(self) -> bool:
        """Whether submissions belong into Redis now."""
        now = clock.monotonic()
        if now - self._asked > SURE_SECONDS:
            self._right = self._look()
            self._asked = now
        return self._right

    def _look(self) -> bool:
        """Into the scoreboard of a daemon that lives; its word counts as soon as its coordinator has said one."""
        path = os.path.join(self._settings.runtime_dir, "scoreboard")
        try:
            board = Scoreboard.open(path)
        except Unreachable:
            return True
        try:
            record = board.read_coordinator()
        finally:
            board.close()
        return record is None or not record.pid or uses_redis(record.mode) or not self._gateway.locked()

    def exchange(self, requests: Iterable[bytes]) -> list[msgspec.Raw]:
        """All replies, in order. Raises the first refusal, StoreUnavailable when Redis does not answer."""
        from kubemin.api.direct import carry_out

        if self._store is None:
            self._store = self.open()
        replies = []
        for body in requests:
            op, value = carry_out(self._store, body)
            if op in CONFIRMED and self._settings.durability != "none":
                self._store.confirm(self._settings.durability)
            replies.append(msgspec.Raw(_encode(value)))
        return replies

    def open(self) -> NodeStore:
        """A connection of the caller's own."""
        from kubemin.store.redis.opening import open_store

        return open_store(self._settings, name="kubemin-client")

    def disconnect(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None
