"""Waiting for a condition, always with a deadline: no test's result depends on a sleep."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
MOST_SLACK = 4.0  # times: a bound that gives way for ever proves nothing


def wait_until(predicate: Callable[[], T], timeout: float = 10.0, *, what: str = "") -> T:
    """The first truthy value of `predicate`. Fails the test after `timeout` seconds, naming what did not come."""
    deadline = time.monotonic() + timeout
    pause = 0.002
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what or predicate}; last value: {value!r}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)
    return value


def slack(seconds: float) -> float:
    """What to allow beyond a promise: `seconds` on a machine with a core for each process that wants one, more on a
    busier one."""
    crowd = os.getloadavg()[0] / (os.cpu_count() or 1)
    return seconds * min(max(crowd / 2, 1.0), MOST_SLACK)
