"""What a step's references read: parameters, outputs of earlier steps, the item, the run. Read when a claim needs
them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import msgspec

from kubemin.clock import Micros, rfc3339
from kubemin.model.references import render
from kubemin.store.codec import COMPLETED, decode, encode
from kubemin.store.plans import Plan
from kubemin.store.redis import keys
from kubemin.store.redis.client import Client
from kubemin.store.redis.records import unpack_task

CACHED = 64  # parameters and item lists of runs in progress
AT_ONCE = 500  # outputs in one call


class Inputs:
    def __init__(self, client: Client) -> None:
        self._client = client
        self._items: OrderedDict[tuple[str, int, int], list[Any]] = OrderedDict()
        self._params: OrderedDict[str, bytes] = OrderedDict()

    def params(self, run: str) -> bytes:
        """A run's parameters as JSON."""
        found = self._params.get(run)
        if found is None:
            found = self._client.execute("HGET", keys.run(run), "p") or b"{}"
            _remember(self._params, run, found)
        return found

    def of(
        self, plan: Plan, node: int, run: str, workflow: str, turn: int, scheduled_at: Micros | None, item: int | None
    ) -> dict[str, Any]:
        """As in `records.Claim.inputs`. What is missing is left out: the executor says which reference has no value."""
        steps = {}
        for idx in plan.nodes[node].refs:
            output = self.output(run, idx)
            if output is not None:
                steps[plan.nodes[idx].step] = output
        inputs: dict[str, Any] = {
            "params": msgspec.Raw(self.params(run)),
            "steps": steps,
            "run": {"id": run, "name": workflow, "scheduledAt": rfc3339(scheduled_at), "attempt": turn},
        }
        if item is not None:
            inputs["item"] = self.items(plan, node, run, workflow, turn, scheduled_at)[item]
        return inputs

    def output(self, run: str, idx: int) -> msgspec.Raw | None:
        """The output of a completed step; of a fan-out the list of its children's."""
        raw, output = self._client.pipeline(
            [("HGET", keys.tasks(run), idx), ("HGET", keys.outputs(run), idx)],
        )
        if raw is None:
            return None
        task = unpack_task(raw)
        if task.s != COMPLETED:
            return None
        if task.b is not None:
            return msgspec.Raw(self.joined(run, task.b, task.N or 0))
        return None if output is None else msgspec.Raw(output)

    def joined(self, run: str, base: int, total: int) -> bytes:
        """JSON list of a fan-out's outputs; null where there is none."""
        found: list[bytes] = []
        for at in range(base, base + total, AT_ONCE):
            some = range(at, min(at + AT_ONCE, base + total))
            outputs, records = self._client.pipeline(
                [("HMGET", keys.outputs(run), *some), ("HMGET", keys.tasks(run), *some)]
            )
            for output, raw in zip(outputs, records, strict=True):
                done = raw is not None and unpack_task(raw).s == COMPLETED
                found.append(output if done and output is not None else b"null")
        return b"[" + b",".join(found) + b"]"

    def items(
        self, plan: Plan, node: int, run: str, workflow: str, turn: int, scheduled_at: Micros | None
    ) -> list[Any]:
        """A fan-out's items. Raises ReferenceMissing, and ValueError when they are no list."""
        key = run, node, turn
        found = self._items.get(key)
        if found is None:
            wanted = plan.nodes[node].items
            inputs = decode(encode(self.of(plan, node, run, workflow, turn, scheduled_at, None)))
            found = render(wanted, inputs)
            if not isinstance(found, list):
                raise ValueError(f"forEach {wanted} is {_kind(found)}, not a list")
            _remember(self._items, key, found)
        return found


def _kind(value: Any) -> str:
    names = {dict: "an object", str: "text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _remember(cache: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    cache[key] = value
    if len(cache) > CACHED:
        cache.popitem(last=False)
