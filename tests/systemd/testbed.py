"""A machine with a real systemd, by the tool that KUBEMIN_SYSTEMD_TESTBED names.

The tool has the verbs up, install, put, run and down: see its --help. KUBEMIN_SYSTEMD_BACKEND is how it boots: `uml`
(the default here) has control groups v2 whatever this machine has; `nspawn` is faster.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.waiting import wait_until

TOOL = os.environ.get("KUBEMIN_SYSTEMD_TESTBED", "")
BACKEND = os.environ.get("KUBEMIN_SYSTEMD_BACKEND", "uml")
PROJECT = Path(__file__).resolve().parents[2]
PROGRAMS = "/opt/kubemin/venv/bin"
UNIT = "kubemin.service"
DROP_INS = f"/etc/systemd/system/{UNIT}.d"
LONG = 180.0  # seconds; the machine may be an emulated one


class Done:
    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    def __repr__(self) -> str:
        return f"exit {self.code}\n--- stdout\n{self.out[-6000:]}\n--- stderr\n{self.err[-3000:]}"


class Machine:
    """One booted system. Commands run as root."""

    def __init__(self, name: str) -> None:
        self.name = name

    def tool(self, *args: str, timeout: float = LONG, stdin: str | None = None) -> Done:
        done = subprocess.run(
            [TOOL, "-n", self.name, *args], capture_output=True, text=True, timeout=timeout, check=False, input=stdin
        )
        return Done(done)

    def must(self, *args: str, timeout: float = LONG) -> Done:
        done = self.tool(*args, timeout=timeout)
        assert done.code == 0, f"{args}: {done!r}"
        return done

    # --- commands inside ---

    def run(self, *command: str, timeout: float = LONG) -> Done:
        return self.tool("run", *command, timeout=timeout)

    def ok(self, *command: str, timeout: float = LONG) -> str:
        done = self.run(*command, timeout=timeout)
        assert done.code == 0, f"{shlex.join(command)}: {done!r}\n{self.tail()}"
        return done.out

    def sh(self, script: str, timeout: float = LONG) -> str:
        return self.ok("sh", "-euc", script, timeout=timeout)

    def python(self, script: str, *args: str, timeout: float = LONG) -> str:
        """With kubemin importable."""
        return self.ok(f"{PROGRAMS}/python", "-c", script, *args, timeout=timeout)

    def ctl(self, *args: str) -> Done:
        return self.run("kubeminctl", *args)

    def json(self, *args: str) -> Any:
        return json.loads(self.ok("kubeminctl", *args, "-o", "json"))

    def write(self, path: str, text: str) -> None:
        done = self.tool("run", "-i", "sh", "-c", f"mkdir -p $(dirname {path}) && cat > {path}", stdin=text)
        assert done.code == 0, done

    # --- the unit ---

    def drop_in(self, name: str, text: str) -> None:
        self.write(f"{DROP_INS}/{name}.conf", text)
        self.ok("systemctl", "daemon-reload")

    def shown(self, name: str) -> str:
        return self.ok("systemctl", "show", "-P", name, UNIT).strip()

    @property
    def pid(self) -> int:
        return int(self.shown("MainPID"))

    def processes(self) -> set[int]:
        """Of the unit, in all its control groups."""
        found = self.ok("sh", "-c", "pgrep -u kubemin || true").split()
        return {int(pid) for pid in found}

    def journal(self, *matches: str) -> list[dict[str, Any]]:
        self.ok("journalctl", "--sync")
        lines = self.ok("journalctl", "-u", UNIT, "-o", "json", "--all", *matches).splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def messages(self, *matches: str) -> list[str]:
        return [str(record.get("MESSAGE", "")) for record in self.journal(*matches)]

    def tail(self) -> str:
        return self.run("journalctl", "-u", UNIT, "-n", "40", "--no-pager").out

    def restart(self) -> None:
        self.ok("systemctl", "reset-failed", UNIT)
        self.ok("systemctl", "restart", UNIT)

    def until(self, predicate: Callable[[], Any], what: str, timeout: float = LONG) -> Any:
        return wait_until(predicate, timeout, what=what)
