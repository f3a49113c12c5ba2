"""A client's way in a fleet: straight to Redis, with the same requests and replies as through the daemon's socket.

Which way is right is the daemon's to say: its mode stands in the scoreboard. With no daemon on this machine a fleet's
client goes to Redis, and never to the file, which no other node would see.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from kubemin import clock, faults
from kubemin.errors import NotDurable, NotFound, Unreachable
from kubemin.model.records import Accepted, Definition, Rejection, Submission
from kubemin.modes import uses_redis
from kubemin.scoreboard import Scoreboard

if TYPE_CHECKING:
    from kubemin.api.gateway import Gateway, Requests
    from kubemin.config import Settings
    from kubemin.store.redis.node import NodeStore

SURE_SECONDS = 0.5  # that an answer about the daemon's mode is relied on
CONFIRMED = frozenset({"submit", "seal"})  # what `durability` is about
MOST_SENT = 1000  # definitions that are known to be there
TRIES = 3  # of a request whose connection breaks before it is known to be durable

Done = list[tuple[str, Any]]  # operations, and what each answered
Act = Callable[["NodeStore"], Done]

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Submission).decode


class Fleet:
    """One process' access to the fleet. Not thread-safe: `Client` holds a lock around `exchange`."""

    def __init__(self, settings: Settings, gateway: Gateway) -> None:
        self._settings = settings
        self._gateway = gateway
        self._store: NodeStore | None = None
        self._asked = float("-inf")
        self._right = True
        self._sent: set[str] = set()  # definitions that the server has, unless it lost them since

    def is_right(self) -> bool:
        """Whether submissions belong into Redis now."""
        now = clock.monotonic()
        if now - self._asked > SURE_SECONDS:
            self._right = self._look()
            self._asked = now
        return self._right

    def ask_again(self) -> None:
        self._asked = float("-inf")

    def _look(self) -> bool:
        """Into the scoreboard of a daemon that lives; its word counts as soon as its coordinator has said one."""
        path = os.path.join(self._settings.runtime_dir, "scoreboard")
        try:
            board = Scoreboard.open(path)
        except Unreachable:
            return True
        try:
            record = board.read_coordinator()
        finally:
            board.close()
        return record is None or not record.pid or uses_redis(record.mode) or not self._gateway.locked()

    def exchange(self, requests: Requests) -> list[msgspec.Raw]:
        """All replies, in order. Raises the first refusal, StoreUnavailable when Redis does not answer, NotDurable."""
        return [msgspec.Raw(_encode(value)) for value in self._perform(lambda store: _carry_out(store, requests))]

    def submit(self, body: bytes, definition: Definition | None) -> Accepted | Rejection:
        """One submission, the short way. Its definition is sent once, and again when the server says that it has none.
        Raises StoreUnavailable, NotDurable, Invalid."""
        one = _decode(body)
        if self._settings.durability == "none":  # by far the most: nothing around it
            return self._submit(self._opened(), one, definition)[0]

        def act(store: NodeStore) -> Done:
            return [("submit", self._submit(store, one, definition))]

        answer: Accepted | Rejection = self._perform(act)[0][0]
        return answer

    def _submit(self, store: NodeStore, one: Submission, definition: Definition | None) -> list[Accepted | Rejection]:
        answers = self._sent_once(store, one, definition)
        faults.point("client.carried")
        return answers

    def _sent_once(
        self, store: NodeStore, one: Submission, definition: Definition | None
    ) -> list[Accepted | Rejection]:
        if definition is None:
            return store.submit([one])
        if definition.hash in self._sent:
            answers = store.submit([one])
            if not any(isinstance(each, Rejection) and each.exit_code == NotFound.exit_code for each in answers):
                return answers
        store.define([definition])
        if len(self._sent) >= MOST_SENT:
            self._sent.clear()
        self._sent.add(definition.hash)
        return store.submit([one])

    def _perform(self, act: Act) -> list[Any]:
        store = self._opened()
        if self._settings.durability == "none":
            return [value for _, value in act(store)]
        return self._durably(store, act)

    def _opened(self) -> NodeStore:
        if self._store is None:
            self._store = self.open()
        return self._store

    def _durably(self, store: NodeStore, act: Act) -> list[Any]:
        """Once more when the connection was made anew meanwhile: it may lead to a server that has not got the runs."""
        wanted, created = self._settings.durability, set[str]()
        for _ in range(TRIES):
            store.durability.require(wanted)
            serial = store.client.serial
            done = act(store)
            created |= {each.id for each in _accepted(done) if each.created}
            if any(op in CONFIRMED for op, _ in done):
                self._confirm(store, wanted, [each.id for each in _accepted(done)])
            if store.client.serial == serial:
                return [_as_created(value, created) for _, value in done]
        raise Unreachable(f"Redis at {store.client.where} keeps closing the connection; what it kept is not known")

    def _confirm(self, store: NodeStore, wanted: str, runs: list[str]) -> None:
        try:
            store.durability.confirm(wanted)
        except NotDurable as exc:
            told = NotDurable(f"accepted{_named(runs)}, but {exc}")
            told.runs = tuple(runs)
            raise told from exc

    def open(self) -> NodeStore:
        """A connection of the caller's own."""
        from kubemin.store.redis.opening import open_store

        return open_store(self._settings, name="kubemin-client", reads=True)

    def disconnect(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None


def _carry_out(store: NodeStore, requests: Requests) -> Done:
    from kubemin.api.direct import carry_out

    done = []
    for body in requests():
        done.append(carry_out(store, body))
        faults.point("client.carried")
    return done


def _accepted(done: Done) -> list[Accepted]:
    return [each for op, value in done if op == "submit" for each in value if isinstance(each, Accepted)]


def _as_created(value: Any, created: set[str]) -> Any:
    """What the first try created is ours, also when the second found it there."""
    if not isinstance(value, list):
        return value
    return [Accepted(each.id, True) if isinstance(each, Accepted) and each.id in created else each for each in value]


def _named(runs: list[str]) -> str:
    if not runs:
        return ""
    return f" as run {runs[0]}" + (f" and {len(runs) - 1} more" if len(runs) > 1 else "")
