"""Fixtures of the supervisor's tests: supervisors with stand-in children."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from supervised import Supervised


@pytest.fixture
def start() -> Iterator[Callable[..., Supervised]]:
    """`start(max_workers=4, plan={…})`: a supervisor that is ready, or with `ready=False` just forked."""
    with ExitStack() as stack:

        def make(*, ready: bool = True, plan: dict[str, Any] | None = None, **settings: Any) -> Supervised:
            supervised = Supervised(**settings)
            stack.callback(supervised.close)
            if plan is not None:
                supervised.plan(**plan)
            return supervised.start(ready=ready)

        yield make


@pytest.fixture
def supervised(start: Callable[..., Supervised]) -> Supervised:
    """A supervisor with three workers."""
    return start()
