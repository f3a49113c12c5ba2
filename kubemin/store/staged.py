"""Batches that are accepted and not unpacked yet, as readers show them: runs that wait. The same in both stores.

`bodies` are the parts of sealed batches as they came: JSON lists of submissions. Reads only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from kubemin.clock import Micros, rfc3339
from kubemin.model.records import RunView, Submission
from kubemin.model.states import RunState
from kubemin.store.admission import decode_submissions
from kubemin.store.codec import encode, label_of


class StagedRun(msgspec.Struct):
    """What lists and counts need of a submission."""

    id: str
    work: msgspec.Raw = msgspec.Raw(b"null")
    queue: str = "default"
    start_at: Micros | None = None


_decode = msgspec.json.Decoder(list[StagedRun]).decode


def view(bodies: Iterable[bytes], run: str) -> RunView | None:
    wanted = run.encode()
    for body in bodies:
        found = next((each for each in decode_submissions(body) if each.id == run), None) if wanted in body else None
        if found is not None:
            return _waiting(found)
    return None


def _waiting(submission: Submission) -> RunView:
    label = submission.workflow or label_of(encode(submission.work))
    start_at = rfc3339(submission.start_at)
    return RunView(submission.id, label, RunState.WAITING, params=submission.params, start_at=start_at)


def states(bodies: Iterable[bytes], wanted: set[str]) -> dict[str, RunState]:
    return {each.id: RunState.WAITING for body in bodies for each in _decode(body) if each.id in wanted}


def lengths(bodies: Iterable[bytes], now: Micros) -> Counter[str]:
    """Single tasks that stand in a queue as soon as they are unpacked, by queue. Of workflows then."""
    return Counter(
        each.queue
        for body in bodies
        for each in _decode(body)
        if bytes(each.work) != b"null" and (each.start_at is None or each.start_at <= now)
    )
