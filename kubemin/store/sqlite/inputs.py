"""What a step's references read: parameters, outputs of earlier steps, the item, the run."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import msgspec

from kubemin.clock import rfc3339
from kubemin.model.references import render
from kubemin.store.codec import COMPLETED, encode, label_of
from kubemin.store.plans import Plan
from kubemin.store.sqlite.quarantine import CorruptRun
from kubemin.store.sqlite.rows import RunRow, TaskRow
from kubemin.store.sqlite.session import Session

CACHED = 64  # of the runs in progress: so many parameters and item lists at most, and no more than
CACHED_BYTES = 4 * 1024 * 1024  # of parameters
CACHED_ITEMS = 200_000  # items; the last one used is kept whatever its size

decode: Any = msgspec.json.decode


class Inputs:
    def __init__(self, session: Session) -> None:
        self.s = session
        self._items: OrderedDict[tuple[str, int, int], list[Any]] = OrderedDict()
        self._params: OrderedDict[str, bytes] = OrderedDict()

    def forget(self) -> None:
        self._items.clear()
        self._params.clear()

    def params(self, run: str) -> bytes:
        """A run's parameters as JSON."""
        found = self._params.get(run)
        if found is None:
            row = self.s.one("payload", (run,))
            found = row[0] if row else b"{}"
            try:
                decode(found)
            except msgspec.DecodeError as error:
                raise CorruptRun(run, f"its parameters cannot be read: {error}") from error
            _remember(self._params, run, found, CACHED_BYTES)
        return found

    def spec(self, run: str, spec: bytes) -> bytes:
        """A single task's work, wherever it is kept."""
        if spec:
            return spec
        row = self.s.one("payload", (run,))
        return row[0] if row else b""

    def label(self, run: str) -> str:
        """The name of a single task."""
        row = self.s.one("solo_spec", (run,))
        return label_of(self.spec(run, row[0]), row[1]) if row else "?"

    def of(self, run: RunRow, plan: Plan, task: TaskRow) -> dict[str, Any]:
        """As in `records.Claim.inputs`. What is missing is left out: the executor says which reference has no value."""
        node = plan.nodes[task.node]
        inputs: dict[str, Any] = {
            "params": msgspec.Raw(self.params(run.id)),
            "steps": {
                plan.nodes[idx].step: output for idx in node.refs if (output := self.output(run, idx)) is not None
            },
            "run": {
                "id": run.id,
                "name": run.workflow,
                "scheduledAt": rfc3339(run.scheduled_at),
                "attempt": run.round,
            },
        }
        if task.item is not None:
            items = self.items(run, plan, self.s.task(run.id, task.node))
            inputs["item"] = items[task.item]
        return inputs

    def output(self, run: RunRow, idx: int) -> msgspec.Raw | None:
        """The output of a completed step; of a fan-out the list of its children's."""
        row = self.s.one("task_output", (run.id, idx))
        if row is None or row[0] != COMPLETED:
            return None
        _, output, base, total = row
        if base is not None:
            output = join_outputs(self.s.all("outputs_between", (run.id, base, base + total)), base, total)
        return None if output is None else msgspec.Raw(output)

    def items(self, run: RunRow, plan: Plan, task: TaskRow) -> list[Any]:
        """A fan-out's items. Raises ReferenceMissing, and ValueError when they are no list."""
        key = run.id, task.idx, run.round
        found = self._items.get(key)
        if found is None:
            found = self._resolve_items(run, plan, task)
            _remember(self._items, key, found, CACHED_ITEMS)
        return found

    def _resolve_items(self, run: RunRow, plan: Plan, task: TaskRow) -> list[Any]:
        wanted = plan.nodes[task.node].items
        inputs = decode(encode(self.of(run, plan, task)))
        items = render(wanted, inputs)
        if not isinstance(items, list):
            raise ValueError(f"forEach {wanted} is {_kind(items)}, not a list")  # noqa: TRY004
        return items


def join_outputs(found: list[tuple[int, bytes | None]], base: int, total: int) -> bytes:
    """JSON list of `total` outputs from (idx, output) rows; null where there is none."""
    outputs = dict(found)
    return b"[" + b",".join([outputs.get(idx) or b"null" for idx in range(base, base + total)]) + b"]"


def _kind(value: Any) -> str:
    names = {dict: "an object", str: "text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _remember(cache: OrderedDict[Any, Any], key: Any, value: Any, most: int) -> None:
    cache[key] = value
    size = sum(map(len, cache.values()))
    while len(cache) > 1 and (len(cache) > CACHED or size > most):
        size -= len(cache.popitem(last=False)[1])
