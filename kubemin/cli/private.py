"""The private pool of `kubeminctl run`: a daemon of one's own, with its state in a folder that is removed afterwards.

It is the same code as `kubemind` in a child process, so a workflow behaves as it will in production. The child gets
SIGTERM when its parent dies, whatever kills it.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from kubemin import clock
from kubemin.errors import Unreachable
from kubemin.model.graph import Graph
from kubemin.scoreboard import Scoreboard

if TYPE_CHECKING:
    from kubemin.client import Client
    from kubemin.config import Settings

STARTING = 20.0  # seconds for it to become ready
STOPPING = 20.0  # seconds from SIGTERM to its end
_PR_SET_PDEATHSIG = 1
_SOCKET_ROOM = 60  # characters left for the folder, so that its socket's path fits
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from kubemin.cli.private import serve; sys.exit(serve(int(sys.argv[2]), sys.argv[3], sys.argv[4:]))"
)
_FOREIGN = ("REDIS_ADDR", "MAX_WORKERS", "NODE_ID", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM")
_FOREIGN_DIRECTORIES = ("STATE_DIRECTORY", "RUNTIME_DIRECTORY", "CONFIGURATION_DIRECTORY")


def serve(parent: int, folder: str, argv: Sequence[str]) -> int:
    """In the child: be the daemon, and no longer than the parent lives. `folder`: to be removed if that was killed."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return 1
    from kubemin.cli.kubemind import main

    code = main(argv)
    if folder and os.getppid() != parent:
        shutil.rmtree(folder, ignore_errors=True)
    return code


class PrivatePool:
    """A context manager: ready inside, gone and removed afterwards."""

    def __init__(self, graph: Graph, *, workers: int, base: Settings | None, keep: bool) -> None:
        self._keep = keep
        self.folder = _folder()
        self.log = os.path.join(self.folder, "log")
        self._settings = _settings(graph, self.folder, workers, base)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PrivatePool:
        try:
            self._start()
            self._await_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def client(self) -> Client:
        from kubemin.client import Client

        return Client(state_dir=self._settings["stateDir"], runtime_dir=self._settings["runtimeDir"])

    def check(self) -> None:
        """Raises Unreachable, with the end of its log, when the daemon has died."""
        if self._process is not None and self._process.poll() is not None:
            raise Unreachable(f"the private pool ended with code {self._process.returncode}: {self._last_words()}")

    def close(self) -> None:
        """Stop the daemon, kill it when it does not stop, and remove the folder."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOPPING)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if not self._keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self) -> None:
        for name in ("stateDir", "runtimeDir", "workflowsDir"):
            os.mkdir(self._settings[name], 0o700)
        config = os.path.join(self.folder, "kubemin.json.yaml")  # JSON is YAML
        Path(config).write_bytes(msgspec.json.encode(self._settings))
        root = str(Path(__file__).parents[2])
        leave = "" if self._keep else self.folder
        command = [sys.executable, "-P", "-c", _BOOT, root, str(os.getpid()), leave, "--config", config]
        with open(self.log, "wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for us: we cancel the run first
            )

    def _await_ready(self) -> None:
        path = os.path.join(self._settings["runtimeDir"], "scoreboard")
        deadline = clock.monotonic() + STARTING
        while not _ready(path):
            self.check()
            if clock.monotonic() > deadline:
                raise Unreachable(f"the private pool was not ready in {STARTING:g} s: {self._last_words()}")
            time.sleep(0.01)

    def _last_words(self) -> str:
        try:
            lines = Path(self.log).read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return " / ".join(lines[-3:]) or "it wrote nothing"


def _ready(path: str) -> bool:
    try:
        board = Scoreboard.open(path)
    except Unreachable:
        return False
    header = board.read_header()
    board.close()
    return header is not None and header.ready


def _folder() -> str:
    """Under TMPDIR, or under /tmp where that is too long a path for a socket."""
    base = tempfile.gettempdir()
    return tempfile.mkdtemp(prefix="kubemin-run-", dir=base if len(os.fsencode(base)) <= _SOCKET_ROOM else "/tmp")


def _settings(graph: Graph, folder: str, workers: int, base: Settings | None) -> dict[str, Any]:
    """The daemon's configuration. The workflow's own functions are admitted: its user runs them himself."""
    found: dict[str, Any] = {
        "stateDir": os.path.join(folder, "state"),
        "runtimeDir": os.path.join(folder, "run"),
        "workflowsDir": os.path.join(folder, "workflows.d"),
        "maxWorkers": workers,
        "queues": sorted({node.queue for node in graph.nodes} | {"default"}),
        "gracefulTimeout": "2s",
        "log": {"level": "info", "format": "text"},
    }
    if functions := _functions(graph):
        found["python"] = {"path": _unique([graph.directory, *(base.python.path if base else ())]), "allow": functions}
    if base is not None:
        found["taskTimeout"] = f"{base.task_timeout:f}s"
        if base.secrets_dir:
            found["secretsDir"] = base.secrets_dir
    return found


def _functions(graph: Graph) -> list[str]:
    return sorted({str(node.work["python"]) for node in graph.nodes if node.work and "python" in node.work})


def _unique(folders: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(folder for folder in folders if folder))


def _environment() -> dict[str, str]:
    """Ours without what would configure another daemon."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("KUBEMIN_") and name not in _FOREIGN and name not in _FOREIGN_DIRECTORIES
    }
