"""Runs inside the machine: submits runs without pause until it is told to stop, then says what it submitted.

`load.py STOPFILE PAUSE`: runs of the workflow `tick`, one JSON list of their ids on standard output. A submission that
finds no daemon is tried again with the same key, so it is one run. At most `OPEN` runs have not ended: more than the
workers can do, and no backlog of hours.
"""

from __future__ import annotations

import json
import os
import sys
import time

from kubemin import Client
from kubemin.errors import KubeminError

OPEN = 30
ENDED = frozenset({"completed", "failed", "timeout", "cancelled"})


def main() -> None:
    stop, pause = sys.argv[1], float(sys.argv[2])
    accepted: list[str] = []
    open_runs: list[str] = []
    client = Client.from_config()
    while not os.path.exists(stop):
        key = f"load-{len(accepted)}"
        try:
            if len(open_runs) >= OPEN:
                states = client.states(open_runs)
                open_runs = [run for run in open_runs if states.get(run) not in ENDED]
            if len(open_runs) < OPEN:
                accepted.append(client.submit("tick", key=key).id)
                open_runs.append(accepted[-1])
        except KubeminError:
            time.sleep(0.1)  # the daemon is away; the same key again
        time.sleep(pause)
    print(json.dumps(accepted))


main()
