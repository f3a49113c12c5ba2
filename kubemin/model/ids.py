"""Run ids: 20 characters, sortable by time, safe in file names, labels and URLs.

45 bits of milliseconds, 31 random bits a generator, 24 bits of counter, in lower-case Crockford base 32.
Made by the client, so that a submission repeated after a lost reply is recognised.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from kubemin import clock

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]  # two characters (10 bits) at a time
RUN_ID_PATTERN = r"^[0-9a-hjkmnp-tv-z]{20}$"
_COUNTER_BITS = 24
_TIME_CHARACTERS = 9  # five bits each
_BASE_32 = dict(zip(_ALPHABET, "0123456789abcdefghijklmnopqrstuv", strict=True))  # what int() reads
_LOW = (1 << 50) - 1


def _encode(number: int) -> str:
    return _half(number >> 50) + _half(number & _LOW)


def _half(n: int, pairs: list[str] = _PAIRS) -> str:
    """Ten characters of 50 bits, which fit a machine's word."""
    return f"{pairs[n >> 40]}{pairs[n >> 30 & 1023]}{pairs[n >> 20 & 1023]}{pairs[n >> 10 & 1023]}{pairs[n & 1023]}"


def run_ids(count: int) -> Iterator[str]:
    """`count` fresh ids in rising order, at most 2^24 (16 million)."""
    if count > 1 << _COUNTER_BITS:
        raise ValueError(f"at most {1 << _COUNTER_BITS} ids at once")
    head = _head()
    for n in range(count):
        yield _encode(head | n)


def run_id() -> str:
    return _encode(_head())


def _head() -> int:
    """Without the counter."""
    return (clock.wall() // 1000) << 55 | int.from_bytes(os.urandom(4), "big") >> 1 << _COUNTER_BITS


def made_at(run: str) -> clock.Micros:
    """When its client made it, to the millisecond."""
    return (int("".join(map(_BASE_32.__getitem__, run[:_TIME_CHARACTERS])), 32)) * 1000


def split_task(task: str) -> tuple[str, int]:
    """`RUN.IDX` -> (run, idx). Raises ValueError."""
    run, _, idx = task.rpartition(".")
    return run, int(idx)
