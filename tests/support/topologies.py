"""Several Redis or Valkey servers as one: a master that Sentinels watch, a cluster, and a slot on its way in it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from support.redis_server import START_SECONDS, Server
from support.waiting import wait_until


def _wait(condition: Callable[[], bool]) -> None:
    wait_until(condition, START_SECONDS, what="the servers to find each other")


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
        _wait(lambda: b"master_link_status:up" in self.replica.command("INFO", "replication"))
        # A sentinel takes no part in a vote before it knows the others and the replica.
        for sentinel in self.sentinels:
            _wait(lambda sentinel=sentinel: self._knows_all(sentinel))
        return self

    def _knows_all(self, sentinel: Server) -> bool:
        told = sentinel.command("INFO", "sentinel")
        return b"slaves=1" in told and f"sentinels={len(self.sentinels)}".encode() in told

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
        _wait(lambda: b"role:master" in self.replica.command("INFO", "replication"))

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
            _wait(lambda server=server: b"cluster_known_nodes:6" in server.command("CLUSTER", "INFO"))
        for master, replica in zip(masters, replicas, strict=True):
            name = _bulk(master.command("CLUSTER", "MYID"))
            _wait(lambda replica=replica, name=name: self._follows(replica, name))
        for server in self.servers:
            _wait(lambda server=server: b"cluster_state:ok" in server.command("CLUSTER", "INFO"))
        for replica in replicas:
            _wait(lambda replica=replica: b"master_link_status:up" in replica.command("INFO", "replication"))
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
        _wait(lambda: self.owner(key) is target)

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

        _wait(taken)

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
