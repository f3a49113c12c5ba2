"""kubemin beside its peers, through the harness that measured them, unchanged, in one run on one server.

    python tests/bench/bench_peers.py HARNESS --peer huey=VENV/bin/python --peer taskiq:safe=VENV/bin/python
        [--case thr …] [--n 12000] [--reps 3] [--tag aof]

HARNESS is the folder with the harness' drive.py; a peer is its name there, with its mode behind a colon, and the Python
of the environment that has it. kubemin goes first and last, so that a machine that changes under the run shows. Each
case prints medians, the lowest and the highest run, and kubemin's ratio to the best peer.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.redis_server import Server

OURS = Path(__file__).parent / "peers"
SMALLER_IS_BETTER = {"lat", "mem", "boot", "stop", "crash-worker", "crash-all"}
SIZES = {"thr": 40_000, "cmds": 20_000, "enq": 10_000, "lat": 200, "wf": 500}  # of kubemin; peers take a tenth and up
PEER_SIZES = {"thr": 8000, "cmds": 8000, "enq": 4000, "lat": 100, "wf": 200}
LONGEST = 600.0  # seconds for one peer in one case


Found = dict[str, object]  # one line of the harness


class Peer:
    def __init__(self, text: str) -> None:
        name, _, self.python = text.partition("=")
        self.name, _, mode = name.partition(":")
        self.mode = mode or "default"
        self.shown = self.name if self.mode == "default" else f"{self.name} {self.mode}"


def results(options: argparse.Namespace, peer: Peer, case: str, server: Server, folder: str) -> Iterator[Found]:
    ours = peer.name == "kubemin"
    size = (SIZES if ours else PEER_SIZES).get(case, 1)
    command = [peer.python, str(options.harness / "drive.py"), peer.name, case, "--n", str(size)]
    command += ["--reps", str(options.reps)]
    environment = os.environ | {"BENCH_MODE": peer.mode, "BENCH_REDIS_PORT": str(server.port), "BENCH_DISK": folder}
    if ours:
        environment["PYTHONPATH"] = str(OURS)
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LONGEST, check=False)
    except subprocess.TimeoutExpired:
        print(f"{case:12} {peer.shown:20} took more than {LONGEST:.0f} s")
        return
    if not done.stdout.strip():
        print(f"{case:12} {peer.shown:20} printed nothing: {done.stderr.strip()[-300:]}")
    for each in done.stdout.splitlines():
        yield json.loads(each)


def value_of(found: Found) -> float | None:
    value = found.get("median", found.get("restarted_after_s", found.get("redis_cpu_us_per_task")))
    return float(value) if isinstance(value, (int, float)) else None


def shown(found: Found) -> str:
    if "median" not in found:
        return json.dumps({name: each for name, each in found.items() if name not in ("peer", "mode", "case")})
    more = {name: found[name] for name in ("incomplete", "missing", "finished", "cpu_us_per_task") if found.get(name)}
    text = f"{found['median']:>12,} {found['unit']:8} [{found['min']:,} … {found['max']:,}]"
    return f"{text} {json.dumps(more) if more else ''}"


def run_case(options: argparse.Namespace, case: str, peers: list[Peer], server: Server, folder: str) -> None:
    ours: dict[str, list[float]] = {}
    theirs: dict[str, list[tuple[float, str]]] = {}
    for peer in peers:
        for found in results(options, peer, case, server, folder):
            what = str(found.get("how", ""))
            what = what.split(" ", 1)[1] if case == "wf" and " " in what else what
            print(f"{case:12} {what:26} {peer.shown:20} {shown(found)}", flush=True)
            if (value := value_of(found)) is None:
                continue
            if peer.name == "kubemin":
                ours.setdefault(what, []).append(value)
            else:
                theirs.setdefault(what, []).append((value, peer.shown))
    best = min if case in SMALLER_IS_BETTER else max
    for what, values in ours.items():
        if what in theirs:
            value, name = best(theirs[what])
            ratios = ", ".join(f"{each / value:.2f}" for each in values)
            print(f"{case:12} {what:26} kubemin / {name}: {ratios}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("harness", type=Path)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME[:MODE]=PYTHON")
    parser.add_argument("--case", nargs="*", default=["thr", "enq", "lat", "wf", "mem", "boot", "stop", "cmds"])
    parser.add_argument("--reps", type=int, default=3)
    options = parser.parse_args()
    us = Peer(f"kubemin={sys.executable}")
    peers = [us, *map(Peer, options.peer), us]
    with tempfile.TemporaryDirectory(prefix="kubemin-bench-peers-", dir=os.environ.get("BENCH_DISK")) as folder:
        server = Server("redis", folder=Path(folder), appendonly="yes", appendfsync="everysec")
        server.start()
        try:
            for case in options.case:
                run_case(options, case, peers, server, folder)
        finally:
            server.close()


if __name__ == "__main__":
    main()
