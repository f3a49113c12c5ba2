"""A supervisor with stand-in children (see stand_in.py), as tests hold it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from support.notify import NotifySocket
from support.processes import alive, descendants, kill
from support.waiting import wait_until

from kubemin.scoreboard import Header, Scoreboard, SlotRecord
from kubemin.supervisor import wanted

PROGRAM = Path(__file__).with_name("stand_in.py")


class Supervised:
    def __init__(self, **settings: Any) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="kubemin-"))
        self.settings = {"max_workers": 3, "graceful_timeout": 5.0} | settings
        self.notify = NotifySocket(self.home / "notify")
        self.environ = os.environ | {"NOTIFY_SOCKET": str(self.notify.path)}
        self.process: subprocess.Popen[bytes] | None = None
        self._board: Scoreboard | None = None
        self._requests = 0

    # --- life ---

    def start(self, *, ready: bool = True) -> Supervised:
        self._board = None
        (self.home / "told.jsonl").unlink(missing_ok=True)
        with (self.home / "log").open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, str(PROGRAM), str(self.home), json.dumps(self.settings)],
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        if ready:
            self.wait_for_notify("READY=1")
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def wait_for_notify(self, line: str) -> None:
        pidfd = os.pidfd_open(self.pid)
        try:
            assert self.notify.wait(line, 15, pidfd), f"ended:\n{self.log}"
        finally:
            os.close(pidfd)

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float = 30) -> int:
        assert self.process is not None
        return self.process.wait(timeout)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            tree = descendants(self.pid)
            kill([self.pid, *tree])
            self.process.wait()
            wait_until(lambda: not any(map(alive, tree)), what="the end of the process tree")
        self.notify.close()
        shutil.rmtree(self.home, ignore_errors=True)

    # --- looking ---

    @property
    def log(self) -> str:
        return (self.home / "log").read_text()

    @property
    def board(self) -> Scoreboard:
        if self._board is None:
            path = self.home / "run" / "scoreboard"
            wait_until(path.exists, what="the scoreboard")
            self._board = Scoreboard.open(str(path))
        return self._board

    @property
    def header(self) -> Header:
        header = self.board.read_header()
        assert header is not None
        return header

    def slot(self, number: int) -> SlotRecord:
        record = self.board.read_slot(number)
        assert record is not None
        return record

    def workers(self) -> dict[int, int]:
        """slot -> pid of those that are idle or run something."""
        slots = {n: self.slot(n) for n in range(32)}
        return {n: r.pid for n, r in slots.items() if r.state in ("idle", "running") and alive(r.pid)}

    def told(self, type_: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        """What the coordinators were told, in order."""
        try:
            lines = (self.home / "told.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        messages = [json.loads(line) for line in lines]
        return [
            m
            for m in messages
            if (type_ is None or m["type"] == type_) and all(m.get(key) == value for key, value in fields.items())
        ]

    def wait_told(self, type_: str, timeout: float = 10, **fields: Any) -> dict[str, Any]:
        return wait_until(lambda: self.told(type_, **fields), timeout, what=f"{type_} {fields}")[-1]

    @property
    def coordinator(self) -> int:
        pid: int = wait_until(lambda: self.told("coordinator"))[-1]["by"]
        return pid

    def descriptors(self) -> list[str]:
        """What the supervisor has open, without the numbers that the kernel gives; and without /proc, which it reads
        now and then (its own memory map when it has said that it is ready)."""
        links = []
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                links.append(os.readlink(link))
        return sorted(re.sub(r":\[\d+\]$", "", link) for link in links if not link.startswith("/proc/"))

    # --- acting ---

    def order(self, **order: Any) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(json.dumps(order).encode(), str(self.home / "orders"))

    def task(self, slot: int, token: int, **what: Any) -> None:
        """Give a worker a task and wait until it has begun."""
        self.wait_told("worker", pid=self.slot(slot).pid)
        self.order(slot=slot, token=token, **what)
        wait_until(lambda: self.slot(slot).token == token, what=f"task {token} in slot {slot}\n{self.log}")

    def let(self, name: str) -> None:
        """End what waits for this: a task with `until=name`, a coordinator with `hang_until=name`."""
        (self.home / name).touch()

    def plan(self, **plan: Any) -> None:
        """What children do from their next start on."""
        (self.home / "plan.json").write_text(json.dumps(plan))

    def check(self, **plan: Any) -> None:
        """What the next checks come to."""
        (self.home / "check.json").write_text(json.dumps(plan))

    def request(self, number: int, **wish: Any) -> str:
        self._requests += 1
        request = f"request-{os.getpid()}-{self._requests}"
        wanted.write(str(self.home / "run"), wanted.Wanted(request=request, **wish))
        self.send(number)
        return request

    def outcome(self, request: str, timeout: float = 15) -> tuple[bool, str]:
        wait_until(lambda: self.header.request == request, timeout, what=f"the outcome\n{self.log}")
        return self.header.outcome_ok, self.header.outcome

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.send(number)
        return self.wait()
