"""A real worker process on real channels, with the test in the coordinator's and the supervisor's place."""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import time
from pathlib import Path
from typing import Any

import msgspec

from kubemin import channel, kernel
from kubemin.channel import packet_pair
from kubemin.config.settings import Log, Python, Settings
from kubemin.model.records import Claim, Outcome
from kubemin.model.states import Cause
from kubemin.scoreboard import Scoreboard, SlotRecord
from kubemin.telemetry import log
from kubemin.worker.process import run_worker

DEADLINE = 20.0


class WorkerProcess:
    def __init__(self, folder: Path, functions: str = "", patience: float = 0.0, **changes: Any) -> None:
        self.folder = folder
        self.patience = patience
        (folder / "functions").mkdir(exist_ok=True)
        (folder / "functions" / "work.py").write_text(functions)
        self.settings = msgspec.structs.replace(
            Settings(
                state_dir=str(folder),
                runtime_dir=str(folder),
                log=Log(level="debug"),
                python=Python(path=(str(folder / "functions"),), allow=("work:*", "missing:*", "broken:*")),
            ),
            **changes,
        )
        self.board = Scoreboard.create(str(folder / "scoreboard"))
        self.tasks, self.tasks_reader = packet_pair()
        self.reports, self._worker_reports = packet_pair()
        self.log = folder / "log"
        self.tokens = 0
        self.pid = self._fork()

    def _fork(self) -> int:
        parent = os.getpid()
        gc.collect()  # the test process' own garbage would close descriptors in the worker
        pid = os.fork()
        if pid:
            return pid
        code = 70
        try:
            fd = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            for number in (1, 2):
                os.dup2(fd, number)
            os.close(fd)
            kernel.die_with_parent(parent)
            for inherited in log.descriptors():  # of a test before this one: its log would go there
                os.close(inherited)
            log.configure(level="debug", format="json", role="worker 3")
            self.tasks.close()
            self.reports.close()
            code = run_worker(
                slot=3,
                incarnation=9,
                generation=1,
                instance="test",
                settings=self.settings,
                board=self.board,
                tasks=self.tasks_reader,
                reports=self._worker_reports,
                patience=self.patience,
            )
        except BaseException as error:
            os.write(fd, repr(error).encode())
        finally:
            os._exit(code)

    # --- the coordinator's part ---------------------------------------------------------------------------------------

    def claim(self, work: dict[str, Any], **changes: Any) -> Claim:
        self.tokens += 1
        fields: dict[str, Any] = {
            "run": "0123456789abcdefghjk", "idx": self.tokens, "step": "load", "workflow": "report",
            "token": self.tokens, "attempt": 1, "timeout": 30.0, "work": msgspec.Raw(json.dumps(work).encode()),
        }  # fmt: skip
        return Claim(**(fields | changes))

    def give(self, work: dict[str, Any], *, acked: int = 0, **changes: Any) -> Claim:
        claim = self.claim(work, **changes)
        assert self.tasks.try_send(channel.TASK, channel.pack_task(acked, claim))
        return claim

    def call(self, function: str, *args: Any, **with_: Any) -> Claim:
        return self.give({"python": f"work:{function}", "args": list(args), "with": with_})

    def report(self, within: float = DEADLINE) -> tuple[int, Outcome]:
        kind, body = self.packet(within)
        assert kind == channel.REPORT_KIND
        return channel.unpack_report(body)

    def hello(self) -> bool:
        return self.packet()[0] == channel.HELLO_KIND

    def packet(self, within: float = DEADLINE) -> tuple[int, bytes]:
        deadline = time.monotonic() + within
        poll = select.poll()
        poll.register(self.reports.fileno(), select.POLLIN)
        while (packet := self.reports.try_recv()) is None:
            left = deadline - time.monotonic()
            assert left > 0, f"no report; log: {self.log_text()}"
            poll.poll(left * 1000)
        return packet

    def outcome(self, within: float = DEADLINE) -> Outcome:
        return self.report(within)[1]

    def run(self, function: str, *args: Any, **with_: Any) -> Outcome:
        claim = self.call(function, *args, **with_)
        outcome = self.outcome()
        assert outcome.token == claim.token
        return outcome

    def cancel(self, token: int, cause: Cause = Cause.CANCELLED) -> None:
        assert self.reports.try_send(channel.CANCEL, channel.pack_cancel(token, cause))

    # --- the supervisor's part ----------------------------------------------------------------------------------------

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, within: float = DEADLINE) -> int:
        """The wait status as an exit code: negative for a signal."""
        fd = os.pidfd_open(self.pid)
        try:
            assert select.select([fd], [], [], within)[0], f"the worker lives on; log: {self.log_text()}"
        finally:
            os.close(fd)
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def record(self) -> SlotRecord:
        record = self.board.read_slot(3)
        assert record is not None
        return record

    def until(self, condition: Any, within: float = DEADLINE) -> None:
        """Poll a condition; for what gives no event."""
        deadline = time.monotonic() + within
        while not condition():
            assert time.monotonic() < deadline, f"never; log: {self.log_text()}"
            time.sleep(0.005)

    def running(self, token: int) -> None:
        self.until(lambda: self.record().token == token and self.record().state == "running")

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def log_records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log_text().splitlines() if line.startswith("{")]

    def lines(self) -> list[tuple[str, str]]:
        return [(r["stream"], r["message"]) for r in self.log_records() if "stream" in r]

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        for end in (self.tasks, self.tasks_reader, self.reports, self._worker_reports):
            end.close()
        self.board.close()
