"""`caged.py COMMAND…`: run it and leave nothing of it alive, not even what has left its process group.

A planted defect may be the very one that lets processes escape, so whoever runs its tests must not rely on the tree
under test to end them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
SWEEP_SECONDS = 10.0


def children() -> list[int]:
    me = os.getpid()
    return [int(pid) for pid in Path(f"/proc/{me}/task/{me}/children").read_text().split()]


def sweep() -> None:
    """What is orphaned becomes our child: kill and reap until none is left."""
    deadline = time.monotonic() + SWEEP_SECONDS
    while (left := children()) and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def main(command: list[str]) -> int:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        return subprocess.call(command)
    finally:
        sweep()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
