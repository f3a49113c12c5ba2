"""Local, fallback, carrying, distributed: what each mode means, as one table. Pure, but for the settings.

Outside this table and what is built from it (the coordinator's entry, the client's choice of a store) no code asks
for the mode.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from kubemin.config import Settings


class Mode(StrEnum):
    """As `status` shows it; carrying is a fleet's node that still has unfinished runs of its own store."""

    LOCAL = "local"  # no Redis is configured: this machine works alone
    FALLBACK = "fallback"  # Redis is configured and did not answer at the start: alone, until it does
    CARRYING = "carrying"  # in the fleet; what is unfinished in SQLite moves, or ends here
    DISTRIBUTED = "distributed"


class Rules(NamedTuple):
    """`store`: where submissions go. `schedules`: whether this node fires them by itself, or as the fleet's leader."""

    store: str
    schedules: bool
    looks_for_redis: bool
    elects: bool


RULES: dict[Mode, Rules] = {
    Mode.LOCAL: Rules("sqlite", schedules=True, looks_for_redis=False, elects=False),
    # Two nodes that cannot see each other would both fire.
    Mode.FALLBACK: Rules("sqlite", schedules=False, looks_for_redis=True, elects=False),
    Mode.CARRYING: Rules("redis", schedules=True, looks_for_redis=False, elects=True),
    Mode.DISTRIBUTED: Rules("redis", schedules=True, looks_for_redis=False, elects=True),
}

# What may follow. A way back to SQLite exists over a restart alone: a fleet's outage stops no process.
NEXT: dict[Mode, frozenset[Mode]] = {
    Mode.LOCAL: frozenset(),
    Mode.FALLBACK: frozenset({Mode.CARRYING, Mode.DISTRIBUTED}),
    Mode.CARRYING: frozenset({Mode.DISTRIBUTED}),
    Mode.DISTRIBUTED: frozenset(),
}


def in_fleet(settings: Settings) -> bool:
    """Whether this node is configured to be part of a fleet."""
    return bool(settings.redis_addr) and settings.enable_distributed is not False


def elects(mode: str) -> bool:
    """Whether a daemon in this mode leads for a term; else it is its own leader."""
    return mode in tuple(Mode) and RULES[Mode(mode)].elects


def uses_redis(mode: str) -> bool:
    """Where a client of a daemon in this mode submits."""
    return mode in tuple(Mode) and RULES[Mode(mode)].store == "redis"
