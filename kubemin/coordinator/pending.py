"""What workers told and no commit has covered yet. It outlives a failed transaction and is applied again."""

from __future__ import annotations

import msgspec

from kubemin.model.records import Outcome, Owner
from kubemin.store.base import Blame, Store


class Pending(msgspec.Struct):
    """Applied in this order: outcomes first, so that what a dead worker still reported counts before its death does."""

    outcomes: dict[Owner, list[Outcome]] = {}
    returned: dict[Owner, list[tuple[str, int, int]]] = {}
    deaths: list[tuple[Owner, Blame | None]] = []

    def __bool__(self) -> bool:
        return bool(self.outcomes or self.returned or self.deaths)

    def report(self, owner: Owner, outcomes: list[Outcome]) -> None:
        if outcomes:
            self.outcomes.setdefault(owner, []).extend(outcomes)

    def give_back(self, owner: Owner, claims: list[tuple[str, int, int]]) -> None:
        if claims:
            self.returned.setdefault(owner, []).extend(claims)

    def apply(self, store: Store) -> None:
        for owner, outcomes in self.outcomes.items():
            store.finish(owner, outcomes)
        for owner, claims in self.returned.items():
            store.give_back(owner, claims)
        for owner, blame in self.deaths:
            store.lose(owner, blame)

    def clear(self) -> None:
        self.outcomes.clear()
        self.returned.clear()
        self.deaths.clear()
