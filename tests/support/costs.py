"""What a call costs, so that a promise about speed holds on a busy machine, too."""

from __future__ import annotations

import time
from collections.abc import Callable


def fastest(call: Callable[[], object], times: int) -> float:
    """CPU seconds a call, the best of five rounds: what the machine's other work does not disturb."""
    rounds = []
    for _ in range(5):
        begin = time.process_time()
        for _ in range(times):
            call()
        rounds.append((time.process_time() - begin) / times)
    return min(rounds)
