"""Python steps for tests of daemons: what most need, and a test's own beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COMMON = """
import json, os, signal, time
import kubemin

def effect(path, n, seconds=0.0):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, b"%d\\n" % n)
    os.close(fd)
    time.sleep(seconds)
    return n

def nap(seconds):
    time.sleep(seconds)
    return "rested"
"""


def install(folder: Path, module: str, own: str = "") -> dict[str, Any]:
    """Write them as a module into a folder; the setting `python` of a daemon that runs them."""
    (folder / f"{module}.py").write_text(COMMON + own)
    return {"path": [str(folder)], "allow": [f"{module}:*"]}


def effects(path: Path) -> list[int]:
    """The numbers that `effect` noted, in rising order."""
    return sorted(map(int, path.read_text().split())) if path.exists() else []
