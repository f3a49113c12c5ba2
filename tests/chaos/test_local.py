"""Random kills of everything under load, seeded. The oracle: what was accepted ended, each task with one accepted
completion, and nothing is left over.

Every attempt appends `RUN STEP TOKEN` to a log of effects *before* it ends. Afterwards: each accepted run is
terminal; the token that the store accepted for a task is one that really ran; tokens of a task only rise in the order
of their effects; no process that names the daemon's directories lives.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import Daemon

from kubemin.errors import KubeminError
from kubemin.model import ids
from kubemin.scoreboard import Scoreboard, SlotState

FUNCTIONS = """
import os, time, random
import kubemin

def effect(path, seconds=0.0):
    task = kubemin.current_task()
    time.sleep(seconds)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, f"{task.run} {task.step} {task.token}\\n".encode())
    os.close(fd)
    return task.token

def flaky(path):
    effect(path)
    if random.random() < 0.3:
        raise RuntimeError("as it happens")
    return 1
"""

WORKFLOW = """
name: mixture
mode: DAG
params: {{log: {{default: "{log}"}}}}
steps:
  - name: start
    python: chaosfunctions:effect
    with: {{path: "${{{{ params.log }}}}"}}
  - name: each
    python: chaosfunctions:effect
    with: {{path: "${{{{ params.log }}}}", seconds: 0.01}}
    forEach: [1, 2, 3, 4, 5, 6]
    maxParallel: 3
    needs: [start]
  - name: shell
    shell: |
      echo "$KUBEMIN_RUN $KUBEMIN_STEP $KUBEMIN_TOKEN" >> "$LOG"
      sleep 0.05
    env: {{LOG: "${{{{ params.log }}}}"}}
    needs: [start]
  - name: flaky
    python: chaosfunctions:flaky
    with: {{path: "${{{{ params.log }}}}"}}
    retry: {{limit: 2, delay: 100ms}}
    needs: [each]
  - name: always
    python: chaosfunctions:effect
    with: {{path: "${{{{ params.log }}}}"}}
    needs: [flaky, shell]
    when: always
"""


class Load(threading.Thread):
    """Submits until told to stop; knows what was acknowledged. What got no answer is repeated under its key.

    `most`: runs that may be open at once, so that workers are idle now and then, and what hangs is seen soon.
    """

    def __init__(self, daemon: Daemon, effects: Path, rng: random.Random, most: int = 1 << 30) -> None:
        super().__init__(daemon=True)
        self.accepted: list[str] = []
        self.end = threading.Event()
        self._daemon, self._effects, self._rng = daemon, effects, rng
        self._most, self._open, self._looked = most, list[str](), 0
        from kubemin import Client

        self._client = Client.from_config(str(daemon.config))

    def run(self) -> None:
        while not self.end.wait(self._rng.uniform(0.0, 0.03)):
            if self._is_ahead():
                continue
            key = ids.run_id()
            while True:
                try:
                    self.accepted += self._submit(key)
                    break
                except (KubeminError, OSError):
                    if self.end.is_set():
                        return
                    time.sleep(0.05)

    def _is_ahead(self) -> bool:
        self._open += self.accepted[self._looked :]
        self._looked = len(self.accepted)
        if len(self._open) > self._most:
            with contextlib.suppress(KubeminError, OSError):
                states = self._client.states(self._open)
                self._open = [run for run in self._open if states.get(run) in (None, "waiting", "running")]
        return len(self._open) > self._most

    def _submit(self, key: str) -> list[str]:
        kind = self._rng.random()
        path = str(self._effects)
        if kind < 0.5:
            return [self._client.enqueue("chaosfunctions:effect", path, self._rng.choice([0, 0, 0.005, 0.2])).id]
        if kind < 0.7:
            many = self._client.enqueue_many("chaosfunctions:effect", [((path,), {})] * self._rng.randint(2, 50))
            return [run.id for run in many]
        return [self._client.submit("mixture", key=key).id]


def strike(daemon: Daemon, rng: random.Random) -> str:
    """One fault; the daemon is running again, or will be by itself, afterwards."""
    what = rng.choices(["worker", "coordinator", "stop-coordinator", "stop-worker", "supervisor", "all", "hup"],
                       [8, 4, 1, 1, 2, 2, 1])[0]  # fmt: skip
    board = Scoreboard.open(str(daemon.run / "scoreboard"))
    if what in ("worker", "stop-worker"):
        records = [r for n in range(4) if (r := board.read_slot(n)) and r.state is not SlotState.DEAD and r.pid]
        if records:
            _signal(rng.choice(records).pid, signal.SIGKILL if what == "worker" else signal.SIGSTOP)
            if what == "stop-worker":
                threading.Timer(0.5, _continue_all, [daemon]).start()
    elif "coordinator" in what:
        record = board.read_coordinator()
        if record and record.pid:
            _signal(record.pid, signal.SIGKILL if what == "coordinator" else signal.SIGSTOP)
    elif what == "hup":
        daemon.send(signal.SIGHUP)
    else:
        daemon.kill9(everything=what == "all")
        daemon.start(ready=False)
    board.close()
    return what


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _continue_all(daemon: Daemon) -> None:
    from support.processes import descendants

    with contextlib.suppress(Exception):
        for pid in descendants(daemon.pid):
            _signal(pid, signal.SIGCONT)


def test_nothing_accepted_is_lost_and_nothing_ends_twice(
    start_daemon: Callable[..., Daemon], tmp_path: Path, seed: int, chaos_seconds: float
) -> None:
    rng = random.Random(seed)
    (tmp_path / "chaosfunctions.py").write_text(FUNCTIONS)
    effects = tmp_path / "effects"
    effects.touch()
    daemon = start_daemon(
        started=False,
        maxWorkers=3,
        log={"level": "info", "format": "text"},
        python={"path": [str(tmp_path)], "allow": ["chaosfunctions:*"]},
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
    _check_effects(daemon, load.accepted, states, effects)
    assert daemon.stop() == 0
    assert daemon.leftovers() == []


def _check_effects(daemon: Daemon, accepted: list[str], states: dict[str, Any], effects: Path) -> None:
    ran: dict[tuple[str, str], list[int]] = defaultdict(list)
    for line in effects.read_text().splitlines():
        run, step, token = line.split()
        ran[run, step].append(int(token))
    for (run, step), tokens in ran.items():
        assert len(set(tokens)) == len(tokens), f"{run} {step}: one token took effect twice"
        assert tokens == sorted(tokens), f"{run} {step}: an older attempt took effect after a newer one"
    for run in accepted:
        for task in daemon.client.run(run).view().tasks:
            if task.status == "completed" and task.token:
                assert task.token in ran[run, task.step], f"{task.id} completed and never ran"
            assert task.status not in ("running", "queued", "waiting"), f"{task.id} of {states[run]} run"
