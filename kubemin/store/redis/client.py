"""One connection to the server that holds our keys, found again wherever it goes: single, Sentinel or Cluster.

redis-py's `Connection` does the network, TLS, ACL and parsing; commands are packed by hiredis. Every wait has an end.
A call that was sent and lost its reply is sent again, since every operation of the store knows a repeat. After a failed
connect the next one waits; after any other failure, a refusal too, `retry_in` says for how long the caller should.
"""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from kubemin import clock
from kubemin.errors import StoreUnavailable
from kubemin.store.redis import identity
from kubemin.store.redis.address import Address
from kubemin.store.redis.backoff import Backoff
from kubemin.store.redis.errors import translate
from kubemin.store.redis.keys import FLEET
from kubemin.store.redis.scripts import Script, guarded, script

TIMEOUT = 5.0  # seconds a reply may take
CONNECT_TIMEOUT = 3.0
DROPS = 5  # connections that may break under one call
REDIRECTIONS = 5
IN_FLIGHT = 3  # scripts sent before the reply to the first is read
READ_SIZE = 65536

Argument = bytes | str | int | float
Command = Sequence[Argument]
Driver = Any  # redis.connection.AbstractConnection, which is not typed


class Client:
    """Not safe for threads, and not to be used after a fork by both sides."""

    def __init__(self, address: Address, *, timeout: float = TIMEOUT, name: str = "kubemin") -> None:
        self.address = address
        self.timeout = timeout
        self.name = name
        self.serial = 0  # of the connection in use: how many have been made
        self._connection: Driver | None = None
        self._where = address.shown
        self._master: tuple[str, int] | None = None  # where the cluster said our slot is
        self._connects, self._calls = Backoff(), Backoff()
        self._failure: StoreUnavailable | None = None
        self.observe: Callable[[float], None] | None = None  # is told how long each exchange took
        self._ahead = False  # whether commands are sent before earlier ones are answered

    @property
    def where(self) -> str:
        """The server in use, for messages: no credentials."""
        return self._where

    def retry_in(self) -> float:
        """Seconds after a failure until a call is worth trying; without a connection, calls before that fail at
        once."""
        return max(self._calls.left(), self._connects.left() if self._connection is None else 0.0)

    # --- calls -------------------------------------------------------------------------------------------------------

    def execute(self, *command: Argument, timeout: float | None = None, repeat: bool = True) -> Any:
        """One command. `timeout`: seconds for its reply, when it may block; `repeat` False: not sent again when the
        connection breaks (what a blocked pop was given may be on its way)."""
        return self._checked(self._exchange([command], timeout, repeat)[0])

    def run(self, what: Script | str, keys: Sequence[str], *arguments: Argument, timeout: float | None = None) -> Any:
        """One script by its hash, loaded where the server does not know it."""
        loaded = self._loaded(what)
        command = (b"EVALSHA", loaded.sha, len(keys), *keys, *arguments)
        reply = self._exchange([command], timeout)[0]
        if isinstance(reply, Exception) and _is_missing_script(reply):
            reply = self._exchange([(b"EVAL", loaded.text, len(keys), *keys, *arguments)], timeout)[0]
        return self._checked(reply)

    def _loaded(self, what: Script | str) -> Script:
        loaded = script(what) if isinstance(what, str) else what
        return guarded(loaded) if self.address.kind == "cluster" else loaded

    def run_many(self, name: str, keys: Sequence[str], calls: Iterable[Sequence[Argument]]) -> list[Any]:
        """One script several times, IN_FLIGHT of them sent ahead, so that both sides work at once; `calls` may be made
        while they are sent. Only for scripts that may be repeated: after a broken connection all is sent again."""
        loaded = self._loaded(name)
        replies: list[Any] = []
        ahead: deque[Command] = deque()
        self._ahead = True
        for arguments in calls:
            command = (b"EVALSHA", loaded.sha, len(keys), *keys, *arguments)
            ahead.append(command)
            self._send_ahead(command)
            if len(ahead) > IN_FLIGHT:
                replies.append(self._answer(loaded, ahead))
        while ahead:
            replies.append(self._answer(loaded, ahead))
        return replies

    def _send_ahead(self, command: Command) -> None:
        """What fails here is noticed, and made good, when its reply is wanted."""
        if not self._ahead:
            return
        try:
            self._connected().send_packed_command([_packer()(tuple(command))], check_health=False)
        except (OSError, _redis_error(), StoreUnavailable):
            self.disconnect()
            self._ahead = False

    def _answer(self, loaded: Script, ahead: deque[Command]) -> Any:
        command = ahead[0]
        if self._ahead:
            try:
                reply = self._connected().read_response(disable_decoding=True)
            except _reply_errors() as error:
                reply = error
            except (OSError, _redis_error()):
                reply = None
                self._ahead = False
            if self._ahead and not isinstance(reply, Exception):
                ahead.popleft()
                return reply
            self.disconnect()  # replies to the others may be on their way: all are asked for again, one by one
            self._ahead = False
        reply = self._exchange([command], None)[0]
        if isinstance(reply, Exception) and _is_missing_script(reply):
            self.execute("SCRIPT", "LOAD", loaded.text)
            reply = self._exchange([command], None)[0]
        ahead.popleft()
        return self._checked(reply)

    def pipeline(self, commands: Sequence[Command], *, timeout: float | None = None) -> list[Any]:
        """Many commands, one round trip. The first error reply is raised after all were read."""
        replies = self._exchange(commands, timeout)
        return [self._checked(reply) for reply in replies]

    def _checked(self, reply: Any) -> Any:
        if isinstance(reply, Exception):
            raise self._translated(reply) from reply
        return reply

    def _translated(self, error: BaseException) -> Exception:
        failure = translate(error, self._where)
        if isinstance(failure, StoreUnavailable):
            self._calls.failed()
        return failure

    def _exchange(self, commands: Sequence[Command], timeout: float | None, repeat: bool = True) -> list[Any]:
        pack_command = _packer()
        packed = [pack_command(tuple(command)) for command in commands]
        drops = redirections = 0
        while True:
            connection = self._connected()
            began = clock.monotonic() if self.observe is not None else 0.0
            try:
                replies = self._talk(connection, packed, timeout)
            except (OSError, _redis_error()) as error:
                self.disconnect()
                drops += 1
                if drops >= DROPS or not repeat or _timed_out(error):
                    raise self._translated(error) from error
                continue
            if self.observe is not None:
                self.observe(clock.monotonic() - began)
            if not any(map(self._sent_away, replies)):
                return replies
            redirections += 1
            if redirections > REDIRECTIONS:
                return replies

    def _talk(self, connection: Driver, packed: list[bytes], timeout: float | None) -> list[Any]:
        connection.send_packed_command(packed, check_health=False)
        if timeout is not None and not connection.can_read(timeout):
            raise TimeoutError("no reply in time")
        replies = []
        for _ in packed:
            try:
                replies.append(connection.read_response(disable_decoding=True))
            except _reply_errors() as error:
                replies.append(error)
        return replies

    def _sent_away(self, reply: Any) -> bool:
        """Whether it says that another server holds our slot: nothing was done, and all of it is sent again there. One
        that became a replica is left behind, whoever is to be asked for its successor."""
        kind = type(reply).__name__
        if kind == "MovedError":
            self._master = (reply.host, int(reply.port))
            self.disconnect()
        elif kind == "ReadOnlyError":
            self._master = None
            self.disconnect()
        return kind == "MovedError"

    # --- one call that is waited for outside -------------------------------------------------------------------------

    def begin(self, *command: Argument) -> int:
        """Send a command whose reply is waited for by poll(2) on the descriptor returned, then read by `end`."""
        pack_command = _packer()
        connection = self._connected()
        try:
            connection.send_packed_command([pack_command(tuple(command))], check_health=False)
            return int(connection._sock.fileno())
        except (OSError, _redis_error()) as error:
            raise self._broken(error) from error

    def end(self) -> Any:
        """The reply to what was begun; it is there, or comes within the usual time."""
        connection = self._connected()
        try:
            return connection.read_response(disable_decoding=True)
        except _reply_errors() as error:
            self._sent_away(error)
            raise self._translated(error) from error
        except (OSError, _redis_error()) as error:
            raise self._broken(error) from error

    def _broken(self, error: BaseException) -> Exception:
        self.disconnect()
        return self._translated(error)

    def fileno(self) -> int | None:
        """The descriptor of the connection, while there is one."""
        connection = self._connection
        return None if connection is None or connection._sock is None else int(connection._sock.fileno())

    # --- connecting --------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Make sure of a connection now: `serial` is its number then. Raises StoreUnavailable."""
        self._connected()

    def _connected(self) -> Driver:
        if self._connection is not None:
            return self._connection
        if self._connects.left() and self._failure is not None:
            raise StoreUnavailable(str(self._failure), fatal=self._failure.fatal, code=self._failure.code)
        try:
            self._connection = self._connect()
        except (OSError, _redis_error(), StoreUnavailable) as error:
            raise self._failed(error) from error
        self.serial += 1
        self._connects.reset()
        self._failure = None
        return self._connection

    def _failed(self, error: BaseException) -> Exception:
        failure = translate(error, self._where)
        self._connects.failed()
        self._failure = failure if isinstance(failure, StoreUnavailable) else None
        self._master = None
        return failure

    def _connect(self) -> Driver:
        address = self.address
        if address.kind == "unix":
            return self._open("", 0)
        if address.kind == "single":
            return self._open(*address.hosts[0])
        places = self._sentinel_masters() if address.kind == "sentinel" else self._cluster_places()
        failure: BaseException = OSError("no server is known")
        for place in places:
            try:
                return self._open(*place)
            except (OSError, _redis_error()) as error:
                failure = error
        raise failure

    def _cluster_places(self) -> list[tuple[str, int]]:
        seeds = list(self.address.hosts)
        random.shuffle(seeds)
        return [self._master, *seeds] if self._master is not None else seeds

    def _sentinel_masters(self) -> list[tuple[str, int]]:
        """What the sentinels say, the first that answers."""
        failure: BaseException = OSError("no sentinel answers")
        for host, port in self.address.hosts:
            try:
                sentinel = self._open(host, port, sentinel=True)
            except (OSError, _redis_error()) as error:
                failure = error
                continue
            try:
                sentinel.send_command("SENTINEL", "get-master-addr-by-name", self.address.service)
                found = sentinel.read_response(disable_decoding=True)
            except (OSError, _redis_error()) as error:
                failure = error
                continue
            finally:
                sentinel.disconnect()
            if found:
                return [(found[0].decode(), int(found[1]))]
            failure = StoreUnavailable(
                f"no Sentinel at {self.address.shown} knows the service {self.address.service}", code="sentinel"
            )
        raise failure

    def _open(self, host: str, port: int, *, sentinel: bool = False) -> Driver:
        drivers = _drivers()
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        address = self.address
        options: dict[str, Any] = {
            "socket_timeout": self.timeout,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "socket_read_size": READ_SIZE,
            "driver_info": None,
        }
        if not sentinel:
            options |= {"db": 0 if address.kind == "cluster" else address.db, "client_name": self.name}
            options |= {"username": address.user, "password": address.password}
        if address.kind == "unix":
            made: Driver = drivers.UnixDomainSocketConnection(path=address.path, **options)
        else:
            options |= {"host": host, "port": port, "socket_connect_timeout": CONNECT_TIMEOUT, "socket_keepalive": True}
            if address.tls:
                made = drivers.SSLConnection(ssl_ca_certs=address.ca, **options)
            else:
                made = drivers.Connection(**options)
            if not sentinel:
                self._where = f"{host}:{port}"
        made.connect()
        if address.state_dir and not sentinel:
            self._compare_fleet(made)
        return made

    def _compare_fleet(self, made: Driver) -> None:
        """Before anything else is asked of a server: is it our fleet's? Raises OtherFleet."""
        try:
            made.send_command("GET", FLEET)
            found = made.read_response(disable_decoding=True)
        except _reply_errors():  # what is asked next is told the same: moved, loading, no rights
            return
        try:
            identity.compare(self.address.state_dir, found, self._where)
        except identity.OtherFleet:
            made.disconnect()
            raise

    def disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(Exception):
                self._connection.disconnect()
            self._connection = None

    close = disconnect


def _drivers() -> Any:
    from redis import connection

    return connection


def _packer() -> Any:
    from hiredis import pack_command

    return pack_command


def _redis_error() -> type[Exception]:
    from redis.exceptions import RedisError

    return RedisError


def _reply_errors() -> tuple[type[Exception], ...]:
    """What a server answers, as against what breaks the connection."""
    from redis.exceptions import AskError, BusyLoadingError, ClusterDownError, ResponseError

    return (ResponseError, AskError, ClusterDownError, BusyLoadingError)


def _is_missing_script(error: Exception) -> bool:
    return type(error).__name__ == "NoScriptError" or str(error).startswith("NOSCRIPT")


def _timed_out(error: BaseException) -> bool:
    return isinstance(error, TimeoutError) or "Timeout" in type(error).__name__
