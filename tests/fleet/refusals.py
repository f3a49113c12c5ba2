"""Ways in which a server that is there refuses its work, each brought about for real and taken back.

A way is entered with the server and holds until its block ends. `errors` counts what the server refused, by its own
figures: who storms it shows there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

from support import wait_until
from support.redis_server import Link, Server

# It answers after each 2 MB that it has loaded; microseconds for each key.
LOADED_KEYS, LOADED_BYTES, LOAD_DELAY = 600, 40_000, 5000
Way = Callable[[Server], AbstractContextManager[Link]]


def errors(link: Link) -> int:
    """Error replies and connections so far."""
    figures = (link.command("INFO", "errorstats") + link.command("INFO", "stats")).decode()
    total = 0
    for line in figures.splitlines():
        name, _, value = line.partition(":")
        if name.startswith("errorstat_") and name != "errorstat_NOSCRIPT":
            total += int(value.partition("=")[2])
        elif name in ("total_connections_received", "rejected_connections"):
            total += int(value)
    return total


def _set(link: Link, name: str, value: str | int) -> None:
    assert link.command("CONFIG", "SET", name, value) == b"+OK\r\n", name


def _cut(link: Link) -> None:
    link.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


@contextmanager
def misconf(server: Server) -> Iterator[Link]:
    """It cannot save: a directory stands where its file belongs."""
    place = server.folder / "dump.rdb"
    with suppress(FileNotFoundError):
        place.unlink()
    place.mkdir()
    (place / "full").touch()
    with server.link() as link:
        _set(link, "save", "3600 1")
        link.command("BGSAVE")
        wait_until(lambda: b"rdb_last_bgsave_status:err" in link.command("INFO", "persistence"), 5)
        yield link
        (place / "full").unlink()
        place.rmdir()
        _set(link, "save", "")


@contextmanager
def readonly(server: Server) -> Iterator[Link]:
    with server.link() as link:
        link.command("REPLICAOF", "127.0.0.1", "1")
        yield link
        link.command("REPLICAOF", "NO", "ONE")


@contextmanager
def oom(server: Server) -> Iterator[Link]:
    with server.link() as link:
        _set(link, "maxmemory", 1)
        yield link
        _set(link, "maxmemory", 0)


@contextmanager
def maxclients(server: Server) -> Iterator[Link]:
    with server.link() as link:
        _set(link, "maxclients", 1)
        _cut(link)
        yield link
        _set(link, "maxclients", 10000)


@contextmanager
def noauth(server: Server) -> Iterator[Link]:
    with server.link() as link:
        _set(link, "requirepass", "s3cret")
        _cut(link)
        yield link
        _set(link, "requirepass", "")


@contextmanager
def noperm(server: Server) -> Iterator[Link]:
    with server.link() as link:
        link.command("ACL", "SETUSER", "default", "-@all", "+info", "+acl", "+ping", "+client", "+select")
        yield link
        link.command("ACL", "SETUSER", "default", "+@all")


@contextmanager
def noreplicas(server: Server) -> Iterator[Link]:
    with server.link() as link:
        _set(link, "min-replicas-to-write", 1)
        yield link
        _set(link, "min-replicas-to-write", 0)


@contextmanager
def busy(server: Server) -> Iterator[Link]:
    """Somebody's script does not end."""
    with server.link() as link:
        _set(link, "lua-time-limit", 50)
        with server.link() as other:
            other.send("EVAL", "while true do end", 0)
            wait_until(lambda: b"BUSY" in server.command("PING"), 5)
            try:
                yield link
            finally:
                server.command("SCRIPT", "KILL")  # it ends soon after the reply
                wait_until(lambda: b"PONG" in server.command("PING"), 5)


@contextmanager
def clusterdown(server: Server) -> Iterator[Link]:
    """A slot that nobody serves: the whole cluster refuses."""
    with server.link() as link:
        link.command("CLUSTER", "DELSLOTS", 1)
        wait_until(lambda: b"cluster_state:fail" in link.command("CLUSTER", "INFO"), 10)
        yield link
        link.command("CLUSTER", "ADDSLOTS", 1)
        _serving(link)


def _serving(link: Link) -> None:
    wait_until(lambda: b"cluster_state:ok" in link.command("CLUSTER", "INFO"), 10)


def alone(server: Server) -> str:
    """The address of a cluster of this one server."""
    with server.link() as link:
        link.command("CLUSTER", "ADDSLOTS", *range(16384))
        _serving(link)
    return f"redis+cluster://{server.tcp_address}"


def fill(server: Server) -> None:
    """Data that it takes its time to load at its next start."""
    script = "for n = 1, ARGV[1] do redis.call('SET', 'filling:' .. n, string.rep('x', ARGV[2])) end"
    with server.link() as link:
        _set(link, "rdbcompression", "no")
        link.command("EVAL", script, 0, LOADED_KEYS, LOADED_BYTES)
        link.command("BGREWRITEAOF")
        wait_until(lambda: b"aof_rewrite_in_progress:0" in link.command("INFO", "persistence"), 10)
    with (server.folder / "redis.conf").open("a") as file:
        file.write(f"key-load-delay {LOAD_DELAY}\n")


@contextmanager
def loading(server: Server) -> Iterator[Link]:
    server.kill()
    server.start(wait=False)
    wait_until(lambda: _answers(server, b"-LOADING"), 10)
    with server.link() as link:
        yield link
        wait_until(lambda: _answers(server, b"+PONG"), 20)


def _answers(server: Server, sign: bytes) -> bool:
    with suppress(OSError):
        return server.command("PING").startswith(sign)
    return False


WAYS: dict[str, Way] = {
    "misconf": misconf, "readonly": readonly, "oom": oom, "maxclients": maxclients, "noauth": noauth, "noperm": noperm,
    "noreplicas": noreplicas, "busy": busy, "clusterdown": clusterdown, "loading": loading,
}  # fmt: skip
