"""Results on their way to the coordinator: sent at once, kept until they are known to be committed.

A result is in the kernel's hands the moment its task ended, so it outlives the worker; it is kept here as well, because
the coordinator may die between reading it and its commit. What the coordinator has told as committed is dropped, and a
new coordinator, which says hello, gets the rest again, in order. The store knows a repeated outcome by its token.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from kubemin.channel import HELLO, MESSAGE_BYTES, REPORT, PacketConnection, pack_hello, pack_report
from kubemin.model.records import Outcome


class Reports:
    """`wait` blocks until the socket may have room; False: the worker has to end now."""

    def __init__(self, connection: PacketConnection, wait: Callable[[], bool]) -> None:
        self._connection = connection
        self._wait = wait
        self._seq = 0
        self._kept: deque[tuple[int, bytes]] = deque()

    def send(self, outcome: Outcome) -> bool:
        """False: it could not be sent before the worker had to end; the task is lost with it then, and run again."""
        self._seq += 1
        body = pack_report(self._seq, outcome)
        if len(body) > MESSAGE_BYTES:
            raise ValueError(f"a report of {len(body)} bytes")
        self._kept.append((self._seq, body))
        return self._deliver(REPORT, body)

    def acknowledge(self, seq: int) -> None:
        kept = self._kept
        while kept and kept[0][0] <= seq:
            kept.popleft()

    def answer_hello(self) -> None:
        """To a new coordinator: all that is not acknowledged, then a hello of our own. Whatever was handed over
        before its hello has been reported when ours arrives. What one does not read, the next one asks for."""
        for _, body in tuple(self._kept):
            if not self._deliver(REPORT, body):
                return
        self._deliver(HELLO, pack_hello())

    def _deliver(self, kind: bytes, body: bytes) -> bool:
        try:
            while not self._connection.try_send(kind, body):
                if not self._wait():
                    return False
        except OSError:  # a step closed our descriptors; or the supervisor is gone, which held the other end
            return False
        return True
