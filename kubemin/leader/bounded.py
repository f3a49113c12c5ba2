"""Calls that end on time, whatever the network does: each runs in a thread, and nobody waits longer than was said.

A time-out of a socket bounds one read, not a name look-up, a TLS handshake or an answer that drips in byte by byte.
Here the caller leaves when its time is up; the thread that still hangs is abandoned, and its answer is thrown away
when it comes. May touch: threads. For the coordinator only: it never forks.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from kubemin.clock import Micros
from kubemin.leader.lease.base import Claim, Interrupted, LeaseBackend, LeaseRecord, Unanswered

T = TypeVar("T")
MOST_ABANDONED = 8  # threads that hang at once; more would mean that nothing ever ends


class TimedOut(Unanswered):
    """The call still hangs, in a thread that nobody waits for."""


class _Job:
    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.woken = threading.Event()  # by its end, or by an interruption
        self.ended = False
        self.value: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.value = self.function()
        except BaseException as exc:
            self.error = exc
        self.ended = True
        self.woken.set()


class BoundedCalls:
    """One call at a time; `interrupt` may come from any thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[_Job | None] | None = None
        self._abandoned: list[_Job] = []
        self._current: _Job | None = None
        self._interrupted = threading.Event()

    def call(self, function: Callable[[], T], timeout: float) -> T:
        """Its result or its exception. Raises TimedOut after `timeout` seconds, Interrupted when told so."""
        job = self._current = _Job(function)
        if not self._interrupted.is_set():
            self._queue().put(job)
            job.woken.wait(max(timeout, 0.0))
        self._current = None
        if self._interrupted.is_set():
            self._abandon(job)
            raise Interrupted("stopped waiting for an answer")
        if not job.ended:
            self._abandon(job)
            raise TimedOut(f"no answer within {timeout:.1f} s")
        if job.error is not None:
            raise job.error
        value: T = job.value
        return value

    def interrupt(self) -> None:
        """Whoever waits for an answer stops waiting, and nobody begins to, until `resume`."""
        self._interrupted.set()
        job = self._current
        if job is not None:
            job.woken.set()

    def resume(self) -> None:
        self._interrupted.clear()

    def close(self) -> None:
        if self._jobs is not None:
            self._jobs.put(None)
            self._jobs = None

    def _queue(self) -> queue.SimpleQueue[_Job | None]:
        self._abandoned = [job for job in self._abandoned if not job.ended]
        if len(self._abandoned) >= MOST_ABANDONED:
            raise Unanswered(f"{MOST_ABANDONED} requests hang; waiting for one of them to end")
        if self._jobs is None:
            self._jobs = queue.SimpleQueue()
            threading.Thread(target=_serve, args=(self._jobs,), name=self._name, daemon=True).start()
        return self._jobs

    def _abandon(self, job: _Job) -> None:
        if self._jobs is not None and not job.ended:
            self._abandoned.append(job)
            self.close()


def _serve(jobs: queue.SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        job.run()


class BoundedBackend:
    """A lease's backend whose requests end on time. One that hung is left with its connection: the next has a new
    one."""

    def __init__(self, backend: LeaseBackend, calls: BoundedCalls) -> None:
        self._backend = backend
        self._calls = calls
        self.kind, self.place, self.recreates = backend.kind, backend.place, backend.recreates

    def read(self, timeout: float) -> LeaseRecord | None:
        return self._call(lambda: self._backend.read(timeout), timeout)

    def probe(self, timeout: float) -> str:
        return self._call(lambda: self._backend.probe(timeout), timeout)

    def acquire(self, seen: LeaseRecord | None, claim: Claim, timeout: float) -> LeaseRecord:
        return self._call(lambda: self._backend.acquire(seen, claim, timeout), timeout)

    def renew(self, held: LeaseRecord, at: Micros, timeout: float) -> LeaseRecord:
        return self._call(lambda: self._backend.renew(held, at, timeout), timeout)

    def release(self, held: LeaseRecord, at: Micros, timeout: float) -> None:
        self._call(lambda: self._backend.release(held, at, timeout), timeout)

    def reconnect(self) -> None:
        self._backend.reconnect()

    def close(self) -> None:
        self._calls.close()

    def _call(self, function: Callable[[], T], timeout: float) -> T:
        try:
            return self._calls.call(function, timeout)
        except (TimedOut, Interrupted):
            self._backend.reconnect()
            raise
