"""What a step's references read: parameters, outputs of earlier steps, the item, the run. For every engine, which says
where parameters and outputs are kept; read when a claim needs them. Pure but for that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sized
from typing import Any

import msgspec

from kubemin.clock import Micros, rfc3339
from kubemin.model.references import render
from kubemin.store.codec import decode, encode
from kubemin.store.plans import Plan

CACHED = 64  # of the runs in progress: so many parameters and item lists at most, and no more than
CACHED_BYTES = 4 * 1024 * 1024  # of parameters
SMALL_BYTES = 1024  # of parameters, which are handed over whole
CACHED_ITEMS = 200_000  # items; the last one used is kept whatever its size


_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Round(msgspec.Struct, frozen=True):
    """One round of one run: what `run` stands for in a reference."""

    run: str
    workflow: str
    number: int
    scheduled_at: Micros | None


class Inputs:
    def __init__(self) -> None:
        self._items: OrderedDict[tuple[str, int, int], list[Any]] = OrderedDict()
        self._params: OrderedDict[str, bytes] = OrderedDict()

    def _read_params(self, run: str) -> bytes:
        """A run's parameters as JSON, from the store."""
        raise NotImplementedError

    def output(self, run: str, idx: int) -> msgspec.Raw | None:
        """The output of a completed step; of a fan-out the list of its children's."""
        raise NotImplementedError

    def forget(self) -> None:
        self._items.clear()
        self._params.clear()

    def params(self, run: str) -> bytes:
        """A run's parameters as JSON."""
        found = self._params.get(run)
        if found is None:
            found = self._read_params(run)
            _remember(self._params, run, found, CACHED_BYTES)
        return found

    def of(self, plan: Plan, node: int, item: int | None, turn: Round) -> dict[str, Any]:
        """As in `records.Claim.inputs`: what the node's work refers to, so that the tasks of a fan-out do not carry the
        list of all items each. What is missing is left out: the executor says which reference has no value."""
        reads = plan.reads(node)
        wanted = [idx for idx in plan.nodes[node].refs if ("steps", plan.nodes[idx].step) in reads]
        params = self._some_params(turn.run, {name for root, name in reads if root == "params"})
        inputs = self._inputs(plan, turn, params, wanted)
        if item is not None:
            inputs["item"] = self.items(plan, node, turn)[item]
        return inputs

    def _some_params(self, run: str, names: set[str]) -> bytes:
        if not names:
            return b"{}"
        params = self.params(run)
        if len(params) <= SMALL_BYTES:
            return params
        return encode({name: value for name, value in _decode_fields(params).items() if name in names})

    def _inputs(self, plan: Plan, turn: Round, params: bytes, steps: Iterable[int]) -> dict[str, Any]:
        found = {plan.nodes[idx].step: output for idx in steps if (output := self.output(turn.run, idx)) is not None}
        return {
            "params": msgspec.Raw(params),
            "steps": found,
            "run": {
                "id": turn.run,
                "name": turn.workflow,
                "scheduledAt": rfc3339(turn.scheduled_at),
                "attempt": turn.number,
            },
        }

    def items(self, plan: Plan, node: int, turn: Round) -> list[Any]:
        """A fan-out's items. Raises ReferenceMissing, and ValueError when they are no list."""
        key = turn.run, node, turn.number
        found = self._items.get(key)
        if found is None:
            found = self._resolve(plan, node, turn)
            _remember(self._items, key, found, CACHED_ITEMS)
        return found

    def _resolve(self, plan: Plan, node: int, turn: Round) -> list[Any]:
        wanted = plan.nodes[node].items
        everything = self._inputs(plan, turn, self.params(turn.run), plan.nodes[node].refs)
        items = render(wanted, decode(encode(everything)))
        if not isinstance(items, list):
            raise ValueError(f"forEach {wanted} is {_kind(items)}, not a list")  # noqa: TRY004
        return items


def join_outputs(outputs: Mapping[int, bytes | None], base: int, total: int) -> bytes:
    """JSON list of a fan-out's outputs, by the index of the child; null where there is none."""
    return b"[" + b",".join([outputs.get(idx) or b"null" for idx in range(base, base + total)]) + b"]"


def _kind(value: Any) -> str:
    names = {dict: "an object", str: "text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _remember(cache: OrderedDict[Any, Any], key: Any, value: Sized, most: int) -> None:
    cache[key] = value
    size = sum(map(len, cache.values()))
    while len(cache) > 1 and (len(cache) > CACHED or size > most):
        size -= len(cache.popitem(last=False)[1])
