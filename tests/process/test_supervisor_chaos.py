"""Random faults for some seconds: afterwards the supervisor has exactly what it should have, and no more."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from supervised import Supervised
from support.processes import alive, descendants
from support.waiting import wait_until

SECONDS = 6.0


def title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()


def settled(daemon: Supervised, workers: int) -> bool:
    return sorted(daemon.workers()) == list(range(workers)) and len(descendants(daemon.pid)) == workers + 1


def faults(daemon: Supervised, dice: random.Random) -> list[Callable[[], None]]:
    def kill(pid: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def victim() -> int:
        return dice.choice(list(daemon.workers().values()) or [daemon.coordinator])

    def order(**what: object) -> None:
        with contextlib.suppress(OSError):
            daemon.order(**what)

    return [
        lambda: kill(victim(), signal.SIGKILL),
        lambda: kill(victim(), signal.SIGTERM),
        lambda: kill(victim(), dice.choice([signal.SIGHUP, signal.SIGUSR1, signal.SIGCONT])),
        lambda: kill(daemon.coordinator, signal.SIGKILL),
        lambda: kill(daemon.coordinator, signal.SIGTERM),
        lambda: order(hang=0.5),
        lambda: order(slot=dice.randrange(3), token=dice.randrange(1, 10**9), seconds=dice.random(), deadline=0.3),
        lambda: order(slot=dice.randrange(3), token=dice.randrange(1, 10**9), seconds=9, leave="left"),
        lambda: daemon.send(signal.SIGHUP),
        lambda: daemon.send(signal.SIGUSR1),
        lambda: daemon.send(signal.SIGUSR2),
        lambda: daemon.send(dice.choice([signal.SIGTTIN, signal.SIGTTOU])),
    ]


def test_random_faults(supervised: Supervised) -> None:
    seed = int(os.environ.get("KUBEMIN_TEST_SEED") or random.randrange(10**6))
    print(f"seed {seed}")
    dice = random.Random(seed)
    choices = faults(supervised, dice)
    wait_until(lambda: settled(supervised, 3))
    before = supervised.descriptors()
    end = time.monotonic() + SECONDS
    done = 0
    while time.monotonic() < end:
        dice.choice(choices)()
        done += 1
        time.sleep(dice.random() * 0.05)  # only the pace of the faults: no result depends on it
    assert alive(supervised.pid), supervised.log
    supervised.outcome(supervised.request(signal.SIGTTIN, workers=3, drained=False), 30)
    try:
        wait_until(lambda: settled(supervised, 3), 40, what=f"exactly three workers after {done} faults, seed {seed}")
    except AssertionError:
        print(supervised.workers(), [(pid, title(pid)) for pid in descendants(supervised.pid)])
        print(supervised.log[-6000:])
        raise
    try:
        wait_until(lambda: supervised.descriptors() == before, 20, what=f"the descriptors of before, seed {seed}")
    except AssertionError:
        print(f"before {Counter(before)}\nnow    {Counter(supervised.descriptors())}\n{supervised.log[-6000:]}")
        raise
    print(f"{done} faults: {len(supervised.told('died'))} deaths, {len(supervised.told('coordinator'))} coordinators")
    pids = {m["pid"] for m in supervised.told("worker")}
    lost = pids - {m["pid"] for m in supervised.told("died")} - set(supervised.workers().values())
    assert not lost, "every death was told"
    tree = descendants(supervised.pid)
    assert supervised.stop() == 0
    assert not any(map(alive, tree))
