"""Which fleet a server and a state directory belong to: `stateDir/fleet` and one key in Redis hold the same `ID LIFE`.

Two fleets that share a server by mistake would run each other's commands. So the first node writes a new id into Redis
(SET NX: one of many wins) and every node keeps it, fsynced, in its state directory. Every connection compares the two
before its first command, and is refused where they differ. A server without an id has lost everything (FLUSHALL, a
start without its data, an empty server): the first node to see it gives the id back, with a new life, by which the
others see it too. So the fleet goes on without an operator; what was there is gone, and each node says so.

Dies a process between the two writes, the next look finds the id in Redis and keeps that. May touch: the key, the file.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable

from kubemin.errors import StoreUnavailable
from kubemin.store.durable import write_durably
from kubemin.store.redis import keys

NAME = "fleet"
OTHER_FLEET = "other_fleet"  # code of the refusal


class OtherFleet(StoreUnavailable):
    """The server is another fleet's. Not fatal: the address may lead to the right one again."""

    code = OTHER_FLEET


def compare(state_dir: str, found: bytes | None, where: str) -> None:
    """`found`: what the key holds on the server `where`. Raises OtherFleet."""
    own, other = _id(_read(state_dir)), _id(_text(found))
    if own and other and own != other:
        path = os.path.join(state_dir, NAME)
        raise OtherFleet(
            f"Redis at {where} belongs to fleet {other[:40]}, this node to fleet {own[:40]}: correct redisAddr (each "
            f"fleet needs a DB number of its own), or remove {path} to move this node into that fleet"
        )


def recognise(execute: Callable[..., bytes | None], state_dir: str, where: str) -> bool:
    """A node's look: both sides agree afterwards. True: the server has lost what it had. Raises OtherFleet, OSError."""
    own, found = _read(state_dir), execute("GET", keys.FLEET)
    if not found:
        execute("SET", keys.FLEET, f"{_id(own) or uuid.uuid4().hex} {uuid.uuid4().hex[:8]}", "NX")
        found = execute("GET", keys.FLEET)
    compare(state_dir, found, where)
    known = _text(found)
    if known and known != own:
        write_durably(os.path.join(state_dir, NAME), f"{known}\n".encode())
    return bool(own) and known != own


def _read(state_dir: str) -> str:
    """What this state directory knows; empty: nothing yet, or it is not ours to read."""
    try:
        with open(os.path.join(state_dir, NAME), encoding="ascii") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _text(found: bytes | None) -> str:
    return (found or b"").decode(errors="replace").strip()


def _id(known: str) -> str:
    return known.partition(" ")[0]
