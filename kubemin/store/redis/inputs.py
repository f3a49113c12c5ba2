"""Where this engine keeps what a step's references read (see `store/inputs.py`)."""

from __future__ import annotations

import msgspec

from kubemin.store import inputs
from kubemin.store.codec import COMPLETED
from kubemin.store.inputs import join_outputs
from kubemin.store.redis import keys
from kubemin.store.redis.client import Client
from kubemin.store.redis.records import unpack_task

AT_ONCE = 500  # outputs in one call


class Inputs(inputs.Inputs):
    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client = client

    def _read_params(self, run: str) -> bytes:
        found: bytes | None = self._client.execute("HGET", keys.run(run), "p")
        return found or b"{}"

    def output(self, run: str, idx: int) -> msgspec.Raw | None:
        raw, output = self._client.pipeline(
            [("HGET", keys.tasks(run), idx), ("HGET", keys.outputs(run), idx)],
        )
        if raw is None:
            return None
        task = unpack_task(raw)
        if task.s != COMPLETED:
            return None
        if task.b is not None:
            return msgspec.Raw(self._joined(run, task.b, task.N or 0))
        return None if output is None else msgspec.Raw(output)

    def _joined(self, run: str, base: int, total: int) -> bytes:
        found: dict[int, bytes] = {}
        for at in range(base, base + total, AT_ONCE):
            some = range(at, min(at + AT_ONCE, base + total))
            outputs, records = self._client.pipeline(
                [("HMGET", keys.outputs(run), *some), ("HMGET", keys.tasks(run), *some)]
            )
            for idx, output, raw in zip(some, outputs, records, strict=True):
                if output is not None and raw is not None and unpack_task(raw).s == COMPLETED:
                    found[idx] = output
        return join_outputs(found, base, total)
