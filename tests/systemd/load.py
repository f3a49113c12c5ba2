"""Runs inside the machine: submits runs without pause until it is told to stop, then says what it submitted.

`load.py STOPFILE MODE`: runs of the workflow `tick`, one JSON list of their ids on standard output. A submission that
finds no daemon is tried again with the same key, so it is one run.
"""

from __future__ import annotations

import json
import os
import sys
import time

from kubemin import Client
from kubemin.errors import KubeminError


def main() -> None:
    stop, pause = sys.argv[1], float(sys.argv[2])
    accepted: list[str] = []
    client = Client.from_config()
    while not os.path.exists(stop):
        key = f"load-{len(accepted)}"
        try:
            accepted.append(client.submit("tick", key=key).id)
        except KubeminError:
            time.sleep(0.1)  # the daemon is away; the same key again
        time.sleep(pause)
    print(json.dumps(accepted))


main()
