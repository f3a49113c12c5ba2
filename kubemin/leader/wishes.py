"""What others ask of the elector: to hand over, or to stop. Asked in any thread, done in its next step.

Asking bars the term at once: it is over when `ask` returns, whatever the elector's thread is waiting for. A wish to
stop is never replaced, and once it is being done nothing more can be wished: the release is not to be cut off. May
touch: the term.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec

from kubemin.leader.term import Term


class Wish(msgspec.Struct, frozen=True):
    reason: str
    stop: bool


class Wishes:
    """`interrupt` and `resume`: of the request that the elector's thread waits for."""

    def __init__(self, term: Term, interrupt: Callable[[], None], resume: Callable[[], None]) -> None:
        self._term, self._interrupt, self._resume = term, interrupt, resume
        self._wish: Wish | None = None
        self._stopping = False
        self._asking = threading.Lock()

    def ask(self, wish: Wish) -> None:
        with self._asking:
            self._term.bar()
            if self._stopping:
                return
            if self._wish is None or not self._wish.stop:
                self._wish = wish
            self._interrupt()

    def take(self, *, leading: bool) -> Wish | None:
        """What is to be done now. Who does not lead has nothing to hand over."""
        with self._asking:
            wish, self._wish = self._wish, None
            if wish is None:
                return None
            self._resume()
            self._stopping = wish.stop
            if wish.stop or leading:
                return wish
            self._term.unbar()
            return None
