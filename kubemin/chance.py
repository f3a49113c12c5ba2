"""Chance for jitter, from the kernel: the module `random` hooks into every fork, at half a megabyte a worker."""

from __future__ import annotations

import os


def fraction() -> float:
    """Even over [0, 1)."""
    return (int.from_bytes(os.urandom(7), "big") >> 3) / (1 << 53)


def between(low: float, high: float) -> float:
    return low + (high - low) * fraction()
