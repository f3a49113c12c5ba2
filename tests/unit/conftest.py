"""Fixtures of the unit tests: a log of a test's own, in this process; a configuration file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kubemin.telemetry import log, streams


@pytest.fixture
def fresh_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log as it is before anybody configures it, and after the test as it was."""
    monkeypatch.setattr(log, "_state", log._State())
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)


@pytest.fixture
def redirect(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`redirect(fd)`: the log's standard error is `fd`."""
    return lambda fd: monkeypatch.setattr(log, "StandardError", lambda: streams.StandardError(fd))


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Its ends (for reading, for writing); a test may close them itself."""
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(fd)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """`write(text)`: a configuration file with this in it; its path."""

    def file(text: str | bytes, name: str = "kubemin.yaml") -> str:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return file
