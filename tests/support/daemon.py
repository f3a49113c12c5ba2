"""A real `kubemind` with its own configuration, state and runtime directories, and its end, process tree included."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.forks import kubeminctl
from support.notify import NotifySocket
from support.processes import alive, descendants, kill, processes_naming
from support.programs import clean_environ, program
from support.waiting import wait_until

if TYPE_CHECKING:
    from kubemin import Client

START = 20.0  # seconds a start may take on a loaded machine; the promise is held against figures elsewhere
STOP = 40.0

DEFAULTS: dict[str, Any] = {"maxWorkers": 2, "gracefulTimeout": "5s", "log": {"level": "debug", "format": "text"}}


class Completed:
    """What a command answered."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.stdout, self.stderr = done.returncode, done.stdout, done.stderr

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    def __repr__(self) -> str:
        return f"exit {self.code}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


class Daemon:
    """`home` holds kubemin.yaml, workflows.d, state, run, and daemon.log (what all its lives wrote).

    `settings` are keys of the configuration file; they beat DEFAULTS. A context manager, or `start()` and `close()`.
    """

    def __init__(self, *, environ: dict[str, str] | None = None, **settings: Any) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="kubemin-"))  # short: a socket's path has 107 characters
        self.state, self.run, self.workflows = (self.home / name for name in ("state", "run", "workflows.d"))
        self.config, self.log_file = self.home / "kubemin.yaml", self.home / "daemon.log"
        self.workflows.mkdir()
        self.environ = clean_environ(KUBEMIN_CONFIG=str(self.config), **(environ or {}))
        self.process: subprocess.Popen[bytes] | None = None
        self.notify = NotifySocket(self.home / "notify")
        self._client: Client | None = None
        self.configure(**settings)

    # --- configuration ---

    def configure(self, **settings: Any) -> None:
        """Write the configuration file (JSON is YAML). A running daemon sees it at a reload."""
        places = {"stateDir": str(self.state), "runtimeDir": str(self.run), "workflowsDir": str(self.workflows)}
        self.config.write_text(json.dumps(DEFAULTS | places | settings, indent=1))

    def workflow(self, name: str, text: str) -> Path:
        """Put a workflow file into workflows.d."""
        path = self.workflows / name
        path.write_text(text)
        return path

    def command(self, name: str) -> list[str]:
        """How `kubemind` or `kubeminctl` is started."""
        return [program(name)]

    # --- life ---

    def start(self, *, ready: bool = True) -> Daemon:
        """Start it and wait until it says that it is ready. Fails the test, with its log, when it does not."""
        self.notify.forget()
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command("kubemind"), "--config", str(self.config)],
                env=self.environ | {"NOTIFY_SOCKET": str(self.notify.path)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if ready:
            self.wait_ready()
        return self

    def wait_ready(self) -> None:
        pidfd = os.pidfd_open(self.pid)
        try:
            assert self.notify.wait("READY=1", START, pidfd), f"the daemon ended:\n{self.log}"
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{self.log}") from None
        finally:
            os.close(pidfd)

    @property
    def pid(self) -> int:
        assert self.process is not None, "not started"
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float = STOP) -> int:
        """Its exit code, once it has ended."""
        assert self.process is not None
        return self.process.wait(timeout)

    def stop(self, number: int = signal.SIGTERM, timeout: float = STOP) -> int:
        self.send(number)
        return self.wait(timeout)

    def restart(self) -> None:
        assert self.stop() == 0, self.log
        self.start()

    def kill9(self, *, everything: bool = False) -> list[int]:
        """SIGKILL the supervisor, or it and all its descendants at once; the pids it had. Returns when all are gone."""
        tree = descendants(self.pid)
        kill([self.pid, *tree] if everything else [self.pid])
        self.wait()
        wait_until(lambda: not any(map(alive, tree)), 10, what="the end of the daemon's process tree")
        return tree

    # --- talking to it ---

    @property
    def client(self) -> Client:
        from kubemin import Client

        if self._client is None:
            self._client = Client.from_config(str(self.config))
        return self._client

    def ctl(self, *args: str, timeout: float = 60.0, stdin: str = "", **environ: str) -> Completed:
        """`kubeminctl ARGS` against this daemon; with `environ` by the installed program."""
        if environ:
            return self.fresh_ctl(*args, timeout=timeout, stdin=stdin, **environ)
        return Completed(kubeminctl(args, self.environ, stdin, timeout))

    def fresh_ctl(self, *args: str, timeout: float = 60.0, stdin: str = "", **environ: str) -> Completed:
        """The same, always by the installed program."""
        return Completed(
            subprocess.run(
                [*self.command("kubeminctl"), *args],
                env=self.environ | environ,
                input=stdin,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        )

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def wait_log(self, text: str, timeout: float = 10.0) -> None:
        wait_until(lambda: text in self.log, timeout, what=f"{text!r} in the log")

    # --- its end ---

    def leftovers(self) -> list[int]:
        """Live processes that still name this daemon's directories: there must be none after its end."""
        return processes_naming(str(self.home))

    def close(self) -> None:
        """End everything of it and remove its directories."""
        if self._client is not None:
            self._client.close()
        if self.running:
            kill([self.pid, *descendants(self.pid)])
            self.wait()
        kill(self.leftovers())
        self.notify.close()
        shutil.rmtree(self.home, ignore_errors=True)

    def __enter__(self) -> Daemon:
        return self if self.running else self.start()

    def __exit__(self, *_: object) -> None:
        self.close()
