"""Random kills of everything under load, seeded. The oracle: what was accepted ended, each task with one accepted
completion, and nothing is left over.

Every attempt appends `RUN STEP TOKEN` to a log of effects *before* it ends. Afterwards: each accepted run is
terminal; the token that the store accepted for a task is one that really ran; tokens of a task only rise in the order
of their effects; no process that names the daemon's directories lives.
"""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from mixture import FUNCTIONS, WORKFLOW, Load, check_tasks, ran, send_signal
from support import Daemon
from support.functions import install
from support.processes import descendants
from support.watching import coordinator, slots


def strike(daemon: Daemon, rng: random.Random) -> str:
    """One fault; the daemon is running again, or will be by itself, afterwards."""
    what = rng.choices(["worker", "coordinator", "stop-coordinator", "stop-worker", "supervisor", "all", "hup"],
                       [8, 4, 1, 1, 2, 2, 1])[0]  # fmt: skip
    if what in ("worker", "stop-worker"):
        if records := slots(daemon):
            send_signal(rng.choice(records).pid, signal.SIGKILL if what == "worker" else signal.SIGSTOP)
            if what == "stop-worker":
                threading.Timer(0.5, _continue_all, [daemon]).start()
    elif "coordinator" in what:
        record = coordinator(daemon)
        if record and record.pid:
            send_signal(record.pid, signal.SIGKILL if what == "coordinator" else signal.SIGSTOP)
    elif what == "hup":
        daemon.send(signal.SIGHUP)
    else:
        daemon.kill9(everything=what == "all")
        daemon.start(ready=False)
    return what


def _continue_all(daemon: Daemon) -> None:
    with contextlib.suppress(Exception):
        for pid in descendants(daemon.pid):
            send_signal(pid, signal.SIGCONT)


def test_nothing_accepted_is_lost_and_nothing_ends_twice(
    start_daemon: Callable[..., Daemon], tmp_path: Path, seed: int, chaos_seconds: float
) -> None:
    rng = random.Random(seed)
    python = install(tmp_path, "chaosfunctions", FUNCTIONS)
    effects = tmp_path / "effects"
    effects.touch()
    daemon = start_daemon(
        started=False,
        maxWorkers=3,
        log={"level": "info", "format": "text"},
        python=python,
    )
    daemon.workflow("mixture.yaml", WORKFLOW.format(log=effects))
    daemon.start()
    load = Load(daemon, effects, random.Random(seed + 1))
    load.start()
    struck: Counter[str] = Counter()
    end = time.monotonic() + chaos_seconds
    while time.monotonic() < end:
        time.sleep(rng.expovariate(4.0))  # the faults' own pace, not a wait for anything
        struck[strike(daemon, rng)] += 1
    load.end.set()
    load.join(30)
    assert not load.is_alive()

    states = daemon.client.wait(load.accepted, timeout=120)
    print(f"seed {seed}: {len(load.accepted)} runs accepted, struck {dict(struck)}, ended {Counter(states.values())}")
    assert set(states) == set(load.accepted), "an accepted run is unknown"
    _check_effects(daemon, load.accepted, effects)
    assert daemon.stop() == 0
    assert daemon.leftovers() == []


def _check_effects(daemon: Daemon, accepted: list[str], effects: Path) -> None:
    found = ran(effects)
    for (run, step), tokens in found.items():
        assert tokens == sorted(tokens), f"{run} {step}: an older attempt took effect after a newer one"
    for run in accepted:
        check_tasks(run, daemon.client.run(run).view().tasks, found)
