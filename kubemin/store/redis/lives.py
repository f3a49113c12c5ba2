"""One life of one worker, as requests name it, and a request that may have to be sent again. In memory only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from kubemin import clock
from kubemin.model.records import Claim, Outcome, Owner
from kubemin.store.redis import keys
from kubemin.store.redis.fresh import FreshClaims

NOW: Final = 3  # places of a request's arguments
ENTRY: Final = slice(8, 10)


class Life:
    """One life of one worker, as requests name it. `unanswered`: sent and without a reply: sent again as it is.
    `taken`: claimed, and not told to the caller, because something that followed the reply failed. `bare`: what the
    engine is told when nothing is told in full, and the setting that it was made with."""

    __slots__ = ("bare", "fresh", "key", "lock", "name", "number", "owner", "place", "sure", "taken", "unanswered")

    def __init__(self, owner: Owner, node: str) -> None:
        self.owner = owner
        self.fresh = FreshClaims()
        self.name = slot_name(owner)
        self.key = keys.slot(self.name)
        self.lock = lock_value(owner, node)
        self.place = f"{node}|{owner.slot}"
        self.number = clock.wall()  # above what an earlier process of this life has used
        self.sure = False
        self.unanswered: Request | None = None
        self.bare: tuple[tuple[str, ...], bytes] | None = None
        self.taken: list[Claim] = []


class Request:
    """`order`: which outcome each verdict is about: the plain ones are told first."""

    __slots__ = ("arguments", "limit", "order", "outcomes", "touched")

    def __init__(self, outcomes: tuple[Outcome, ...], touched: tuple[str, ...], limit: int) -> None:
        self.outcomes = outcomes
        self.limit = limit
        self.touched = touched
        self.order: list[int] = []
        self.arguments: list[Any] = []

    def name(self, entry: Sequence[bytes]) -> None:
        """It is to claim this one first: a list, and what was popped from it."""
        self.arguments[ENTRY] = entry[1], (self.touched.index(entry[0].decode()) + 1) // 2


def slot_name(owner: Owner) -> str:
    return f"{owner.instance}:{owner.slot}:{owner.incarnation}"


def owner_of(slot: str) -> Owner:
    instance, number, incarnation = slot.rsplit(":", 2)
    return Owner(instance, int(number), int(incarnation))


def lock_value(owner: Owner, node: str) -> str:
    """What a task's lock says, the token to be added."""
    return f"node={node} instance={owner.instance} worker={owner.slot} slot={slot_name(owner)} token="
