"""The coordinator's side of its channel to the supervisor (docs/design.md section 4).

The supervisor tells of forks, deaths and its wishes; the coordinator says that it is ready, and asks for a kill where
a step does not end by itself. Nothing here blocks: what does not go out now goes out in a later round.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from kubemin.channel import PacketConnection


class Died(msgspec.Struct, frozen=True):
    """A worker's end. `status` is its wait status; `reason` why the supervisor killed it, None when it did not."""

    slot: int
    incarnation: int
    pid: int
    status: int
    reason: str | None
    record: dict[str, Any] | None  # {run, idx, token, state} of its scoreboard record, None when unreadable


class Control:
    """Messages to and from the supervisor. EOF means that the supervisor is gone, and so must we be."""

    def __init__(self, connection: PacketConnection) -> None:
        self._connection = connection
        self._outbox: deque[dict[str, Any]] = deque()

    def fileno(self) -> int:
        return self._connection.fileno()

    def receive(self) -> list[tuple[dict[str, Any], list[int]]]:
        """All messages that are there, with their descriptors. Raises EOFError."""
        messages = []
        while (message := self._connection.recv_with_fds()) is not None:
            messages.append(message)
        return messages

    def send(self, **message: Any) -> None:
        self._outbox.append(message)
        self.flush()

    def flush(self) -> None:
        while self._outbox and self._connection.send_with_fds(self._outbox[0], []):
            self._outbox.popleft()
