"""Looking at and ending real process trees, by /proc."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def parent(pid: int) -> int:
    """0 for a process that is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def alive(pid: int) -> bool:
    """Whether it exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def descendants(pid: int) -> list[int]:
    """Children, their children, …: those that /proc shows now."""
    children = defaultdict(list)
    for child in pids():
        children[parent(child)].append(child)
    return sorted(_tree(children, pid))


def _tree(children: dict[int, list[int]], pid: int) -> set[int]:
    found: set[int] = set()
    todo = list(children.get(pid, ()))
    while todo:
        one = todo.pop()
        if one not in found:
            found.add(one)
            todo.extend(children.get(one, ()))
    return found


def processes_naming(text: str) -> list[int]:
    """Live processes that have `text` in their environment or command line, this one aside."""
    wanted = text.encode()
    return [pid for pid in pids() if pid != os.getpid() and alive(pid) and wanted in _words(pid)]


def _words(pid: int) -> bytes:
    words = b""
    for name in ("environ", "cmdline"):
        with suppress(OSError):
            words += Path(f"/proc/{pid}/{name}").read_bytes()
    return words


def kill(some: Iterable[int]) -> None:
    for pid in some:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
