"""Reading the daemon's own records out of systemd's journal, by `journalctl`, with the rights of who asks.

A record is taken only when its sender was the daemon's user (`_UID`, which the journal itself notes): whoever else
writes records with our fields is not read. May start journalctl; writes nothing.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from kubemin import clock

SOCKET = "/run/systemd/journal/socket"
READ_SECONDS = 120.0  # of a search through a large journal
QUIET_SECONDS = 0.5  # nothing more has come for so long after a run's end: that was all
_LOOK = 0.25

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Line(msgspec.Struct, frozen=True, rename="camel"):
    """One line that a step printed."""

    time: int  # microseconds since the epoch
    step: str
    attempt: int
    stream: str
    text: str


class Journal:
    """The lines of one run, or of one of its steps, its items and members included. Made with the rights that the
    journal asks for."""

    def __init__(self, owner: int, run: str, step: str | None) -> None:
        self._matches = [f"_UID={owner}", f"KUBEMIN_RUN={run}"]
        self._step = step

    @staticmethod
    def there() -> bool:
        return os.path.exists(SOCKET) and shutil.which("journalctl") is not None

    def lines(self, last: int | None = None) -> list[Line]:
        """All that are there now, or out of the last records; none without the rights to read them."""
        command = [*self._command(), *([f"--lines={last}"] if last else [])]
        try:
            done = subprocess.run(command, capture_output=True, timeout=READ_SECONDS, check=False)
        except (OSError, subprocess.SubprocessError):
            return []
        return _lines(done.stdout.splitlines(), self._step)

    def start(self) -> Follower:
        """Begin to follow, before rights are given up."""
        return Follower(
            subprocess.Popen(
                [*self._command(), "--follow", "--lines=all"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            ),
            self._step,
        )

    def _command(self) -> list[str]:
        return ["journalctl", "--quiet", "--no-pager", "--all", "--output=json", *self._matches]


class Follower:
    """Lines as they come. A context manager: its end is journalctl's end."""

    def __init__(self, process: subprocess.Popen[bytes], step: str | None) -> None:
        self._process = process
        self._step = step
        self._buffer = b""

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def lines(self, ended: Callable[[], bool]) -> Iterator[Line]:
        """Until `ended()` and nothing more comes."""
        quiet_since: float | None = None
        while quiet_since is None or clock.monotonic() < quiet_since + QUIET_SECONDS:
            found = self._read(_LOOK)
            if found is None:
                return
            yield from found
            over = ended()
            quiet_since = None if found or not over else quiet_since or clock.monotonic()

    def _read(self, seconds: float) -> list[Line] | None:
        """None: journalctl has ended."""
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        if not select.select([fd], [], [], seconds)[0]:
            return []
        data = os.read(fd, 1 << 16)
        *records, self._buffer = (self._buffer + data).split(b"\n")
        return _lines(records, self._step) if data else None


def of_step(path: str, step: str | None) -> bool:
    """Whether `path` is the step, an item of it or a member."""
    return step is None or path == step or path.startswith((f"{step}[", f"{step}/"))


def _lines(records: Iterable[bytes], step: str | None) -> list[Line]:
    return [line for record in records if (line := _line(record)) and of_step(line.step, step)]


def _line(record: bytes) -> Line | None:
    """None for what is no step's output."""
    try:
        fields = _decode(record)
        if not fields.get("KUBEMIN_STREAM"):
            return None
        return Line(
            int(fields["__REALTIME_TIMESTAMP"]),
            _text(fields.get("KUBEMIN_STEP", "")),
            int(fields.get("KUBEMIN_ATTEMPT", 0)),
            _text(fields["KUBEMIN_STREAM"]),
            _text(fields.get("MESSAGE", "")),
        )
    except (msgspec.MsgspecError, KeyError, ValueError, TypeError):
        return None


def _text(value: Any) -> str:
    """journalctl gives what is no plain text as a list of bytes."""
    return bytes(value).decode(errors="replace") if isinstance(value, list) else str(value or "")
