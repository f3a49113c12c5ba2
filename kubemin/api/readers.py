"""A client's read-only views of the store: one a thread, opened when first needed, of where the node's runs are now.

A forked child opens its own: SQLite forbids it to use, or even to close, what its parent opened.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from kubemin.api.gateway import no_rights
from kubemin.errors import Refused, StoreUnavailable

if TYPE_CHECKING:
    from kubemin.api.fleet import Fleet
    from kubemin.store.base import Reader

_parents: list[Any] = []  # kept, so that nothing closes them


class Readers:
    def __init__(self, state_dir: str) -> None:
        self._path = os.path.join(state_dir, "kubemin.db")
        self._local = threading.local()
        self.fleet: Fleet | None = None  # of a node that is configured to be in one

    @property
    def in_fleet(self) -> bool:
        """This node's runs are in Redis now."""
        return self.fleet is not None and self.fleet.is_right()

    def mine(self) -> Reader:
        """This thread's. Raises StoreUnavailable, Refused."""
        reader: Reader | None = getattr(self._local, "reader", None)
        in_fleet = self.in_fleet
        if reader is not None and self._local.in_fleet != in_fleet:  # the daemon has joined its fleet since
            reader.close()
            reader = None
        if reader is None:
            reader = self._local.reader = self._open(in_fleet)
            self._local.in_fleet = in_fleet
        return reader

    def close_mine(self) -> None:
        reader = self._local.__dict__.pop("reader", None)
        if reader is not None:
            reader.close()

    def after_fork(self) -> None:
        """In the child."""
        reader = self._local.__dict__.get("reader")
        if reader is not None:
            _parents.append(reader)
        self._local = threading.local()

    def _open(self, in_fleet: bool) -> Reader:
        if self.fleet is not None and in_fleet:
            from kubemin.api.carried import CarriedReader

            return CarriedReader(self.fleet.open(), self._path)
        from kubemin.store.sqlite.reader import SqliteReader

        self._check()
        return SqliteReader(self._path)

    def _check(self) -> None:
        """Say what is wrong with the file, or our rights to it."""
        try:
            os.stat(self._path)  # not opened: closing any descriptor of it would drop the locks of all of SQLite's
            if not os.access(self._path, os.R_OK, effective_ids=True):
                raise PermissionError
        except FileNotFoundError:
            message = f"there is no {self._path}: no daemon has run here and nothing was submitted yet; check stateDir"
            raise StoreUnavailable(message, code="no_store") from None
        except PermissionError:
            raise Refused(no_rights(self._path), code="no_rights") from None
        except OSError as exc:
            raise StoreUnavailable(f"cannot read {self._path}: {exc.strerror}") from exc
