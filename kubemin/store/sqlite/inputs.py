"""Where this engine keeps what a step's references read, and the work of single tasks (see `store/inputs.py`)."""

from __future__ import annotations

import msgspec

from kubemin.store import inputs
from kubemin.store.codec import COMPLETED, decode, label_of
from kubemin.store.inputs import Round, join_outputs
from kubemin.store.sqlite.quarantine import CorruptRun
from kubemin.store.sqlite.rows import RunRow
from kubemin.store.sqlite.session import Session


class Inputs(inputs.Inputs):
    def __init__(self, session: Session) -> None:
        super().__init__()
        self.s = session

    def _read_params(self, run: str) -> bytes:
        row = self.s.one("payload", (run,))
        found: bytes = row[0] if row else b"{}"
        try:
            decode(found)
        except msgspec.DecodeError as error:
            raise CorruptRun(run, f"its parameters cannot be read: {error}") from error
        return found

    def output(self, run: str, idx: int) -> msgspec.Raw | None:
        row = self.s.one("task_output", (run, idx))
        if row is None or row[0] != COMPLETED:
            return None
        _, output, base, total = row
        if base is not None:
            output = join_outputs(dict(self.s.all("outputs_between", (run, base, base + total))), base, total)
        return None if output is None else msgspec.Raw(output)

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


def round_of(run: RunRow) -> Round:
    return Round(run.id, run.workflow, run.round, run.scheduled_at)
