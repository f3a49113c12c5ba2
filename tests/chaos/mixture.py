"""What runs under the storms of both chaos tests, and what must hold of it afterwards."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from support import Daemon

from kubemin.errors import KubeminError
from kubemin.model import ids
from kubemin.model.records import TaskView

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


def send_signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


Ran = dict[tuple[str, str], list[int]]


def ran(effects: Path) -> Ran:
    """(run, step) -> tokens in the order of their effects, no token twice."""
    found: Ran = defaultdict(list)
    for line in effects.read_text().splitlines():
        run, step, token = line.split()
        found[run, step].append(int(token))
    for (run, step), tokens in found.items():
        assert len(set(tokens)) == len(tokens), f"{run} {step}: one token took effect twice"
    return found


def check_tasks(run: str, tasks: Iterable[TaskView], found: Ran) -> None:
    """All have ended, and what completed is what ran."""
    for task in tasks:
        if task.status == "completed" and task.token:
            assert task.token in found[run, task.step], f"{task.id} completed and never ran"
        assert task.status not in ("running", "queued", "waiting"), f"{task.id} is {task.status}"
