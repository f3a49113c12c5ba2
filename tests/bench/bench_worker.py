"""What a worker costs a task: a no-op Python function, packet in to result packet out.

`python tests/bench/bench_worker.py [TASKS]` forks a real worker, keeps a window of packets in its channel as a
coordinator would, and prints its CPU time a task and the memory that is its own.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from kubemin.channel import TASK, PacketConnection, pack_task, packet_pair
from kubemin.config.settings import Python, Settings
from kubemin.model.records import Claim
from kubemin.scoreboard import Scoreboard
from kubemin.worker.process import run_worker

WINDOW = 64
WORK = msgspec.Raw(b'{"python":"bench_functions:add","args":[1],"with":{"b":2}}')


def claim(token: int) -> Claim:
    return Claim("0" * 20, 0, "add", "", token, 1, 1200.0, WORK, quiet=True)


def feed(tasks: PacketConnection, reports: PacketConnection, total: int) -> None:
    poll = select.poll()
    poll.register(reports.fileno(), select.POLLIN)
    sent = done = 0
    while done < total:
        while sent < total and sent - done < WINDOW and tasks.try_send(TASK, pack_task(done, claim(sent + 1))):
            sent += 1
        if not poll.poll(10_000):
            sys.exit(f"no report after {done} tasks")
        while reports.try_recv() is not None:
            done += 1


def private_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024


def main(total: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "bench_functions.py").write_text("def add(a, b=0): return a + b\n")
        settings = Settings(
            state_dir=folder, runtime_dir=folder, python=Python(path=(folder,), allow=("bench_functions:*",))
        )
        board = Scoreboard.create(f"{folder}/scoreboard")
        tasks, tasks_reader = packet_pair()
        reports, worker_reports = packet_pair()
        gc.freeze()
        pid = os.fork()
        if pid == 0:
            run_worker(
                slot=0, incarnation=1, generation=1, instance="bench", settings=settings, board=board,
                tasks=tasks_reader, reports=worker_reports,
            )  # fmt: skip
            os._exit(0)
        feed(tasks, reports, 1000)
        began = time.perf_counter()
        feed(tasks, reports, total)
        seconds = time.perf_counter() - began
        memory = private_bytes(pid)
        os.kill(pid, signal.SIGTERM)
        _, _, used = os.wait4(pid, 0)
        cpu = (used.ru_utime + used.ru_stime) / (total + 1000)
        print(
            f"worker: {cpu * 1e6:.1f} us CPU a task ({total / seconds:,.0f} tasks/s), {memory / 1e6:.1f} MB of its own"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
