"""The coordinator's side of its channel to the supervisor (docs/design.md section 4).

The supervisor tells of forks, deaths and its wishes; the coordinator says that it is ready, and asks for a kill where
a step does not end by itself. Nothing here blocks: what does not go out now goes out in a later round.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from kubemin import clock
from kubemin.channel import PacketConnection, close_all
from kubemin.model.records import Owner
from kubemin.telemetry import log

ATTACH_SECONDS = 10.0  # for the supervisor to name the living workers


class Died(msgspec.Struct, frozen=True):
    """A worker's end. `status` is its wait status; `reason` why the supervisor killed it, None when it did not."""

    slot: int
    incarnation: int
    pid: int
    status: int
    reason: str | None
    record: dict[str, Any] | None  # {run, idx, token, state} of its scoreboard record, None when unreadable


class Orders(Protocol):
    """What a coordinator does about what the supervisor tells it."""

    def worker_lives(self, slot: int, incarnation: int, pid: int, fds: list[int]) -> None:
        """The descriptors are its channels' ends, in the order of docs/design.md section 4."""

    def worker_died(self, died: Died) -> None: ...

    def reload(self) -> None:
        """The checker found new settings and definitions."""

    def drain(self, on: bool) -> None: ...

    def stop(self) -> None:
        """Hand out no more; `finish` follows when the workers are gone."""


class Control:
    """Messages to and from the supervisor. When it is gone this process ends at once."""

    def __init__(self, connection: PacketConnection) -> None:
        self._connection = connection
        self._outbox: deque[dict[str, Any]] = deque()
        self.attached = False  # every living worker was named
        self.finishing = False  # all workers are gone: commit, and end

    def fileno(self) -> int:
        return self._connection.fileno()

    def attach(self, collect: Callable[[float], None]) -> None:
        """Let `collect` read, at most so many seconds at a time, until the supervisor has named all that live."""
        deadline = clock.monotonic() + ATTACH_SECONDS
        while not (self.attached or self.finishing) and (left := deadline - clock.monotonic()) > 0:
            collect(left)

    def obey(self, orders: Orders) -> None:
        """Carry out all that has come."""
        try:
            messages = self._receive()
        except EOFError:
            log.error("the supervisor is gone")
            os._exit(1)
        for message, fds in messages:
            self._carry_out(message, fds, orders)
        self.flush()

    def _receive(self) -> list[tuple[dict[str, Any], list[int]]]:
        messages = []
        while (message := self._connection.recv_with_fds()) is not None:
            messages.append(message)
        return messages

    def _carry_out(self, message: dict[str, Any], fds: list[int], orders: Orders) -> None:
        kind = message["type"]
        if kind == "worker":
            orders.worker_lives(message["slot"], message["incarnation"], message["pid"], fds)
            return
        close_all(fds)
        if kind == "attached":
            self.attached = True
        elif kind == "died":
            fields: dict[str, Any] = {name: message.get(name) for name in Died.__struct_fields__}
            orders.worker_died(Died(**fields))
        elif kind == "reload":
            orders.reload()
        elif kind == "drain":
            orders.drain(message["on"])
        elif kind == "stop":
            orders.stop()
        elif kind == "finish":
            self.finishing = True

    def send(self, **message: Any) -> None:
        self._outbox.append(message)
        self.flush()

    def kill(self, owner: Owner, token: int, reason: str) -> None:
        """Ask for the end of a worker whose step does not end by itself."""
        self.send(type="kill", slot=owner.slot, incarnation=owner.incarnation, token=token, reason=reason)

    def flush(self) -> None:
        while self._outbox and self._connection.send_with_fds(self._outbox[0], []):
            self._outbox.popleft()
