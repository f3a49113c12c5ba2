"""Fixtures of the whole suite. Each daemon has its own directories, so tests run in parallel (`-n 5`: many wait)."""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from support import Daemon
from support import wait_until as _wait_until

# A forked process that a test lets die of SEGV is no crash of pytest, whose handler would print its stack.
os.register_at_fork(after_in_child=faulthandler.disable)

# Where it is set, each daemon of a test compiles kubemin anew, which takes it longer than all the rest of its start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell that runs the tests in the background has it ignored, which every process below would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long a draw takes is the machine's business; what is drawn is not.
settings.register_profile("kubemin", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kubemin")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--topologies", action="store_true",
        help="the store's conformance and the fleet's promises over TLS, Sentinel and Cluster, on Redis and Valkey",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "everywhere: with --topologies, run in every place where a fleet's keys may live"
    )


def _daemons() -> Iterator[Callable[..., Daemon]]:
    with ExitStack() as stack:

        def start(*, environ: dict[str, str] | None = None, started: bool = True, **settings: Any) -> Daemon:
            daemon = Daemon(environ=environ, **settings)
            stack.callback(daemon.close)
            return daemon.start() if started else daemon

        yield start


@pytest.fixture
def start_daemon() -> Iterator[Callable[..., Daemon]]:
    """`start_daemon(maxWorkers=4, python={…})`: a fresh daemon with these settings; `started=False`: only prepared."""
    yield from _daemons()


@pytest.fixture
def daemon(start_daemon: Callable[..., Daemon]) -> Daemon:
    """A fresh daemon with two workers, for tests that kill or reconfigure it."""
    return start_daemon()


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[Daemon]:
    """One daemon for all tests of a module, for tests that only use it."""
    for start in _daemons():
        yield start()


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., Any]:
    return _wait_until
