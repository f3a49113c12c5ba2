"""The Python API: submit workflows, enqueue functions, look at runs and wait for them (design section 7).

    client = kubemin.Client.from_config()
    run = client.submit("nightly-report", params={"day": "2026-11-24"}, key="report-2026-11-24")
    run.wait(timeout=60)                                   # -> "completed"
    client.enqueue("reports.load:run", 1, rows=2).wait()   # one Python task

Writes go through `api.gateway` (the daemon's socket, or the file when no daemon runs); reads open the file read-only.
A client may be shared by threads, and used on both sides of a fork: each process opens its own connection.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import msgspec

from kubemin.api import naming
from kubemin.api.enqueue import Options
from kubemin.api.files import Files
from kubemin.api.gateway import Connection, Gateway, Moved, Requests
from kubemin.api.options import Duration, Instant, RetryPolicy, past, queue_name, run_key, run_state, start_at
from kubemin.api.payload import Call, Function, encode_json, slices
from kubemin.api.readers import Readers
from kubemin.api.replies import decode_replies, rejection
from kubemin.api.run import Run
from kubemin.api.waiting import Waiting
from kubemin.errors import NotFound, Refused, StoreUnavailable
from kubemin.model.ids import run_id
from kubemin.model.records import Accepted, Definition, Rejection, RunView, Submission
from kubemin.modes import in_fleet
from kubemin.task import at_end

if TYPE_CHECKING:
    from kubemin.api.carried import CarriedReader
    from kubemin.api.fleet import Fleet
    from kubemin.config import Settings
    from kubemin.store.base import QueueView, Reader, WorkflowView
    from kubemin.store.redis.node import NodeStore

AT_ONCE = 500  # submissions in one request: more at once cost the coordinator memory that it does not get back
PART_BYTES = 8 * 1024 * 1024  # of one request

_encode = msgspec.json.Encoder().encode
_decode_bool = msgspec.json.Decoder(bool).decode
_decode_int = msgspec.json.Decoder(int).decode


class Client:
    """One node's engine. Closing is optional; it is a context manager too."""

    def __init__(self, *, state_dir: str, runtime_dir: str, workflows_dir: str = "") -> None:
        self.state_dir = state_dir
        self.runtime_dir = runtime_dir
        self.workflows_dir = workflows_dir
        self._gateway = Gateway(state_dir, runtime_dir)
        self._fleet: Fleet | None = None  # of a node that is configured to be in one
        self._node = ""
        self._lock = threading.Lock()
        self._readers = Readers(state_dir)
        self._files = Files()
        self._plain = Options(self)
        _clients.add(self)

    @classmethod
    def from_config(cls, path: str | None = None) -> Client:
        """The engine that `path`, KUBEMIN_CONFIG or the default configuration file names. Raises Invalid.

        In a Python step, without `path`: the engine that runs it.
        """
        from kubemin.config import settings_in_force

        return cls.from_settings(settings_in_force(path))

    @classmethod
    def from_settings(cls, settings: Settings) -> Client:
        client = cls(
            state_dir=str(settings.state_dir),
            runtime_dir=str(settings.runtime_dir),
            workflows_dir=str(settings.workflows_dir or ""),
        )
        if in_fleet(settings):
            client._join(settings)
        return client

    def _join(self, settings: Settings) -> None:
        from kubemin.api.fleet import Fleet

        self._node = settings.node_id
        self._fleet = self._readers.fleet = fleet = Fleet(settings, self._gateway)
        self._gateway.moved = fleet.is_right

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection and of this thread's reader; the next use opens them again."""
        with self._lock:
            self._gateway.disconnect()
            if self._fleet is not None:
                self._fleet.disconnect()
        self._readers.close_mine()

    # --- writing ---

    def submit(
        self,
        workflow: str | os.PathLike[str] | Definition,
        params: Mapping[str, Any] | None = None,
        key: str | None = None,
        delay: Duration | None = None,
        at: Instant | None = None,
    ) -> Run:
        """Start a workflow: by its published name, from a file, or a compiled definition.

        A text with a "/" or that ends in .yaml, .yml or .json is a file. A second submission with the same `key` is the
        first run. Raises Invalid with all problems, NotFound, Refused, Unreachable.
        """
        given = dict(params or {})
        encode_json(given, "params")
        when = start_at(delay, at)
        definition = self._definition(workflow)
        from kubemin.files import bind_params

        return self.submit_definition(definition, bind_params(definition.graph, given), run_key(key), when)

    def options(
        self,
        *,
        queue: str | None = None,
        timeout: Duration | None = None,
        retry: RetryPolicy | None = None,
        key: str | None = None,
        delay: Duration | None = None,
        at: Instant | None = None,
    ) -> Options:
        """How calls made on the result are run: `client.options(queue="etl").enqueue(load, 1)`."""
        return Options(self, queue=queue, timeout=timeout, retry=retry, key=key, delay=delay, at=at)

    def enqueue(self, function: Function, *args: Any, **kwargs: Any) -> Run:
        """One Python task: `enqueue("pkg.mod:func", 1, rows=2)`, or an importable function. See `Options.enqueue`."""
        return self._plain.enqueue(function, *args, **kwargs)

    def enqueue_many(self, function: Function, calls: Iterable[Call]) -> list[Run]:
        """Many Python tasks in one commit: `enqueue_many(f, [((1,), {"rows": 2}), …])`. See `Options.enqueue_many`."""
        return self._plain.enqueue_many(function, calls)

    def map(self, function: Function, items: Iterable[Any], then: Function | None = None) -> Run:
        """One task an item, then one with the list of results. See `Options.map`."""
        return self._plain.map(function, items, then)

    def cancel(self, run: str | Run) -> bool:
        """Stop a run; False when that was asked before. Raises Refused when it has ended, NotFound."""
        try:
            return _decode_bool(self._call(op="cancel", run=_id(run)))
        except NotFound:
            if not self.in_fleet:
                raise
            return self._carried().cancel_later(_id(run), self._node)

    def retry(self, run: str | Run, step: str | None = None) -> int:
        """Run what did not complete again (or `step` and all after it); the new round. Raises Refused, NotFound."""
        before = self.reader().run(_id(run)).round
        try:
            return _decode_int(self._call(op="retry", run=_id(run), step=step))
        except NotFound:
            if self.in_fleet:
                self._carried().not_ended(_id(run))
            raise
        except Refused:
            now = self.reader().run(_id(run)).round
            if now > before:  # the answer to a first try was lost with its connection
                return now
            raise

    def pause(self, queue: str) -> None:
        """Workers take no more tasks from this queue; running ones go on."""
        self._call(op="pause", queue=queue_name(queue))

    def resume(self, queue: str) -> None:
        self._call(op="resume", queue=queue)

    # --- reading ---

    def run(self, run: str | Run) -> Run:
        """A run by its id. Nothing is asked before something of it is looked at."""
        return Run(self, _id(run))

    def runs(
        self,
        *,
        status: str | None = None,
        workflow: str | None = None,
        since: Instant | None = None,
        until: Instant | None = None,
        key: str | None = None,
        params: Mapping[str, str] | None = None,
        limit: int = 100,
    ) -> list[RunView]:
        """Newest first, without their tasks. `since` and `until` also take text like "1h" (an hour ago)."""
        from kubemin.store.base import RunFilter

        where = RunFilter(
            status=None if status is None else run_state(status),
            workflow=workflow,
            since=past(since, "since"),
            until=past(until, "until"),
            key=key,
            params=dict(params or {}),
            limit=limit,
        )
        return self.reader().runs(where)

    def states(self, ids: Iterable[str | Run], *, anew: bool = False) -> dict[str, str]:
        """Id -> state of any number of runs, in one read; unknown ids are absent. `anew`: what is remembered of the
        daemon's mode is asked again."""
        if anew and self._fleet is not None:
            self._fleet.ask_again()
        return {run: state.value for run, state in self.reader().states([_id(run) for run in ids]).items()}

    def outputs(self, ids: Iterable[str | Run]) -> dict[str, dict[str, Any]]:
        """Id -> outputs (step path -> JSON value) of any number of runs, in one read."""
        return self.reader().outputs([_id(run) for run in ids])

    def queues(self) -> list[QueueView]:
        return self.reader().queues()

    def workflows(self) -> list[WorkflowView]:
        return self.reader().workflows()

    def wait(self, runs: Iterable[str | Run], timeout: float | None = None) -> dict[str, str]:
        """Id -> terminal state, once all have one. Raises TimeoutError after `timeout` seconds, NotFound."""
        return Waiting(self, [_id(run) for run in runs], timeout).finish(self._open_wait)

    def _open_wait(self) -> Connection | None:
        """A stream on which a daemon tells of ends; None: they are looked for."""
        return None if self.in_fleet else self._gateway.try_open()

    @property
    def in_fleet(self) -> bool:
        """This node's submissions go to Redis now."""
        return self._readers.in_fleet

    def fleet_store(self) -> NodeStore:
        """This thread's connection to the fleet. Only where `in_fleet`."""
        return self._carried().fleet

    def _carried(self) -> CarriedReader:
        return cast("CarriedReader", self.reader())

    def reader(self) -> Reader:
        """This thread's read-only view of the store. Raises StoreUnavailable."""
        return self._readers.mine()

    # --- submissions, for Options and the command line ---

    def submit_definition(
        self, definition: Definition, params: Mapping[str, Any], key: str | None, when: int | None
    ) -> Run:
        """A run of a compiled definition; the definition travels along. `params` are bound already."""
        submission = Submission(
            id=run_id(),
            workflow=definition.graph.workflow,
            definition=definition.hash,
            params=dict(params),
            key=key,
            start_at=when,
        )
        return self.submit_bodies([_encode(submission)], definition)[0]

    def submit_bodies(self, bodies: Sequence[bytes], definition: Definition | None = None) -> list[Run]:
        """Submissions as JSON, at most AT_ONCE, in one request. Raises the first rejection."""
        if len(bodies) == 1 and (answer := self._submit_to_fleet(bodies[0], definition)) is not None:
            if isinstance(answer, Rejection):
                raise rejection(answer)
            return [Run(self, answer.id, answer.created)]
        known = b',"definitions":[' + _encode(definition) + b"]" if definition is not None else b""
        request = b'{"op":"submit","submissions":[' + b",".join(bodies) + b"]" + known + b"}"
        replies = decode_replies(self._exchange([request])[0])
        rejected = next((reply for reply in replies if reply.code), None)
        if rejected is not None:
            raise rejection(rejected)
        return [Run(self, reply.id, reply.created) for reply in replies]

    def _submit_to_fleet(self, body: bytes, definition: Definition | None) -> Accepted | Rejection | None:
        """One submission to Redis, without a request around it. None: it is for the daemon of this machine."""
        fleet = self._fleet
        if fleet is None:
            return None
        with self._lock:
            return fleet.submit(body, definition) if fleet.is_right() else None

    def submit_many(self, bodies: Sequence[bytes]) -> None:
        """Any number of submissions in one commit: by one request, or staged in parts and then sealed."""
        parts = list(slices(bodies, AT_ONCE, PART_BYTES))
        if len(parts) == 1:
            self.submit_bodies(parts[0])
        elif parts:
            self._exchange_many(parts)

    def _exchange_many(self, parts: Sequence[Sequence[bytes]]) -> None:
        def requests() -> Iterable[bytes]:
            batch = run_id()  # a repeat is a new batch of the same runs, so that half a batch is never added to
            head = b'{"op":"stage","batch":"' + batch.encode() + b'","submissions":['
            for part in parts:
                yield head + b",".join(part) + b"]}"
            yield _encode({"op": "seal", "batch": batch})

        with self._lock:
            self._exchange_locked(requests)

    def _call(self, **request: Any) -> msgspec.Raw:
        return self._exchange([_encode(request)])[0]

    def _exchange(self, requests: Sequence[bytes]) -> list[msgspec.Raw]:
        with self._lock:
            return self._exchange_locked(lambda: requests)

    def _exchange_locked(self, requests: Requests) -> list[msgspec.Raw]:
        """To Redis or to the daemon of this machine; the lock is held."""
        fleet = self._fleet
        if fleet is None:
            return self._gateway.exchange(requests)
        if not fleet.is_right():
            try:
                return self._gateway.exchange(requests)
            except Moved:
                self._gateway.disconnect()
        return fleet.exchange(requests)

    def _definition(self, workflow: str | os.PathLike[str] | Definition) -> Definition:
        if isinstance(workflow, Definition):
            return workflow
        if isinstance(workflow, str) and not (os.sep in workflow or workflow.endswith((".yaml", ".yml", ".json"))):
            return self._named(workflow)
        return self._files.load(workflow)

    def _named(self, name: str) -> Definition:
        """The published definition; from the workflow folder while no daemon has published it yet. Raises NotFound."""
        definition = self._published(name) or self._in_folder(name)
        if definition is None:
            raise naming.unknown(self.workflows_dir, name)
        return definition

    def _published(self, name: str) -> Definition | None:
        try:
            return self.reader().definition(name)
        except StoreUnavailable as exc:
            if exc.code == "no_store":
                return None
            raise

    def _in_folder(self, name: str) -> Definition | None:
        if not os.path.isdir(self.workflows_dir) or self._gateway.locked():
            return None
        return naming.in_folder(self.workflows_dir, name)

    def _after_fork(self) -> None:
        """In the child: locks may have been held by threads that are not here, and the open files are the parent's."""
        self._lock = threading.Lock()
        self._readers.after_fork()
        self._gateway.disconnect()
        if self._fleet is not None:
            self._fleet.disconnect()


def _let_go() -> None:
    """After a Python step: what its clients have open is closed. It is no leftover of the step, and opens again."""
    for client in list(_clients):
        if not client._lock.locked():  # else a thread is left that uses it, and the worker is replaced
            client.close()


_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _after_fork() -> None:
    for client in list(_clients):
        client._after_fork()


os.register_at_fork(after_in_child=_after_fork)
at_end(_let_go)


def _id(run: str | Run) -> str:
    return run if isinstance(run, str) else run.id
