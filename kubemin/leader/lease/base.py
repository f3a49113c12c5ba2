"""The interface of a lease's backend, its record, and the ways in which a request fails.

Raised by backends, caught by the elector, logged by the announcer: users see their messages as reasons. Imports
nothing that talks to a network.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from kubemin.clock import Micros


class LeaseRecord(msgspec.Struct, frozen=True):
    """A lease as one answer showed it."""

    holder: str = ""  # "": nobody's, to be taken at once
    duration: float = 0.0  # seconds, as its holder wrote it; 0: it says nothing
    transitions: int = 0
    uid: str = ""
    version: str = ""  # for compare-and-swap; "": it has to be created
    mark: str = ""  # another text after each renewal; the same when only labels changed
    acquired: str = ""  # RFC 3339, for people
    renewed: str = ""
    expires_in: float | None = None  # seconds, where the backend itself lets a lease lapse
    source: Any = None  # what the backend wants back with the next write


class Claim(msgspec.Struct, frozen=True):
    """What is written to acquire. `transitions` + 1 is the epoch of the term."""

    holder: str
    duration: float
    transitions: int
    at: Micros


class LeaseFailure(Exception):
    """Base. The message is one line for an operator."""


class Unanswered(LeaseFailure):
    """No answer, or one that says nothing about the lease: network, time-out, 429, 5xx. It may have been carried
    out."""

    def __init__(self, message: str, *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Interrupted(Unanswered):
    """Nobody waits for the answer any more: the daemon is stopping."""


class Unauthorized(LeaseFailure):
    """The credentials are not valid (any more): they are read again."""


class Misconfigured(LeaseFailure):
    """It cannot work until somebody changes something: no rights, no namespace, a refused object."""


class Conflict(LeaseFailure):
    """The lease is not as it was read. Who has it now is to be read again."""


class Missing(LeaseFailure):
    """There is no such lease."""


class LeaseBackend(Protocol):
    """Called by one thread at a time. A request takes `timeout` seconds at most, or what the network makes of it: the
    elector does not rely on it. Every method may raise each LeaseFailure."""

    @property
    def kind(self) -> str:
        """kubernetes or redis."""

    @property
    def place(self) -> str:
        """For messages: `Lease min-cli-system/apiserver-lock`."""

    @property
    def recreates(self) -> bool:
        """Whether a leader whose lease was deleted makes it again (Lease), or has lost its term (Redis lock)."""

    def read(self, timeout: float) -> LeaseRecord | None:
        """The lease as it is now, never from a cache; None: there is none."""

    def probe(self, timeout: float) -> str:
        """Whether it can be read and written, for a diagnosis: nothing is changed. Its holder; raises what the others
        do."""

    def acquire(self, seen: LeaseRecord | None, claim: Claim, timeout: float) -> LeaseRecord:
        """Take the lease just as it was `seen` (None: create it). Raises Conflict when somebody else was faster. The
        answer's transitions may be higher than claimed, never lower."""

    def renew(self, held: LeaseRecord, at: Micros, timeout: float) -> LeaseRecord:
        """Raises Conflict, Missing."""

    def release(self, held: LeaseRecord, at: Micros, timeout: float) -> None:
        """Leave it to whoever comes next, transitions kept. Raises Conflict, Missing."""

    def reconnect(self) -> None:
        """Use new connections and read the credentials again; a request that still hangs keeps its own."""

    def close(self) -> None: ...
