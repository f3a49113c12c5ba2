"""Where a fleet's keys may live, and ways there: what every promise is held on, one cell of the matrix each.

A place has an `address` for daemons and clients, and a `server` for raw commands: the one that holds our keys now.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from kubemin.store.redis import keys
from support.redis_server import Server
from support.tls import TlsProxy
from support.topologies import Cluster, Sentinels

USER, PASSWORD = "kubemin", "s3cret"
RIGHTS = ("~workflow:*", "~lock:*", "~kubemin:*", "&*", "+@all", "-@dangerous", "+keys", "+info", "+client")


class Place:
    def __init__(self, address: str, server: Callable[[], Server], stack: ExitStack, fabric: Any = None) -> None:
        self.address, self.fabric = address, fabric  # the Sentinels or the Cluster
        self._server, self._stack = server, stack

    @property
    def server(self) -> Server:
        return self._server()

    def close(self) -> None:
        self._stack.close()


def _single(kind: str, options: dict[str, Any]) -> Place:
    stack = ExitStack()
    server = stack.enter_context(Server(kind, **options))
    return Place(server.address, lambda: server, stack)


def _guarded(kind: str, options: dict[str, Any]) -> Place:
    """TLS, and a user who may touch our keys alone."""
    stack = ExitStack()
    server = stack.enter_context(Server(kind, **options))
    proxy = stack.enter_context(TlsProxy(server))
    server.command("ACL", "SETUSER", USER, "on", f">{PASSWORD}", *RIGHTS, "+flushall")
    return Place(f"rediss://{USER}:{PASSWORD}@localhost:{proxy.port}?ca={proxy.ca}", lambda: server, stack)


def _sentinel(kind: str, _options: dict[str, Any]) -> Place:
    stack = ExitStack()
    sentinels = stack.enter_context(Sentinels(kind))
    return Place(sentinels.address, sentinels.holder, stack, sentinels)


def _cluster(kind: str, _options: dict[str, Any]) -> Place:
    stack = ExitStack()
    cluster = stack.enter_context(Cluster(kind))
    return Place(cluster.address, lambda: cluster.owner(keys.SEQ), stack, cluster)


_WAYS = {"single": _single, "tls": _guarded, "sentinel": _sentinel, "cluster": _cluster}
PLACES = {f"{way}-{kind}": (way, kind) for way in _WAYS for kind in ("redis", "valkey")}
USUAL = "single-redis"


def open_place(name: str, **options: Any) -> Place:
    """`options` are the server's own, where it is a single one."""
    way, kind = PLACES[name]
    return _WAYS[way](kind, options)
