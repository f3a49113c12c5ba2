"""The highest token of each task that this node has begun: a replayed entry is not begun again (engine rule 25).

It exists because a signature says what may run, and not how often: whoever can write to Redis can put an old entry
back. A task's token only rises, so that one which is not above the highest known here is a replay. What a node cannot
know remains: a replay elsewhere, or under a token that was made up higher (docs/fleet.md, "Signing").

One file in the state directory, `tokens`, shared by all workers and kept over restarts: 65,536 buckets of 8 records
(16 bytes: name of the task, token). In a full bucket the lowest token gives way: what is forgotten is about the oldest
of half a million tasks. Only workers write, each under a POSIX lock on the bucket, which the kernel drops when its
holder dies; a record is written by one call, before its task begins. So a worker that dies at any instruction leaves
the old record or the new one: at worst its task is begun under the next token, as after every such death. Nothing is
forced to disk: a power failure may forget the last tasks.

May touch: that file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from hashlib import blake2b
from typing import Final

from kubemin import chance, clock, faults

NAME: Final = "tokens"
BUCKETS: Final = 65_536
RECORDS: Final = 8
LOCK_SECONDS: Final = 5.0  # for another worker to let go of a bucket; it holds one for microseconds

_RECORD: Final = struct.Struct("<QQ")
_BUCKET: Final = struct.Struct(f"<{2 * RECORDS}Q")


class Replays:
    """Raises OSError: the file cannot be made."""

    def __init__(self, state_dir: str) -> None:
        self._fd = os.open(os.path.join(state_dir, NAME), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        if os.fstat(self._fd).st_size < BUCKETS * _BUCKET.size:
            os.ftruncate(self._fd, BUCKETS * _BUCKET.size)

    def close(self) -> None:
        os.close(self._fd)

    def admit(self, run: str, step: str, token: int) -> bool:
        """Note that a task begins under this token; False: it has, or under a higher one. Raises OSError."""
        if not 0 <= token < 1 << 63:
            return False
        bucket, name = _place(run, step)
        at = bucket * _BUCKET.size
        self._lock(at)
        try:
            return self._note(at, name, token)
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, _BUCKET.size, at)

    def _note(self, at: int, name: int, token: int) -> bool:
        found = _BUCKET.unpack(os.pread(self._fd, _BUCKET.size, at))
        names, tokens = found[::2], found[1::2]
        if name in names:
            number = names.index(name)
            if token <= tokens[number]:
                return False
        else:
            number = tokens.index(min(tokens))
        faults.point("replays.noting")
        os.pwrite(self._fd, _RECORD.pack(name, token), at + number * _RECORD.size)
        faults.point("replays.noted")
        return True

    def _lock(self, at: int) -> None:
        deadline = clock.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, _BUCKET.size, at)
                return
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES) or clock.monotonic() >= deadline:
                    raise
            time.sleep(chance.between(0.0005, 0.002))


def _place(run: str, step: str) -> tuple[int, int]:
    """Bucket, and the name within it, which is not 0."""
    found = blake2b(f"{run}/{step}".encode(), digest_size=10).digest()
    return int.from_bytes(found[:2], "little"), int.from_bytes(found[2:], "little") or 1
