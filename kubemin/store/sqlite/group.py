"""The transaction around several calls of the store, and what a failure of one of them means for the others.

A call that is refused (`Refused`, `NotFound`, `Invalid`) has written nothing, so the rest of the block goes on. After
any other failure the whole transaction is undone, however the caller takes it: half of a call must not be committed.
Touches the session alone.
"""

from __future__ import annotations

import sqlite3
from types import TracebackType
from typing import TYPE_CHECKING, Final, NoReturn

from kubemin.errors import Invalid, NotFound, Refused, StoreUnavailable
from kubemin.store.sqlite.database import translate

if TYPE_CHECKING:
    from kubemin.store.sqlite.session import Session

_REFUSALS: Final = (Refused, NotFound, Invalid)


class Group:
    """The outermost `with` begins and commits; inner ones, one in each call of the store, join it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._depth = 0
        self._failure: BaseException | None = None

    @property
    def active(self) -> bool:
        return self._depth > 0

    def __enter__(self) -> None:
        session = self._session
        if self._failure is not None:
            raise StoreUnavailable(f"an earlier call of this transaction failed: {self._failure}")
        session.now = session.clock()
        if self._depth == 0:
            try:
                session.begin()
            except BaseException as error:
                self._undo(error)
        self._depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth:
            self._leave_call(error)
        else:
            self._end(error)

    def _leave_call(self, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, _REFUSALS):
            self._failure = self._failure or self._seen(error)
            raise self._failure from error

    def _end(self, error: BaseException | None) -> None:
        if self._failure is not None:
            self._undo(error or StoreUnavailable(f"a call of this transaction failed: {self._failure}"))
        if error is not None and not (isinstance(error, _REFUSALS) and self._session.untouched()):
            self._undo(error)
        try:
            self._session.commit()
        except BaseException as failure:
            self._undo(failure)

    def _undo(self, error: BaseException) -> NoReturn:
        """Roll back, and raise what the caller should see."""
        self._failure = None
        self._session.rollback()
        seen = self._seen(error)
        if seen is error:
            raise error
        raise seen from error

    def _seen(self, error: BaseException) -> BaseException:
        return translate(error, self._session.path) if isinstance(error, sqlite3.Error) else error
