"""Giving memory back when the work is over: caches of the database, and what malloc(3) keeps for later."""

from __future__ import annotations

import ctypes
import gc

from kubemin import clock, kernel
from kubemin.store.sqlite.store import SqliteStore

IDLE_SECONDS = 1.0  # without work; then once, until there is work again


class Trimmer:
    """Told of work by `worked`; the loop calls `trim_when_idle` in each round."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._since: float | None = None  # the last work that memory was not given back after
        # glibc's; musl gives back by itself.
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda _pad: 0)

    def worked(self) -> None:
        self._since = clock.monotonic()

    def seconds_to_next(self) -> float:
        if self._since is None:
            return float("inf")
        return max(0.0, self._since + IDLE_SECONDS - clock.monotonic())

    def trim_when_idle(self) -> None:
        if self._since is not None and self.seconds_to_next() == 0.0:
            self._since = None
            self._store.release_memory()
            gc.collect()
            self._trim(0)
            kernel.forget_code()
