"""What all operations share: the client, known graphs, the request's common part, what a script tells beside its
result."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from kubemin import chance
from kubemin import clock as clocks
from kubemin.clock import SECOND, Micros, WallClock
from kubemin.model.records import Definition
from kubemin.model.references import ReferenceMissing
from kubemin.model.states import Cause
from kubemin.signing import Signer, Unsigned
from kubemin.store.base import CRASH_LIMIT, LOSS_LIMIT, Change
from kubemin.store.codec import decode, decode_graph, label_of
from kubemin.store.inputs import Round
from kubemin.store.plans import CorruptDefinition, Plans
from kubemin.store.redis import keys
from kubemin.store.redis.client import Client
from kubemin.store.redis.inputs import Inputs
from kubemin.store.redis.records import NewerRecord, Spoilt, pack, read_run, version_of
from kubemin.store.redis.signatures import Signatures, cause_of, is_named
from kubemin.store.redis.signed_inputs import SignedInputs

RECORDS = 100  # that one script may touch: 1 to 4 ms
MOST_CHANGES = 10_000  # that nobody asked for; older ones are dropped
MOST_LABELS = 200  # more than a worker holds at once
FOLLOW_UP = 4  # slices that one operation may go on with what its script had to leave
TIME_LIFE = 1.0  # seconds that a reading of the server's clock is used for stamps of ordinary ends


class Session:
    """`clock` is for tests: in its absence every instant is the server's own."""

    def __init__(
        self,
        client: Client,
        *,
        instance: str,
        node: str,
        clock: WallClock | None,
        slice_size: int,
        window: int,
        version: int,
    ) -> None:
        self.client = client
        self.instance = instance
        self.node = node
        self.clock = clock
        self.version = version
        self.slice = min(slice_size, RECORDS)
        self.whole = slice_size  # nodes of a graph that is unpacked when it is accepted
        self._follow_up = FOLLOW_UP * slice_size if slice_size >= RECORDS else 0
        self.plans = Plans(self._definition)
        self.inputs: Inputs = Inputs(client)
        self.signatures: Signatures | None = None  # in a fleet that signs
        self.changes: deque[Change] = deque(maxlen=MOST_CHANGES)
        self.left = False  # work is left for `advance`
        self.term: tuple[int, str] | None = None  # epoch and holder, when this node leads
        self._common: dict[str, Any] = {
            "slice": min(slice_size, RECORDS),
            "window": window,
            "crash_limit": CRASH_LIMIT,
            "loss_limit": LOSS_LIMIT,
            "version": version,
        }
        self._labels: dict[str, str] = {}  # of single tasks that were claimed here, by run
        self._left_out: dict[str, str] = {}  # what could not be read, and why
        self.on_failure: tuple[str, ...] = ()  # argv, of this node's settings
        self._offset = 0.0
        self._read_at = self._known_until = float("-inf")

    def trust(self, signer: Signer | None, life: float) -> None:
        """Sign what is written from here on, and believe only what is signed. None: as without signing."""
        self.plans = Plans(self._definition)  # what was read before was not verified
        self.signatures = None if signer is None else Signatures(signer, self.client, self.plans, life)
        if self.signatures is None:
            self.inputs = Inputs(self.client)
        else:
            self.inputs = SignedInputs(self.client, self.plans, self.signatures)

    # --- time --------------------------------------------------------------------------------------------------------

    def now(self) -> Micros:
        """The server's time, read a moment ago and carried on by our own steady clock."""
        if self.clock is not None:
            return self.clock()
        here = time.monotonic()
        if here > self._known_until:
            self._read_time(here)
        return int(here * SECOND + self._offset)

    def keep_time(self, seconds: float) -> None:
        """So that `now` asks nobody within these seconds: then somebody will wait for what we do."""
        here = time.monotonic()
        if here > self._read_at + TIME_LIFE:
            self._read_time(here)
        self._known_until = max(self._known_until, here + seconds)

    def _read_time(self, here: float) -> None:
        seconds, micros = self.client.execute("TIME")
        self._offset = int(seconds) * SECOND + int(micros) - here * SECOND
        self._read_at, self._known_until = here, here + TIME_LIFE

    def shift(self) -> Micros:
        """To be added to an instant by this machine's wall clock, to have the server's."""
        return 0 if self.clock is not None else self.now() - clocks.wall()

    # --- calls -------------------------------------------------------------------------------------------------------

    def request(self, **more: Any) -> bytes:
        if self.clock is not None:
            more["now"] = self.clock()
        return pack(more)

    def engine_request(self, **more: Any) -> dict[str, Any]:
        request = {**self._common, "spread": chance.fraction(), **more}
        if self.on_failure:
            request["hook"] = True
        if self.clock is not None:
            request["now"] = self.clock()
        return request

    def duty(self, **more: Any) -> dict[str, Any]:
        """With the leader's term, where this node has one: the script compares it."""
        if self.term is not None:
            more["epoch"], more["holder"] = self.term
        return more

    def run_many(self, name: str, touched: Sequence[str], calls: Iterable[Sequence[Any]]) -> list[Any]:
        """One script with several sets of arguments, sent together."""
        return self.client.run_many(name, touched, ((keys.PREFIX, *arguments) for arguments in calls))

    def engine(self, name: str, touched: Sequence[str], *, follow: bool = True, **request: Any) -> Any:
        """Run an operation of the engine, and what it leaves to this side: items of fan-outs, what to tell."""
        result, left, fans, events = self._run(name, touched, request)
        self.take(left, fans, events)
        if left and follow:
            self.follow_up()
        return result

    def _run(self, name: str, touched: Sequence[str], request: dict[str, Any]) -> Any:
        return self.client.run(name, touched, keys.PREFIX, pack(self.engine_request(**request)))

    def follow_up(self) -> None:
        """Go on with what a script had to leave, so that nobody has to be waited for. A crash here loses nothing."""
        spent = 0
        while spent < self._follow_up:
            self.left = False
            for version in self.versions:
                self.engine("advance", self.cursors(version), follow=False, limit=self.slice)
            spent += self.slice
            if not self.left:
                return

    @property
    def versions(self) -> range:
        """Of records that this node knows, oldest first."""
        return range(1, self.version + 1)

    @staticmethod
    def cursors(version: int) -> tuple[str, str]:
        """What `advance` goes on with."""
        return keys.ripples(version), keys.fans(version)

    def take(self, left: int, fans: Sequence[Any], events: Sequence[bytes]) -> None:
        for event in events:
            self._tell(decode(event))
        self.left = self.left or bool(left)
        for run, idx, turn in fans:
            self._begin_fan(run.decode(), int(idx), int(turn))

    # --- fan-outs ----------------------------------------------------------------------------------------------------

    def _begin_fan(self, run: str, idx: int, turn: int) -> None:
        total, message, cause, version = -1, "", Cause.REFERENCE, 1
        raw = self.client.execute("HGET", keys.run(run), "r")
        if raw is not None:
            version = version_of(raw)
            try:
                record = read_run(raw, self.version, run)
                plan = self.plans.get(record.d)
                total = len(self.inputs.items(plan, idx, Round(run, record.W, turn, record.sc)))
            except (ReferenceMissing, CorruptDefinition, Spoilt, ValueError) as error:
                message = str(error)
            except Unsigned as error:
                message, cause = str(error), cause_of(error)
        touched = (keys.run(run), keys.tasks(run), keys.fans(version))
        self.engine("fan", touched, id=run, idx=idx, round=turn, total=total, cause=cause.value, message=message)

    # --- telling -----------------------------------------------------------------------------------------------------

    def _tell(self, event: list[Any]) -> None:
        what, run, workflow, node, item, idx, state, cause, attempt, message, digest, seconds, waited = event
        if what in ("locked", "newer"):
            self.changes.append(Change(what, run, "", task=f"{run}.{idx}", message=message))
            return
        if not digest:
            label = self._labels.get(run) or self.solo_label(run)
            self.changes.append(Change(what, run, label, "", "", state, cause, attempt, message, True, seconds, waited))
            return
        step = task = ""
        if node >= 0:
            step = self._step_path(digest, node, item)
            task = f"{run}.{idx}"
        self.changes.append(Change(what, run, workflow, step, task, state, cause, attempt, message, False, seconds))

    def _step_path(self, digest: str, node: int, item: int) -> str:
        try:
            plan = self.plans.find(digest)
        except CorruptDefinition:  # whoever is to work with it says so
            return ""
        return "" if plan is None else plan.step_path(node, item)

    def keep_label(self, run: str, label: str) -> None:
        if len(self._labels) >= MOST_LABELS:
            self._labels.clear()
        self._labels[run] = label

    def solo_label(self, run: str) -> str:
        work, extra = self.client.execute("HMGET", keys.run(run), "w", "x")
        return label_of(work or b"", extra)

    # --- graphs ------------------------------------------------------------------------------------------------------

    def _definition(self, digest: str) -> bytes | None:
        """Raises NewerRecord."""
        found: bytes | None
        found, meta = self.client.execute("HMGET", keys.graph(digest), "g", "meta")
        if meta is not None and (version := version_of(meta)) > self.version:
            raise NewerRecord(f"definition {digest[:12]}", version, self.version)
        if self.signatures is not None and found is not None and not is_named(digest, found):
            raise CorruptDefinition(f"definition {digest[:12]} is not what its name says: it was changed")
        return found

    def definition(self, digest: str, published: str | None = None) -> Definition | None:
        """`published`: the workflow that it is said to be of. Raises NewerRecord, CorruptDefinition, and in a fleet
        that signs Unsigned."""
        body = self._definition(digest)
        source, signature = self.client.execute("HMGET", keys.graph(digest), "src", "sig")
        if body is None:
            return None
        try:
            graph, text = decode_graph(body), (source or b"").decode()
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CorruptDefinition(f"definition {digest[:12]} cannot be read: {error}") from error
        if self.signatures is not None and published is not None:
            self.signatures.check_published(published, graph.workflow, digest, signature)
        return Definition(digest, graph, text)

    def leave_out(self, what: str, why: Exception) -> None:
        """Something that this node cannot work with is left as it is. Told once."""
        if self._left_out.get(what) != str(why):
            self._left_out[what] = str(why)
            self.changes.append(Change("left", "", what, message=str(why)))
