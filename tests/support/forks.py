"""Processes forked from a server that has imported what they need: a start costs milliseconds, not a second.

The suite calls `kubeminctl` several hundred times, and starts a hundred nodes of an election. What a fresh start of the
program is like is held by the tests that call the installed one (`run_program`, and `ctl` with variables of its own).
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

_forks = multiprocessing.get_context("forkserver")
_PRELOADED = [
    "support.forks",
    "kubemin.cli.kubeminctl",
    "kubemin.cli.views",
    "kubemin.client",
    "kubemin.store.sqlite.reader",
    "kubemin.leader.lease.redis",
    "kubernetes.config",
]
_STREAMS = (("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY))


def fork(target: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """A process that runs `target`, which it finds by its name; started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # the server imports by it alone
        forkserver.set_forkserver_preload(_PRELOADED)
        forkserver.ensure_running()
    process = _forks.Process(target=target, args=arguments)
    process.start()
    return process


def kubeminctl(
    args: tuple[str, ...], environ: dict[str, str], stdin: str, timeout: float
) -> subprocess.CompletedProcess[str]:
    """What `subprocess.run` of it would answer."""
    with tempfile.TemporaryDirectory(prefix="kubeminctl-") as folder:
        files = {name: Path(folder, name) for name, _ in _STREAMS}
        files["stdin"].write_text(stdin)
        process = fork(_kubeminctl, args, environ, folder)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(["kubeminctl", *args], timeout)
        told = files["stdout"].read_text(), files["stderr"].read_text()
        return subprocess.CompletedProcess(args, process.exitcode, *told)


def _kubeminctl(args: tuple[str, ...], environ: dict[str, str], folder: str) -> None:
    from kubemin.cli.kubeminctl import main

    os.environ.clear()
    os.environ.update(environ)
    for number, (name, flags) in enumerate(_STREAMS):
        fd = os.open(os.path.join(folder, name), flags | os.O_CREAT, 0o600)
        os.dup2(fd, number)
        os.close(fd)
    sys.argv = ["kubeminctl", *args]
    sys.exit(main(args))
