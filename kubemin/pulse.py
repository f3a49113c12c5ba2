"""The coordinator's pulse: how its keeper tells one that hangs from one that works, or waits for a disk or a server.

It is one number in the scoreboard: the instant (boottime) until which the coordinator may be silent. At each turn of
its loop, and around each exchange with a store, it moves that instant on; before a wait it says how long the wait may
take. So a loop that stands still is seen within seconds, and a disk or a Redis that takes its time is nobody's fault.

The number has one writer: the coordinator's loop, and before there is one the supervisor, which forks it. Threads must
not have it: one that goes on would vouch for a loop that does not. It is copied in one piece of eight aligned bytes, so
no reader sees half of it; a writer that dies leaves the last one, and its successor's keeper writes over it.

May touch: the eight bytes that it is given. Imports only the clock.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable

from kubemin.clock import boottime

# Seconds of silence that are no sign of a hang:
WORK = 5.0  # between two signs of a loop that works; what takes longer gives signs in between
SERVER = 30.0  # one reply, whose own time-out is shorter
CONNECT = 300.0  # one server: its name is looked up, which no time-out of ours ends
DISK = 300.0  # a transaction's begin or commit, a copy of the database
OPENING = 3600.0  # the start: a new version may rewrite the whole database

Beat = Callable[[float], None]  # is told for how many seconds there may be no next sign

_INSTANT = struct.Struct("<d")
SIZE = _INSTANT.size


def unwatched(silence: float) -> None:
    """For a store that no coordinator's loop works with."""


class Pulse:
    def __init__(self, map_: mmap.mmap, at: int) -> None:
        self._map = map_
        self._span = slice(at, at + SIZE)

    def beat(self, silence: float = WORK) -> None:
        """Still there; the next sign comes within `silence` seconds."""
        self._map[self._span] = _INSTANT.pack(boottime() + silence)  # one copy; pack_into would write zeros first

    @property
    def due(self) -> float:
        """When the next sign is due (boottime)."""
        due: float = _INSTANT.unpack(self._map[self._span])[0]
        return due
