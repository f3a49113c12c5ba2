"""What a step's references read, in a fleet that signs: parameters, outputs and items that are what was signed.

The counterpart of `inputs.py`: each value is verified in the bytes that are then used. A fan-out's output is as long
as its list of items, which follows from what was signed, and each item's was signed under its own place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from kubemin.model.states import Kind
from kubemin.signing import Unsigned
from kubemin.store.codec import COMPLETED
from kubemin.store.inputs import Round
from kubemin.store.redis import keys
from kubemin.store.redis.inputs import AT_ONCE, Inputs
from kubemin.store.redis.records import TaskRecord, unpack_task

if TYPE_CHECKING:
    from kubemin.store.plans import Plan, Plans
    from kubemin.store.redis.client import Client
    from kubemin.store.redis.signatures import Seal, Signatures


class SignedInputs(Inputs):
    """Raises Unsigned, besides what `Inputs` raises."""

    def __init__(self, client: Client, plans: Plans, signatures: Signatures) -> None:
        super().__init__(client)
        self._plans = plans
        self._signatures = signatures

    def of(self, plan: Plan, node: int, item: int | None, turn: Round) -> dict[str, Any]:
        self._signatures.seal(turn.run, turn.number)  # what is remembered may be of an earlier round
        return super().of(plan, node, item, turn)

    def _resolve(self, plan: Plan, node: int, turn: Round) -> list[Any]:
        self._signatures.seal(turn.run, turn.number)
        return super()._resolve(plan, node, turn)

    def params(self, run: str) -> bytes:
        return self._signatures.seal(run).params or b"{}"

    def output(self, run: str, idx: int) -> msgspec.Raw | None:
        seal = self._signatures.seal(run)
        plan = self._plans.get(seal.definition)
        raw, output = self._client.pipeline([("HGET", keys.tasks(run), idx), ("HGET", keys.outputs(run), idx)])
        if raw is None or (task := unpack_task(raw)).s != COMPLETED:
            return None
        node = plan.nodes[idx]
        if node.kind is Kind.FANOUT:
            return msgspec.Raw(self._join(seal, plan, idx, task))
        self._signatures.check_output(run, node.step, task, output)
        return None if output is None else msgspec.Raw(output)

    def _join(self, seal: Seal, plan: Plan, idx: int, task: TaskRecord) -> bytes:
        total = len(self.items(plan, idx, seal.turn))
        if task.b is None or total != task.N:
            raise Unsigned(f"step {plan.nodes[idx].step} has {total} items, and outputs of {task.N or 0}")
        found: list[bytes] = []
        for at in range(0, total, AT_ONCE):
            found += self._outputs(seal.run, plan, idx, task.b, range(at, min(at + AT_ONCE, total)))
        return b"[" + b",".join(found) + b"]"

    def _outputs(self, run: str, plan: Plan, idx: int, base: int, items: range) -> list[bytes]:
        places = [base + item for item in items]
        outputs, records = self._client.pipeline(
            [("HMGET", keys.outputs(run), *places), ("HMGET", keys.tasks(run), *places)]
        )
        found = []
        for item, output, raw in zip(items, outputs, records, strict=True):
            step = plan.step_path(idx, item)
            task = unpack_task(raw) if raw is not None else TaskRecord()
            self._signatures.check_output(run, step, task, output)
            found.append(b"null" if output is None else output)
        return found
