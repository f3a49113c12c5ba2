"""What the supervisor has imported when it forks: all of it is in every worker, and some of it costs each of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

IMPORTS = """
import sys
import kubemin.cli.kubemind, kubemin.coordinator.process, kubemin.supervisor.process
import kubemin.worker.process, kubemin.worker.rehearsal
print(*sys.modules)
"""
IMPORTS_OF_A_FLEET = """
import sys
import kubemin.cli.kubemind, kubemin.coordinator.process, kubemin.supervisor.process
import kubemin.worker.process, kubemin.worker.rehearsal, kubemin.worker.fleet.process
from kubemin.config import Settings
from kubemin.errors import StoreUnavailable
from kubemin.store.redis import preload
from kubemin.store.redis.node import NodeStore
preload(Settings(redis_addr="localhost:1"))
try:
    NodeStore("localhost:1").check_server()
except StoreUnavailable:
    print(*sys.modules)
"""
# Hooks that run in every forked child (half a megabyte of pages of its own), or libraries of megabytes.
COSTLY = {
    *("threading", "random", "logging", "tempfile", "subprocess", "concurrent.futures", "multiprocessing", "asyncio"),
    *("hashlib", "_hashlib", "ssl", "redis", "kubernetes", "prometheus_client", "click", "rich", "yaml", "psutil"),
    *("encodings.idna", "unicodedata", "kubemin.coordinator.fleet.process"),
}


@pytest.mark.parametrize("imports", [IMPORTS, IMPORTS_OF_A_FLEET], ids=["alone", "fleet"])
def test_nothing_costly_is_imported_before_the_forks(imports: str) -> None:
    """Nor, in a fleet, by what each worker does after it: look a host up, and connect."""
    done = subprocess.run([sys.executable, "-c", imports], capture_output=True, text=True, check=True)
    assert done.stdout and not COSTLY & set(done.stdout.split())


def run(script: str) -> list[int]:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


PRIVATE = """
import os, signal, sys
import kubemin.supervisor.process
from kubemin.supervisor.forking import Child, Forker
from kubemin.supervisor.loop import Supervisor

def private(pid):
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_Dirty"))

def end(pids):
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

def one_by_one(children):
    for child in children:
        yield forker.fork(child)
        sorted(name for module in list(sys.modules.values()) for name in vars(module))  # what a supervisor does

said, told = os.pipe()
forker = Forker()
forker.prepare()
children = [Child(lambda: os.write(told, b"x") and signal.pause() or 0, "worker") for _ in range(4)]
for pids in (forker.fork_row(children)[0], list(one_by_one(children))):
    for _ in pids:
        os.read(said, 1)
    print(private(pids[1]))
    end(pids)
"""


def test_workers_forked_in_a_row_share_what_the_supervisor_writes_to() -> None:
    in_a_row, one_by_one = run(PRIVATE)
    assert in_a_row < one_by_one - 200  # KiB


HOLES = """
from kubemin.supervisor import heap
sizes = range(48, 513, 16)
holes = [bytes(size - heap._EMPTY) for _ in range(500) for size in sizes]
kept = [each for n, each in enumerate(holes) if n // len(sizes) % 2]
del holes
filled = heap.filling()
found = 0
for size in sizes:
    new = [bytes(size - heap._EMPTY) for _ in range(20)]
    found += sum(id(b) - id(a) != size for a, b in zip(new, new[1:]))
print(len(filled), found)
"""


def test_no_hole_of_the_heap_is_left_for_a_childs_objects() -> None:
    filled, apart = run(HOLES)
    assert filled > 1000
    assert apart <= 60  # two a size, where a new pool begins; without the filling none follows another


CODE = """
from kubemin import kernel

def resident():
    total, text = 0, False
    with open("/proc/self/smaps") as file:
        for line in file:
            if "-" in line.split()[0]:
                text = " r-xp " in line and "/" in line
            elif text and line.startswith("Rss:"):
                total += int(line.split()[1])
    return total

import decimal, json, sqlite3
before = resident()
kernel.forget_code()
print(before, resident())
"""


def test_program_text_is_given_back() -> None:
    before, after = run(CODE)
    assert after < 0.7 * before  # what runs comes back at once


def test_openssl_is_imported_before_the_forks_where_all_workers_need_it() -> None:
    secure = "Settings(redis_addr='rediss://localhost', signing_key_file='/key')"
    program = (
        f"import sys; from kubemin.config import Settings; from kubemin.store.redis import preload; preload({secure})"
    )
    done = subprocess.run([sys.executable, "-c", f"{program}; print(*sys.modules)"], capture_output=True, text=True)
    assert {"ssl", "hmac", "_hashlib"} <= set(done.stdout.split()), done.stderr
