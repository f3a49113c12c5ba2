"""Owners of claims (one life of one worker) as the file keeps them: a number for each, and whether it is retired.

What is in memory is what the file holds: this process is its only writer, and a transaction that fails drops it all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubemin.clock import Micros
from kubemin.model.records import Owner

if TYPE_CHECKING:
    from kubemin.store.sqlite.session import Session


class Owners:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._keys: dict[Owner, int] = {}
        self._names: dict[int, Owner] = {}
        self._retired: set[int] = set()

    def load(self) -> None:
        for key, instance, slot, incarnation, retired in self._session.all("owners"):
            self._know(Owner(instance, slot, incarnation), key, retired is not None)

    def key(self, owner: Owner) -> int:
        """Its number, made if it is new."""
        known = self._keys.get(owner)
        if known is None:
            arguments = (owner.instance, owner.slot, owner.incarnation, self._session.node)
            known = int(self._session.one("insert_owner", arguments)[0])
            self._know(owner, known, False)
        return known

    def of(self, key: int) -> Owner:
        return self._names[key]

    def retire(self, key: int) -> None:
        self._retired.add(key)
        self._session.write("retire_owner", (self._session.now, key))

    def retired(self, key: int) -> bool:
        return key in self._retired

    def forget(self, before: Micros) -> None:
        """Those retired before then: nothing of theirs can still be on its way."""
        for (key,) in self._session.all("prune_owners", (before,)):
            owner = self._names.pop(key, None)
            self._retired.discard(key)
            if owner is not None:
                self._keys.pop(owner, None)

    def _know(self, owner: Owner, key: int, retired: bool) -> None:
        self._keys[owner] = key
        self._names[key] = owner
        if retired:
            self._retired.add(key)
