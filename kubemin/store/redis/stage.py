"""A server that is none, for a worker that does not live yet: what the supervisor rehearses with before it forks.

It hands out single tasks that do nothing and takes every result. The far end of its socket pair is answered in the same
process, so that nothing ever waits. May touch: that socket pair.
"""

from __future__ import annotations

import socket
from typing import Any

from hiredis import Reader

from kubemin import clock
from kubemin.clock import SECOND
from kubemin.store.redis.connection import READ_SIZE, Connection
from kubemin.store.redis.records import pack

AT_ONCE = 4  # tasks that one reply brings
RUN = "0" * 20
_LIMIT, _POPPED, _RESULTS = 7, 8, 12  # which arguments of `finish_and_claim` say so; each result begins with its task


class Stage(Connection):
    """A server that never lets wait: each command finds its reply in the socket pair as soon as it was sent."""

    def __init__(self, near: socket.socket, far: socket.socket, work: str) -> None:
        """`near` and `far` were open before the worker began: only the copy is new to it, and no leftover of a task."""
        super().__init__(near.dup(), 1.0)
        self._far = far
        self._asked = Reader()
        self._work = work
        self.tasks = 0  # that were given out

    def send(self, packed: bytes) -> None:
        super().send(packed)
        self._asked.feed(self._far.recv(READ_SIZE))
        while (command := self._asked.gets()) is not False:
            self._far.sendall(_resp(self._answer(command)))

    def _answer(self, command: list[bytes]) -> Any:
        if command[0] == b"TIME":
            return [b"%d" % part for part in divmod(clock.wall(), SECOND)]
        if command[0] == b"BLPOP":
            return [command[1], self._name().encode()]
        arguments = command[3 + int(command[2]) :]
        if len(arguments) < _RESULTS:
            return [0, 0, [], []]  # `lose`: what was taken too much of is given back
        results = sum(each.startswith(RUN.encode()) for each in arguments[_RESULTS:])
        popped = bool(arguments[_POPPED])
        count = min(int(arguments[_LIMIT]), 1 if popped or self.tasks % 3 == 0 else AT_ONCE)
        if not popped and self.tasks % 5 == 0:
            count = 0  # so that it waits for the next
        return pack(["OK", "C" * results, False, *(self._claim() for _ in range(count))])

    def _claim(self) -> list[Any]:
        self.tasks += 1
        return [self._name(), self._work, f"q{clock.wall()} 1 default", None]

    def _name(self) -> str:
        return f"{RUN}.0@{self.tasks}"


def _resp(value: Any) -> bytes:
    if value is None:
        return b"$-1\r\n"
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, bytes):
        return b"$%d\r\n%b\r\n" % (len(value), value)
    return b"*%d\r\n" % len(value) + b"".join(map(_resp, value))
