"""Results of a batch that its worker has not told Redis yet, in shared memory: who looks into it needs no answer of a
worker that is busy, or dead.

A worker of a fleet runs short tasks in batches and tells their results together, in its next round trip. If one of
them turns out long, the results before it would wait for it: the coordinator tells them instead (coordinator/fleet/
batches.py). The store takes each result once, whoever tells it.

One file for each life of a worker, `RUNTIME_DIR/outbox/INSTANCE-SLOT-INCARNATION`, on tmpfs. Who may write: the worker
alone. A header (number of the batch, results in it), then a result after the other, each with a CRC over its bytes and
the number of its batch, so that a reader takes none that is torn or of an older batch. A worker that dies at any
instruction leaves what was whole; the coordinator removes the file when it has buried the worker, or at its next start.
May touch: these files.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections.abc import Iterator
from zlib import crc32

import msgspec

from kubemin.channel import pack_report, unpack_report
from kubemin.model.records import Outcome, Owner

FOLDER = "outbox"
SIZE = 64 * 1024  # of a file; what does not fit is told at once
_HEADER = struct.Struct("<QQ")  # batch, results
_RECORD = struct.Struct("<II")  # length, CRC
_NULL = msgspec.Raw(b"null")


def path_of(runtime_dir: str, owner: Owner) -> str:
    return os.path.join(runtime_dir, FOLDER, f"{owner.instance}-{owner.slot}-{owner.incarnation}")


class Outbox:
    """The worker's end."""

    def __init__(self, runtime_dir: str, owner: Owner) -> None:
        path = path_of(runtime_dir, owner)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, SIZE)
            self._map = mmap.mmap(fd, SIZE)
        finally:
            os.close(fd)
        self._batch = 1
        self._count = 0
        self._end = _HEADER.size

    def add(self, outcome: Outcome) -> bool:
        """False: there is no room for it."""
        body = pack_report(int(outcome.output is not None), outcome)
        start = self._end + _RECORD.size
        if start + len(body) > SIZE:
            return False
        record = _RECORD.pack(len(body), crc32(body, self._batch & 0xFFFFFFFF)) + body
        self._map[self._end : self._end + len(record)] = record
        self._end += len(record)
        self._count += 1
        self._map[: _HEADER.size] = _HEADER.pack(self._batch, self._count)
        return True

    def clear(self) -> None:
        """All of it was told."""
        if self._count:
            self._batch += 1
            self._count, self._end = 0, _HEADER.size
            self._map[: _HEADER.size] = _HEADER.pack(self._batch, 0)


def read(path: str) -> tuple[list[Outcome], bool]:
    """The results of the batch under way that are whole, and whether these are all of them."""
    try:
        with open(path, "rb") as file:
            raw = file.read(SIZE)
        batch, count = _HEADER.unpack_from(raw)
        found: list[Outcome] = []
        at = _HEADER.size
        while len(found) < count:
            length, crc = _RECORD.unpack_from(raw, at)
            at += _RECORD.size + length
            body = raw[at - length : at]
            if crc32(body, batch & 0xFFFFFFFF) != crc:
                break
            found.append(_result(body))
        return found, len(found) == count
    except (OSError, ValueError, struct.error):
        return [], False


def _result(body: bytes) -> Outcome:
    has_output, outcome = unpack_report(body)
    if has_output and outcome.output is None:
        outcome.output = _NULL
    return outcome


def left_behind(runtime_dir: str) -> Iterator[tuple[str, Owner]]:
    """(path, owner) of all files that are there."""
    folder = os.path.join(runtime_dir, FOLDER)
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(folder)):
            instance, slot, incarnation = name.rsplit("-", 2)
            if slot.isdecimal() and incarnation.isdecimal():
                yield os.path.join(folder, name), Owner(instance, int(slot), int(incarnation))


def drop(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
