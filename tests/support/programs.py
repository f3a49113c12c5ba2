"""The programs under test: those installed beside the running Python, else those of the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def program(name: str) -> str:
    """The path of `kubemind` or `kubeminctl`."""
    installed = Path(sys.prefix, "bin", name)
    return str(installed if installed.exists() else PROJECT / "bin" / name)


def run_program(
    name: str, *args: str, timeout: float = 60.0, cwd: Path | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run to its end; the caller's KUBEMIN_ variables do not reach it."""
    return subprocess.run(
        [program(name), *args],
        env=clean_environ(**environ),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def clean_environ(**more: str) -> dict[str, str]:
    """This process's environment without what would reach into a daemon: its settings, systemd's variables."""
    foreign = ("KUBEMIN_", "STATE_DIRECTORY", "RUNTIME_DIRECTORY", "CONFIGURATION_DIRECTORY", "CREDENTIALS_DIRECTORY")
    systemd = (
        "NOTIFY_SOCKET",
        "JOURNAL_STREAM",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "REDIS_ADDR",
        "MAX_WORKERS",
        "NODE_ID",
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith((*foreign, *systemd))}
    return kept | more
