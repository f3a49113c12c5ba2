"""What the benches of a machine alone and of a fleet share: a real daemon, the count at the end, a line of figures."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

import kubemin
from kubemin.scoreboard import Scoreboard, SlotRecord, SlotState

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = """
import os, time

def noop(n):
    return n

def stamp():
    return time.time()

def nap(seconds):
    time.sleep(seconds)

def total(values):
    return len(values)
"""


@functools.cache
def installed() -> dict[str, str]:
    """The environment of a daemon whose modules are compiled, as those of an installed package are: one that has to
    compile them starts twice as slowly, and each of its processes holds half a megabyte more."""
    folder = tempfile.mkdtemp(prefix="kubemin-bench-pycache-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = folder
    package = [sys.executable, "-m", "compileall", "-q", str(ROOT / "kubemin")]
    subprocess.run(package, env=environment, check=True)
    return environment


class Daemon:
    """A real daemon in a folder of its own. `before`: Python that its supervisor executes first, for what no setting
    says."""

    def __init__(self, workers: int = 2, *, before: str = "", **settings: object) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kubemin-bench-", dir=os.environ.get("BENCH_DISK")))
        (self.folder / "benchfunctions.py").write_text(FUNCTIONS)
        (self.folder / "workflows.d").mkdir()
        self.config = self.folder / "kubemin.yaml"
        lines = [
            f"stateDir: {self.folder}/state",
            f"runtimeDir: {self.folder}/run",
            f"maxWorkers: {workers}",
            f"python: {{path: ['{self.folder}'], allow: ['benchfunctions:*']}}",
            *(f"{name}: {value}" for name, value in settings.items()),
        ]
        self.config.write_text("\n".join(lines) + "\n")
        self.log = (self.folder / "log").open("ab")
        program = str(ROOT / "bin" / "kubemind")
        altered = f"{before}; import runpy, sys; sys.argv.pop(0); runpy.run_path({program!r}, run_name='__main__')"
        self._program = ["-c", altered, program] if before else [program]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Seconds from exec to ready."""
        began = time.monotonic()
        command = [sys.executable, *self._program, "--config", str(self.config)]
        self.process = subprocess.Popen(
            command, stderr=self.log, stdout=self.log, start_new_session=True, env=installed()
        )
        while not self.ready():
            if self.process.poll() is not None:
                raise SystemExit(f"the daemon ended: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.002)
        return time.monotonic() - began

    def ready(self) -> bool:
        with contextlib.suppress(Exception):
            header = self.board().read_header()
            return bool(header and header.ready and header.supervisor_pid == self.process.pid)
        return False

    def board(self) -> Scoreboard:
        return Scoreboard.open(str(self.folder / "run" / "scoreboard"))

    def client(self) -> kubemin.Client:
        return kubemin.Client.from_config(str(self.config))

    def pids(self) -> list[int]:
        parent = psutil.Process(self.process.pid)
        return [parent.pid, *(child.pid for child in parent.children(recursive=True))]

    def workers(self) -> list[int]:
        board = self.board()
        records = [board.read_slot(n) for n in range(64)]
        return [r.pid for r in records if r is not None and r.state is not SlotState.DEAD]

    def kill_all(self) -> None:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> float:
        began = time.monotonic()
        self.process.terminate()
        self.process.wait(timeout=60)
        return time.monotonic() - began

    def clean(self) -> None:
        with contextlib.suppress(Exception):
            self.kill_all()
        self.log.close()
        subprocess.run(["rm", "-rf", str(self.folder)], check=False)


@contextlib.contextmanager
def daemon(workers: int = 2, **settings: object) -> Iterator[Daemon]:
    it = Daemon(workers, **settings)
    it.start()
    try:
        yield it
    finally:
        it.clean()


COUNT = """
import sys, time, kubemin
client = kubemin.Client.from_config(sys.argv[1])
ids = open(sys.argv[2]).read().split()
terminal = {"completed", "failed", "timeout", "cancelled"}
left = ids
while set(client.states(left[-100:]).values()) - terminal:  # rarely looked at in full: looking costs the server as well
    time.sleep(0.02)
while left:
    states = client.states(left)
    left = [i for i in left if states.get(i) not in terminal]
    if left: time.sleep(min(0.2, len(left) / 50000))
outputs = client.outputs(ids)
assert len(outputs) == len(ids), (len(outputs), len(ids))
assert all(outputs[i] for i in ids), "an output is missing"
print(time.time())
"""


def counted(it: Daemon, ids: list[str]) -> float:
    """Wall time at which a fresh process had counted every run terminal, with its output."""
    listing = it.folder / "ids"
    listing.write_text("\n".join(ids))
    done = subprocess.run([sys.executable, "-c", COUNT, str(it.config), str(listing)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return float(done.stdout)


def line(name: str, values: list[float], unit: str, target: str, note: str = "") -> None:
    ordered = sorted(values)
    middle = statistics.median(ordered)
    print(
        f"{name:<46} {middle:>12,.2f} {unit:<8} [{ordered[0]:,.2f} … {ordered[-1]:,.2f}]  target {target}  {note}",
        flush=True,
    )


def running(it: Daemon, run: str, not_token: set[int]) -> SlotRecord:
    """Of the worker that runs this task, once its token is another one than these."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        board = it.board()
        for n in range(2):
            record = board.read_slot(n)
            if record and record.state is SlotState.RUNNING and record.run == run and record.token not in not_token:
                return record
        time.sleep(0.001)
    raise SystemExit("the task was not started again")


class Cpu:
    """Microseconds that each process of a daemon, the client (this process) and `others` used, for each of `count`."""

    def __init__(self, it: Daemon, **others: int) -> None:
        self._processes = {psutil.Process(pid): name for name, pid in others.items()} | {
            psutil.Process(pid): _part(pid) for pid in it.pids()
        }
        self._processes[psutil.Process()] = "client"
        self._before = self._used()

    def _used(self) -> dict[str, float]:
        used = dict.fromkeys(self._processes.values(), 0.0)
        for process, name in self._processes.items():
            if process.is_running():
                used[name] += sum(process.cpu_times()[:2])
        return used

    def each(self, count: int) -> str:
        used = {name: (now - self._before[name]) / count * 1e6 for name, now in self._used().items()}
        parts = ", ".join(f"{name} {micros:.0f}" for name, micros in used.items() if round(micros))
        return f"cpu {sum(used.values()) - used['client']:.0f} us ({parts})"


def _part(pid: int) -> str:
    title = " ".join(psutil.Process(pid).cmdline())
    return next((name for name in ("supervisor", "coordinator", "worker") if name in title), "others")
