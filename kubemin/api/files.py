"""Workflow files that a client submits: read and compiled once, and again when the file has changed.

A file is the same while its inode, size and times are. Times are coarse: one that was written a moment ago may be
written again without a sign of it, so it is read each time until it has rested. May touch the files that it is given.
"""

from __future__ import annotations

import os

from kubemin import clock
from kubemin.model.records import Definition

MOST = 200  # files
RESTED = clock.SECOND // 10  # no local file system has coarser times …
RESTED_LONG = 2 * clock.SECOND  # … and none at all; one that counts in seconds shows it

Seen = tuple[int, int, int, int, int]  # of a file, what changes with its content


class Files:
    """Safe for threads: entries are put and taken whole."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Seen, Definition]] = {}

    def load(self, path: str | os.PathLike[str]) -> Definition:
        """Raises Invalid with all problems of the file."""
        place = os.path.abspath(path)  # as it was named, and not another one after a change of the working directory
        seen = _look(place)
        known = self._known.get(place)
        if known is not None and known[0] == seen:
            return known[1]
        from kubemin.files import load_workflow

        definition = load_workflow(os.fspath(path))
        if seen is not None and _has_rested(seen):
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[place] = seen, definition
        return definition


def _look(path: str) -> Seen | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _has_rested(seen: Seen) -> bool:
    changed = max(seen[3:])
    rest = RESTED_LONG if changed % 1_000_000_000 == 0 else RESTED
    return clock.wall() - changed // 1000 > rest
