"""Batches that are accepted and not unpacked yet, as readers show them: runs that wait. The same in both stores.

`bodies` are the parts of sealed batches as they came: JSON lists of submissions. Reads only.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from operator import attrgetter

import msgspec

from kubemin.clock import Micros, rfc3339
from kubemin.model import ids
from kubemin.model.records import RunView, Submission
from kubemin.model.states import RunState
from kubemin.store.admission import decode_submissions
from kubemin.store.base import RunFilter
from kubemin.store.codec import encode, label_of
from kubemin.store.views import has_params


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


def runs(bodies: Iterable[bytes], where: RunFilter) -> list[RunView]:
    """Those that pass, the latest first. None has a key."""
    if where.key is not None or where.status not in (None, RunState.WAITING):
        return []
    return list(map(_waiting, heapq.nlargest(where.limit, _passing(bodies, where), key=attrgetter("id"))))


def _passing(bodies: Iterable[bytes], where: RunFilter) -> Iterator[Submission]:
    for body in bodies:
        for each in decode_submissions(body):
            if where.workflow is not None and _label(each) != where.workflow:
                continue
            if where.since is not None and ids.made_at(each.id) < where.since:
                continue
            if where.until is not None and ids.made_at(each.id) > where.until:
                continue
            if not where.params or has_params(_waiting(each), where.params):
                yield each


def _label(submission: Submission) -> str:
    return submission.workflow or label_of(encode(submission.work))


def _waiting(submission: Submission) -> RunView:
    made, start_at = rfc3339(ids.made_at(submission.id)), rfc3339(submission.start_at)
    return RunView(
        submission.id, _label(submission), RunState.WAITING, params=submission.params, submitted_at=made,
        start_at=start_at,
    )  # fmt: skip


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
