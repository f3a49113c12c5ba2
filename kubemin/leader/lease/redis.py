"""The lease as a lock in Redis, for fleets without Kubernetes; and the record of which backend a fleet uses.

Redis lets the lock lapse by itself, by its own clock; only its owner prolongs or releases it, in one script each. A
lock that is missing at a renewal (FLUSHALL, a restart without persistence) is a lost term: nobody can tell whose it
is.

Imports no driver. A `ScriptCaller` is one connection of its own, never the one that the node's work uses: a request
that hangs here must not hang there. It raises `kubemin.errors.StoreUnavailable` for whatever the server or the
network does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any, Protocol

import msgspec

from kubemin.clock import Micros, rfc3339
from kubemin.errors import StoreUnavailable
from kubemin.leader.lease.base import Claim, Conflict, LeaseRecord, Misconfigured, Missing, Unanswered

SCRIPTS = ("look", "acquire", "renew", "release", "agree")


class ScriptCaller(Protocol):
    """One connection that runs scripts: `text` is sent once and then called by its SHA. Strings come back as bytes."""

    def call(self, text: str, keys: Sequence[str], args: Sequence[str | int], timeout: float) -> Any: ...

    def close(self) -> None: ...


class LeaderKeys(msgspec.Struct, frozen=True):
    """The keys of the election, all in one hash slot; a fleet's are `caller.FLEET_KEYS`."""

    lock: str
    epoch: str
    backend: str


@functools.cache
def script(name: str) -> str:
    """The text of one of SCRIPTS."""
    return (resources.files(__package__) / "lua" / f"{name}.lua").read_text()


class _Line:
    """One connection at a time, taken out while it is used: who hangs in it keeps it, and the next has a new one."""

    def __init__(self, connect: Callable[[], ScriptCaller]) -> None:
        self._connect = connect
        self._caller: ScriptCaller | None = None

    def call(self, name: str, keys: Sequence[str], args: Sequence[str | int], timeout: float) -> Any:
        caller, self._caller = self._caller, None
        try:
            caller = caller or self._connect()
            reply = caller.call(script(name), keys, args, timeout)
        except StoreUnavailable as exc:
            if caller is not None:
                caller.close()
            raise as_failure(exc) from exc
        self._caller = caller
        return reply

    def close(self) -> None:
        caller, self._caller = self._caller, None
        if caller is not None:
            caller.close()


class RedisLease:
    """`connect` opens a ScriptCaller; it is called again after a request that hung."""

    kind = "redis"
    recreates = False

    def __init__(self, connect: Callable[[], ScriptCaller], keys: LeaderKeys, duration: float) -> None:
        self._line = _Line(connect)
        self._keys = keys
        self._life = round(duration * 1000)
        self.place = f"Redis lock {keys.lock}"

    # --- the interface ------------------------------------------------------------------------------------------------

    def read(self, timeout: float) -> LeaseRecord | None:
        value, left = self._call("look", [self._keys.lock], [], timeout)
        return None if value is None else self._record(value, left)

    def probe(self, timeout: float) -> str:
        record = self.read(timeout)
        return record.holder if record is not None else ""

    def acquire(self, seen: LeaseRecord | None, claim: Claim, timeout: float) -> LeaseRecord:
        args: list[str | int] = [claim.holder, self._life, claim.transitions + 1, claim.at]
        return self._done(self._call("acquire", [self._keys.lock, self._keys.epoch], args, timeout))

    def renew(self, held: LeaseRecord, at: Micros, timeout: float) -> LeaseRecord:
        args: list[str | int] = [held.holder, held.transitions + 1, self._life]
        return self._done(self._call("renew", [self._keys.lock], args, timeout))

    def release(self, held: LeaseRecord, at: Micros, timeout: float) -> None:
        args: list[str | int] = [held.holder, held.transitions + 1, self._life, at]
        self._done(self._call("release", [self._keys.lock], args, timeout))

    def reconnect(self) -> None:
        """Nothing to do: a request that hangs has taken its connection along."""

    def close(self) -> None:
        self._line.close()

    # --- requests -----------------------------------------------------------------------------------------------------

    def _call(self, name: str, keys: list[str], args: Sequence[str | int], timeout: float) -> Any:
        return self._line.call(name, keys, args, timeout)

    def _done(self, reply: Sequence[Any]) -> LeaseRecord:
        done, value, left = reply
        if done == 1:
            return self._record(value, left)
        if done == -1:
            raise Missing(f"{self.place} is gone")
        raise Conflict(f"{self.place} has another holder")

    def _record(self, value: bytes, left: int) -> LeaseRecord:
        epoch, _, rest = value.decode().partition(" ")
        acquired, _, holder = rest.partition(" ")
        if not (epoch.isdigit() and acquired.isdigit()):
            raise Misconfigured(f"{self.place} holds what no kubemin wrote; delete it")
        if left == -1:
            raise Misconfigured(f"{self.place} has no life time: somebody removed it; delete the key")
        return LeaseRecord(
            holder=holder,
            duration=self._life / 1000,
            transitions=int(epoch) - 1,
            version=epoch,
            mark=f"{value.decode()} {left}",
            acquired=rfc3339(int(acquired)) or "",
            expires_in=max(left, 0) / 1000,
        )


class Agreement:
    """One backend for a whole fleet: two nodes with different ones would each elect a leader."""

    def __init__(self, connect: Callable[[], ScriptCaller], key: str) -> None:
        self._line = _Line(connect)
        self._key = key

    def check(self, place: str, timeout: float) -> None:
        """Raises Misconfigured when the fleet uses another backend, Unanswered when Redis cannot say."""
        in_force = bytes(self._line.call("agree", [self._key], [place], timeout)).decode()
        if in_force != place:
            raise Misconfigured(
                f"this fleet elects its leader by {in_force}, this node by {place}: set leaderElection here as on the"
                f" other nodes; to change it for all, stop all nodes and delete the Redis key {self._key}"
            )


def as_failure(exc: StoreUnavailable) -> Unanswered | Misconfigured:
    return Misconfigured(str(exc)) if exc.fatal else Unanswered(str(exc))
