"""What a call costs, so that a promise about speed holds on a busy machine, too."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def fastest(call: Callable[[], object], times: int) -> float:
    """CPU seconds a call, the best of five rounds: what the machine's other work does not disturb."""
    rounds = []
    for _ in range(5):
        begin = time.process_time()
        for _ in range(times):
            call()
        rounds.append((time.process_time() - begin) / times)
    return min(rounds)


def counted(client: Any, act: Callable[[], object]) -> dict[str, int]:
    """Commands of the Redis server, by name and with those inside scripts, while `act` runs."""
    client.execute("CONFIG", "RESETSTAT")
    act()
    lines = client.execute("INFO", "commandstats").decode().splitlines()[1:]
    stats = {line.split(":")[0][8:]: int(line.split("calls=")[1].split(",")[0]) for line in lines if line}
    return {name: count for name, count in stats.items() if not name.startswith(("config", "info"))}
