"""A supervisor with stand-in children, to be run as a program: `stand_in.py HOME SETTINGS_JSON`.

The supervisor is the real one, and so are forks, signals and channels. The stand-in worker does what a task packet
says; the stand-in coordinator notes what it is told in HOME/told.jsonl and takes orders at HOME/orders; the stand-in
check takes its result from HOME/check.json.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from kubemin.channel import PacketConnection, from_fd
from kubemin.clock import boottime
from kubemin.config import ReloadResult, Settings
from kubemin.config.reload import write_result
from kubemin.errors import KubeminError, Problem
from kubemin.scoreboard import Scoreboard
from kubemin.supervisor.node import Entries
from kubemin.supervisor.process import supervise
from kubemin.telemetry import log

HOME = Path(sys.argv[1])
TASK = b"T"
LONGEST = 60.0  # seconds that something waits for the test


def note(**what: Any) -> None:
    line = json.dumps(what | {"at": time.monotonic(), "by": os.getpid()}) + "\n"
    fd = os.open(HOME / "told.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, line.encode())
    os.close(fd)


# --- worker -----------------------------------------------------------------------------------------------------------


class Ended(Exception):
    pass


def worker(
    *, slot: int, generation: int, board: Scoreboard, tasks: PacketConnection, settings: Settings, **_: Any
) -> int:
    plan = _plan()
    if slot in plan.get("die", ()) or generation in plan.get("die_generation", ()):
        os._exit(plan.get("code", 7))
    ending = False

    def on_term(*_: Any) -> None:
        nonlocal ending
        ending = True

    def on_int(*_: Any) -> None:
        raise Ended

    wake, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGTERM, on_term)
    signal.signal(signal.SIGINT, on_int)
    signal.set_wakeup_fd(wakeup)
    writer, done = board.slot_writer(slot), 0
    writer.idle(0)
    poller = select.poll()
    for fd in (tasks.fileno(), wake):
        poller.register(fd, select.POLLIN)
    with contextlib.suppress(Ended):
        while not ending:
            poller.poll()
            packet = tasks.try_recv() if not ending else None
            if packet is None:
                continue
            done += 1
            task = json.loads(packet[1])
            if task.get("stubborn"):
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            deadline = boottime() + task["deadline"] if "deadline" in task else 0.0
            writer.running(task.get("run", "r"), 0, task["token"], task.get("label", "w/s"), boottime(), deadline)
            _do(task)
            note(type="ran", slot=slot, token=task["token"], generation=generation)
            writer.idle(done)
    return 0


def _plan() -> dict[str, Any]:
    try:
        return dict(json.loads((HOME / "plan.json").read_text()))
    except FileNotFoundError:
        return {}


def _do(task: dict[str, Any]) -> None:
    until = time.monotonic() + task.get("seconds", 0)
    if "leave" in task:
        _leave_daemon(task["leave"])
    if "quit" in task:
        os._exit(task["quit"])
    while (left := until - time.monotonic()) > 0:
        time.sleep(left)
    if "until" in task:
        _wait_for(task["until"])
    if "leave" in task:
        os._exit(0)  # a real worker would kill what its step left; this one leaves it to the supervisor


def _wait_for(name: str) -> None:
    """Until the test makes the file HOME/NAME."""
    deadline = time.monotonic() + LONGEST
    while not (HOME / name).exists() and time.monotonic() < deadline:
        time.sleep(0.005)


def _leave_daemon(name: str) -> None:
    """A double fork with setsid, and a child below that: what P8 is about."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            (HOME / f"{name}-child").write_text(str(os.getpid()))
        else:
            (HOME / name).write_text(str(os.getpid()))
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(60)


# --- coordinator ------------------------------------------------------------------------------------------------------


def coordinator(*, control: PacketConnection, predecessor: list[Any], **_: Any) -> int:
    note(type="coordinator", predecessor=predecessor)
    plan = _plan()
    if "coordinator_exit" in plan:
        return int(plan["coordinator_exit"])
    orders = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(HOME / "orders")
    orders.bind(str(HOME / "orders"))
    links: dict[int, list[PacketConnection]] = {}
    poller = select.poll()
    for fd in (control.fileno(), orders.fileno()):
        poller.register(fd, select.POLLIN)
    while True:
        poller.poll()
        with contextlib.suppress(BlockingIOError):
            order = json.loads(orders.recv(65536, socket.MSG_DONTWAIT))
            if "exit" in order:
                return int(order["exit"])
            if "hang" in order:
                time.sleep(order["hang"])
            elif "hang_until" in order:
                _wait_for(order["hang_until"])
            elif "kill" in order:
                control.send_with_fds({"type": "kill", **order["kill"]})
            else:
                links[order["slot"]][0].try_send(TASK, json.dumps(order).encode())
        while (received := control.recv_with_fds()) is not None:
            message, fds = received
            note(**message, fds=len(fds))
            if message["type"] == "worker":
                links[message["slot"]] = [from_fd(fd) for fd in fds]
            elif message["type"] == "attached":
                control.send_with_fds({"type": "ready"})
            elif message["type"] == "reload":
                control.send_with_fds({"type": "published"})
            elif message["type"] == "finish":
                return 0


# --- check ------------------------------------------------------------------------------------------------------------


class StandInCheck:
    def prepare(self) -> ReloadResult:
        return self._leave(ReloadResult(True, None))

    def __call__(self, current: Settings) -> ReloadResult:
        note(type="check")
        path = HOME / "check.json"
        plan = json.loads(path.read_text()) if path.exists() else {}
        time.sleep(plan.get("seconds", 0))
        if plan.get("crash"):
            os._exit(9)
        problems = tuple(Problem("maxWorkers", "range", text) for text in plan.get("problems", ()))
        settings = msgspec.structs.replace(current, **plan.get("settings", {}))
        return self._leave(ReloadResult(not problems, settings, problems))

    def _leave(self, result: ReloadResult) -> ReloadResult:
        write_result(str(HOME / "run"), result)
        return result


def main() -> int:
    settings = Settings(
        node_id="here", state_dir=str(HOME / "state"), runtime_dir=str(HOME / "run"), **json.loads(sys.argv[2])
    )
    log.configure(level="debug", format="text", role="supervisor", node="here")
    try:
        return supervise(settings, Entries(worker, coordinator, StandInCheck()))
    except KubeminError as exc:
        print(f"kubemind: {exc}", file=sys.stderr)
        return exc.exit_code


if __name__ == "__main__":
    sys.exit(main())
