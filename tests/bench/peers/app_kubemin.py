"""kubemin in the harness that measured its peers: the same cases, the same tasks, the same clock.

`bench_peers.py` starts the harness with this folder on its path; `common` is the harness' own. A daemon with two
workers, its configuration otherwise the default. Modes (`BENCH_MODE`): `fleet` (with Redis) and `local` (SQLite).
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import common

ROOT = Path(__file__).resolve().parents[3]
FOLDER = Path(tempfile.mkdtemp(prefix="kubemin-peer-", dir=os.environ.get("BENCH_DISK")))
FAN = 20
STARTS = itertools.count()

noop, lat, slow = common.noop, common.lat, common.slow


def step(i: int) -> int:
    return common.step(i)


def _steps(mode: str, steps: Iterable[str]) -> str:
    lines = "\n".join(f"  - {each}" for each in steps)
    return f"name: bench-{mode.lower()}\nmode: {mode}\nsteps:\n{lines}\n"


def _step(name: str, number: int, needs: Iterable[str] = ()) -> str:
    after = f", needs: [{', '.join(needs)}]" if needs else ""
    return f"{{name: {name}, python: 'app_kubemin:step', with: {{i: {number}}}{after}}}"


CHAIN = _steps("StepByStep", (_step(f"s{n}", n) for n in range(10)))
MIDDLE = [f"m{n}" for n in range(FAN)]
FANNED = _steps(
    "DAG", (_step("first", 0), *(_step(m, n + 1, ["first"]) for n, m in enumerate(MIDDLE)), _step("last", 21, MIDDLE))
)


def _configure(name: str, workers: int) -> Path:
    """A folder of its own for each start: the harness empties the server between its runs."""
    folder = FOLDER / name
    (folder / "workflows.d").mkdir(parents=True, exist_ok=True)
    lines = [
        f"stateDir: {folder}/state",
        f"runtimeDir: {folder}/run",
        f"maxWorkers: {workers}",
        f"python: {{path: ['{Path(__file__).parent}', '{Path(common.__file__).parent}'], allow: ['app_kubemin:*']}}",
    ]
    if "local" not in common.MODE:
        lines.append(f"redisAddr: 127.0.0.1:{common.PORT}")
    path = folder / "kubemin.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def worker_cmd(procs: int) -> list[list[str]]:
    config = _configure("local" if "local" in common.MODE else f"start{next(STARTS)}", procs)
    return [[sys.executable, str(ROOT / "bin" / "kubemind"), "--config", str(config)]]


class Producer:
    def __init__(self) -> None:
        import kubemin

        self._client = kubemin.Client.from_config(str(_configure("local" if "local" in common.MODE else "producer", 2)))
        for name, text in (("chain", CHAIN), ("fan", FANNED)):
            (FOLDER / f"{name}.yaml").write_text(text)

    def singly(self, ids: Iterable[int]) -> None:
        for i in ids:
            self._client.enqueue("app_kubemin:noop", i)

    def bulk(self, ids: Iterable[int]) -> None:
        self._client.enqueue_many("app_kubemin:noop", [((i,), {}) for i in ids])

    def lat(self, began: float) -> None:
        self._client.enqueue("app_kubemin:lat", began)

    def slow(self, i: int, seconds: float) -> None:
        self._client.enqueue("app_kubemin:slow", i, seconds)

    def chains(self, count: int, length: int) -> None:
        assert length == 10
        for _ in range(count):
            self._client.submit(str(FOLDER / "chain.yaml"))

    def fans(self, count: int, width: int) -> None:
        assert width == FAN
        for _ in range(count):
            self._client.submit(str(FOLDER / "fan.yaml"))
