"""What is signed in a fleet's records, and the check of it: nothing that Redis says is run before it was here.

| record | signed parts | signature stands in |
|---|---|---|
| single task | run id, work, and what it has beside it: label, time-out, retry, start, key | `sig` of its field `x` |
| run of a workflow | run id, workflow, definition, parameters, key, start, schedule's slot, round | its field `sig` |
| published workflow | definition, which holds the name | field `sig` of the definition |
| output of a step | run id, step's path, token, and the output | `sig` of the task's detail |

A definition is named by its SHA-256, so that a signed run pins its graph. Whoever submits signs; a node signs what it
fires, publishes and carries from its own disk, and verifies before it signs what it has read in Redis, so that nobody
has it sign for him. Signatures travel with staged batches: who unpacks them signs nothing.

May touch: records of runs, by reading. A verified run is remembered; every check of a claim is against that copy.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import msgspec

from kubemin import clock
from kubemin.clock import SECOND, Micros
from kubemin.model.graph import Node
from kubemin.model.records import Claim, Outcome
from kubemin.model.states import Cause, Kind, TaskState
from kubemin.signing import Signer, Unsigned
from kubemin.store.codec import Extra, decode_detail, decode_extra, encode
from kubemin.store.inputs import Round
from kubemin.store.plans import CorruptDefinition, Plan, Plans
from kubemin.store.redis import keys
from kubemin.store.redis.records import RunRecord, TaskRecord, unpack_run

if TYPE_CHECKING:
    from kubemin.store.redis.client import Client

CACHED = 64  # verified runs in progress
SHORTEST_LIFE = 86_400.0  # seconds that a signed run may be begun in, whatever the retention


class TooOld(Unsigned):
    """Signed, and longer ago than runs are kept: a replay, for all that a node can know."""

    code = "replayed"


class Seal(msgspec.Struct, frozen=True):
    """A run of a workflow whose signature was verified, as it was signed."""

    run: str
    workflow: str
    definition: str
    params: bytes
    key: str | None
    start_at: Micros | None
    scheduled_at: Micros | None
    round: int
    at: Micros = 0  # when it was signed

    @property
    def turn(self) -> Round:
        return Round(self.run, self.workflow, self.round, self.scheduled_at)

    def parts(self) -> tuple[Any, ...]:
        return ("run", self.run, self.workflow, self.definition, self.params, self.key, self.start_at,
                self.scheduled_at, self.round)  # fmt: skip


def seal_of(run: str, record: RunRecord, params: bytes | None) -> Seal:
    return Seal(run, record.W, record.d, params or b"", record.ky, record.sa, record.sc, record.R)


class Signatures:
    """`life`: seconds for which a signed run may be begun; longer ago is refused."""

    def __init__(self, signer: Signer, client: Client, plans: Plans, life: float) -> None:
        self.signer = signer
        self._client = client
        self._plans = plans
        self._life = round(max(life, SHORTEST_LIFE) * SECOND)
        self._seals: OrderedDict[str, Seal] = OrderedDict()

    # --- single tasks ------------------------------------------------------------------------------------------------

    def sign_task(self, run: str, work: bytes, extra: Extra) -> str:
        return self.signer.sign(clock.wall(), *_task(run, work, extra))

    def check_task(self, run: str, work: bytes, extra: bytes | None) -> Extra:
        """A single task as Redis has it: what it has beside its work. Raises Unsigned."""
        told = decode_extra(extra) if extra else Extra()
        self._check_age(self.verify_task(run, work, told), told.start_at)
        return told

    def verify_task(self, run: str, work: bytes, extra: Extra) -> Micros:
        return self.signer.verify(extra.sig, *_task(run, work, extra))

    # --- runs of workflows -------------------------------------------------------------------------------------------

    def sign_run(self, seal: Seal) -> str:
        return self.signer.sign(clock.wall(), *seal.parts())

    def verify_run(self, seal: Seal, signature: bytes | None) -> Seal:
        """Raises Unsigned."""
        return msgspec.structs.replace(seal, at=self.signer.verify(_text(signature), *seal.parts()))

    def seal(self, run: str, round_: int | None = None) -> Seal:
        """A run, verified; in this round, where one is asked for. Raises Unsigned."""
        known = self._seals.get(run)
        if known is None or (round_ is not None and known.round != round_):
            known = self._seals[run] = self._read(run)
            if len(self._seals) > CACHED:
                self._seals.popitem(last=False)
        self._check_age(known.at, known.start_at)
        return known

    def _read(self, run: str) -> Seal:
        record, params, signature = self._client.execute("HMGET", keys.run(run), "r", "p", "sig")
        if record is None:
            raise Unsigned("its run is gone")
        return self.verify_run(seal_of(run, unpack_run(record), params), signature)

    def _check_age(self, at: Micros, start_at: Micros | None) -> None:
        if self.is_past(max(at, start_at or 0)):
            raise TooOld(f"it was signed more than {self._life // SECOND} s ago, which is longer than runs are kept")

    def is_past(self, instant: Micros) -> bool:
        """Nothing of then is begun any more."""
        return clock.wall() - instant > self._life

    # --- steps -------------------------------------------------------------------------------------------------------

    def plan_of_step(self, turn: Round, idx: int, digest: str, node: int, item: int | None) -> Plan:
        """The graph of a claimed step, when the claim is what was signed. Raises Unsigned."""
        seal = self.seal(turn.run, turn.number)
        if seal.definition != digest or seal.turn != turn:
            raise Unsigned("its run is not the one that was signed")
        plan = self._plan(digest)
        if not 0 <= node < len(plan.nodes) or not _fits(plan.nodes[node], idx == node, item):
            raise Unsigned("its record names another step")
        return plan

    def _plan(self, digest: str) -> Plan:
        try:
            plan = self._plans.find(digest)
        except CorruptDefinition as error:
            raise Unsigned(str(error)) from None
        if plan is None:
            raise Unsigned(f"definition {digest[:12]}, which was signed, is gone")
        return plan

    # --- outputs -----------------------------------------------------------------------------------------------------

    def sign_output(self, claim: Claim, outcome: Outcome) -> str:
        """Of a completed step; without an output that is signed too, so that none can be taken away."""
        if claim.quiet or outcome.state is not TaskState.COMPLETED:
            return ""
        output = b"" if outcome.output is None else bytes(outcome.output)
        return self.sign_completed(claim.run, claim.step, claim.token, output)

    def sign_completed(self, run: str, step: str, token: int, output: bytes) -> str:
        return self.signer.sign(clock.wall(), *_output(run, step, token, output))

    def check_output(self, run: str, step: str, task: TaskRecord, output: bytes | None) -> None:
        """Raises Unsigned, naming the step."""
        signature = decode_detail(task.D).sig if task.D else ""
        try:
            self.signer.verify(signature, *_output(run, step, task.k, output or b""))
        except Unsigned as error:
            raise Unsigned(f"the output of step {step} cannot be used: {error}") from None

    # --- definitions -------------------------------------------------------------------------------------------------

    def vouch(self, digest: str) -> str:
        """For a definition that this node publishes."""
        return self.signer.sign(clock.wall(), "published", digest)

    def check_published(self, name: str, workflow: str, digest: str, signature: bytes | None) -> None:
        """Raises Unsigned, naming the workflow."""
        try:
            self.signer.verify(_text(signature), "published", digest)
            if name != workflow:
                raise Unsigned("it is another workflow's")
        except Unsigned as error:
            raise Unsigned(
                f"the published definition of workflow {name} cannot be trusted: {error}; a node with the key has to "
                "publish it: kubeminctl reload"
            ) from None


def is_named(digest: str, graph: bytes) -> bool:
    """Whether these bytes are the graph of this name."""
    import hashlib  # brings OpenSSL, 2 MB for every worker; only fleets that sign need it

    return hashlib.sha256(graph).hexdigest() == digest


def cause_of(error: Unsigned) -> Cause:
    return Cause.REPLAYED if isinstance(error, TooOld) else Cause.UNSIGNED


def _fits(node: Node, own: bool, item: int | None) -> bool:
    """An item belongs to a fan-out, and every other task stands at its step's own place."""
    return node.kind is Kind.FANOUT if item is not None else node.kind is Kind.TASK and own


def _task(run: str, work: bytes, extra: Extra) -> tuple[str, str, bytes, bytes]:
    return "task", run, work, encode(msgspec.structs.replace(extra, sig=""))


def _output(run: str, step: str, token: int, output: bytes) -> tuple[str, str, str, int, bytes]:
    return "output", run, step, token, output


def _text(signature: bytes | None) -> str | None:
    return None if signature is None else signature.decode("ascii", "replace")
