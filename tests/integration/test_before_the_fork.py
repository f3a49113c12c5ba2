"""What the supervisor has imported when it forks: all of it is in every worker, and some of it costs each of them."""

from __future__ import annotations

import subprocess
import sys

IMPORTS = """
import sys
import kubemin.cli.kubemind, kubemin.coordinator.process, kubemin.supervisor.process
import kubemin.worker.process, kubemin.worker.rehearsal
print(*sys.modules)
"""
# Hooks that run in every forked child (half a megabyte of pages of its own), or libraries of megabytes.
COSTLY = {
    *("threading", "random", "logging", "tempfile", "subprocess", "concurrent.futures", "multiprocessing", "asyncio"),
    *("hashlib", "_hashlib", "ssl", "redis", "kubernetes", "prometheus_client", "click", "rich", "yaml", "psutil"),
}


def test_nothing_costly_is_imported_before_the_forks() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
    assert not COSTLY & set(done.stdout.split())
