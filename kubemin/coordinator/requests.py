"""What each client request does: one small function an op, called inside the loop's transaction.

They check before they write and raise `KubeminError`s, which become the reply; none touches a socket.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from kubemin import __version__
from kubemin.coordinator.server import Request
from kubemin.errors import Invalid
from kubemin.model.graph import flaw
from kubemin.model.records import Definition, Submission
from kubemin.store.base import SLICE, Store

_submissions = msgspec.json.Decoder(list[Submission])
_definitions = msgspec.json.Decoder(list[Definition])


def _submit(store: Store, request: Request) -> Any:
    submissions = _submissions.decode(request.submissions)
    if len(submissions) > SLICE:
        raise Invalid(f"{len(submissions)} submissions in one request; more than {SLICE} go by stage and seal")
    definitions = _definitions.decode(request.definitions)
    for definition in definitions:
        if reason := flaw(definition.graph):
            raise Invalid(f"the definition {definition.hash} cannot be run: {reason}")
    if definitions:
        store.define(definitions)
    return store.submit(submissions)


def _stage(store: Store, request: Request) -> None:
    store.stage(request.batch, bytes(request.submissions))


def _seal(store: Store, request: Request) -> int:
    return store.seal(request.batch)


def _cancel(store: Store, request: Request) -> bool:
    return store.cancel(request.run)


def _retry(store: Store, request: Request) -> int:
    return store.retry(request.run, request.step)


def _pause(store: Store, request: Request) -> None:
    store.pause(request.queue)


def _resume(store: Store, request: Request) -> None:
    store.resume(request.queue)


def _ping(store: Store, request: Request) -> dict[str, str]:
    return {"version": __version__, "mode": "local"}


OPERATIONS: dict[str, Callable[[Store, Request], Any]] = {
    "submit": _submit,
    "stage": _stage,
    "seal": _seal,
    "cancel": _cancel,
    "retry": _retry,
    "pause": _pause,
    "resume": _resume,
    "ping": _ping,
}


def carry_out(store: Store, request: Request) -> Any:
    """The reply's value. Raises KubeminError, with nothing written."""
    operation = OPERATIONS.get(request.op)
    if operation is None:
        raise Invalid(f"unknown request {request.op!r}; this daemon is kubemin {__version__}")
    try:
        return operation(store, request)
    except msgspec.DecodeError as exc:
        raise Invalid(f"{request.op}: {exc}") from exc
