"""A bound for what Python cannot interrupt otherwise: a regular expression that tries all ways to split a text.

`re` looks for signals while it matches, so a timer of this process' own processor time can end it. It is the one that
programs hardly use (ITIMER_VIRTUAL, SIGVTALRM), and handler and timer are as before afterwards.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class TooSlow(Exception):
    """The processor time is used up."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises TooSlow inside after so many seconds of processor time. Only in the main thread, where signals are heard;
    elsewhere there is no bound."""
    inside = True

    def ring(*_: object) -> None:
        if inside:  # else it has ended just now
            raise TooSlow

    try:
        before = signal.signal(signal.SIGVTALRM, ring)
    except ValueError:  # another thread. Who imports `threading` before the forks pays 0.2 MB in each worker
        yield
        return
    try:
        try:
            signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
            yield
        finally:
            inside = False
    finally:  # also when it rings in the line above
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
