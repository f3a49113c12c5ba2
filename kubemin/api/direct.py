"""Requests carried out by the client itself: on the SQLite file, holding the state directory's lock, or in Redis.

The counterpart of `coordinator/requests.py` for the time when no daemon runs: same bodies in, same replies out, all in
one transaction. What a daemon has to do later (unpacking, starting) is left to its next start.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from kubemin.errors import Invalid, KubeminError
from kubemin.model.records import Definition, Submission
from kubemin.modes import Mode
from kubemin.store.base import Store


class _Request(msgspec.Struct):
    op: str
    submissions: msgspec.Raw = msgspec.Raw(b"[]")
    definitions: list[Definition] = []
    batch: str = ""
    run: str = ""
    step: str | None = None
    queue: str = ""


_decode = msgspec.json.Decoder(_Request).decode
_submissions = msgspec.json.Decoder(list[Submission]).decode
_encode = msgspec.json.Encoder().encode


def _submit(store: Store, request: _Request) -> Any:
    if request.definitions:
        store.define(request.definitions)
    return store.submit(_submissions(request.submissions))


_OPERATIONS: dict[str, Callable[[Store, _Request], Any]] = {
    "submit": _submit,
    "stage": lambda store, request: store.stage(request.batch, bytes(request.submissions)),
    "seal": lambda store, request: store.seal(request.batch),
    "cancel": lambda store, request: store.cancel(request.run),
    "retry": lambda store, request: store.retry(request.run, request.step),
    "pause": lambda store, request: store.pause(request.queue),
    "resume": lambda store, request: store.resume(request.queue),
}


def carry_out_all(path: str, bodies: Iterable[bytes]) -> list[bytes]:
    """Replies, after the commit. Nothing is written when one request cannot be carried out."""
    from kubemin.store.sqlite.store import SqliteStore

    store = SqliteStore(path, instance=uuid.uuid4().hex)
    try:
        with store.group():
            store.enter(Mode.LOCAL)  # by this client's configuration; a fleet's client never comes here
            replies = [_encode({"ok": carry_out(store, body)[1]}) for body in bodies]
        return replies  # noqa: RET504 - the commit comes first
    finally:
        store.close()


def carry_out(store: Store, body: bytes) -> tuple[str, Any]:
    """One request: its operation and what it answers. Raises KubeminError."""
    request = _decode(body)
    operation = _OPERATIONS.get(request.op)
    if operation is None:
        raise KubeminError(f"{request.op} needs a running daemon; start it: systemctl start kubemin, or kubemind")
    try:
        return request.op, operation(store, request)
    except msgspec.DecodeError as exc:
        raise Invalid(f"{request.op}: {exc}") from exc
