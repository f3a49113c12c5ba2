"""One connection to the server that holds our keys, found again wherever it goes: single, Sentinel or Cluster.

Every wait has an end. A call that was sent and lost its reply is sent again, since every operation of the store knows a
repeat. After a failed connect the next one waits; after any other failure, a refusal too, `retry_in` says for how long
the caller should.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from kubemin import chance, clock
from kubemin.errors import StoreUnavailable
from kubemin.pulse import CONNECT, SERVER, WORK, Beat
from kubemin.store.redis import identity
from kubemin.store.redis.address import Address
from kubemin.store.redis.backoff import Backoff
from kubemin.store.redis.connection import Argument, Command, Connection, ReplyError, pack
from kubemin.store.redis.errors import translate
from kubemin.store.redis.keys import FLEET
from kubemin.store.redis.scripts import Script, guarded, script

TIMEOUT = 5.0  # seconds a reply may take
DROPS = 5  # connections that may break under one call
REDIRECTIONS = 5
IN_FLIGHT = 3  # scripts sent before the reply to the first is read


class Client:
    """Not safe for threads, and not to be used after a fork by both sides."""

    def __init__(self, address: Address, *, timeout: float = TIMEOUT, name: str = "kubemin") -> None:
        self.address = address
        self.timeout = timeout
        self.name = name
        self.serial = 0  # of the connection in use: how many have been made
        self._connection: Connection | None = None
        self._where, self._host = address.shown, ""
        self._master: tuple[str, int] | None = None  # where the cluster said our slot is
        self._connects, self._calls = Backoff(), Backoff()
        self._failure: StoreUnavailable | None = None
        self.observe: Callable[[float], None] | None = None  # is told how long each exchange took
        self.beat: Beat | None = None  # the pulse of the loop that uses this
        self._ahead = False  # whether commands are sent before earlier ones are answered

    @property
    def where(self) -> str:
        """The server in use, for messages: no credentials."""
        return self._where

    def retry_in(self) -> float:
        """Seconds after a failure until a call is worth trying; without a connection, calls before that fail at
        once."""
        return max(self._calls.left(), self._connects.left() if self._connection is None else 0.0)

    def hurry(self, seconds: float) -> None:
        """Whoever stops has less time: what a reply may take from now on."""
        self.timeout = seconds
        if self._connection is not None:
            self._connection.limit(seconds)

    # --- calls -------------------------------------------------------------------------------------------------------

    def execute(self, *command: Argument, timeout: float | None = None, repeat: bool = True) -> Any:
        """One command. `timeout`: seconds for its reply, when it may block; `repeat` False: not sent again when the
        connection breaks (what a blocked pop was given may be on its way)."""
        return self._checked(self._exchange([command], timeout, repeat)[0])

    def run(self, what: Script | str, keys: Sequence[str], *arguments: Argument, timeout: float | None = None) -> Any:
        """One script by its hash, loaded where the server does not know it."""
        loaded = self._loaded(what)
        reply = self._exchange([_evalsha(loaded, keys, arguments)], timeout)[0]
        if _is_missing_script(reply):
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
        try:
            for arguments in calls:
                if self.beat is not None:
                    self.beat(SERVER)
                command = _evalsha(loaded, keys, arguments)
                ahead.append(command)
                self._send_ahead(command)
                if len(ahead) > IN_FLIGHT:
                    replies.append(self._answer(loaded, ahead))
            while ahead:
                replies.append(self._answer(loaded, ahead))
        except BaseException:
            self.disconnect()  # replies that nobody has read would be taken for those of the next call
            raise
        if self.beat is not None:
            self.beat(WORK)
        return replies

    def _send_ahead(self, command: Command) -> None:
        """What fails here is noticed, and made good, when its reply is wanted."""
        if not self._ahead:
            return
        try:
            self._connected().send(pack([command]))
        except (OSError, StoreUnavailable):
            self.disconnect()
            self._ahead = False

    def _answer(self, loaded: Script, ahead: deque[Command]) -> Any:
        command = ahead[0]
        if self._ahead:
            try:
                reply = self._connected().read()
                self._ahead = not isinstance(reply, ReplyError)
            except OSError:
                self._ahead = False
            if self._ahead:
                ahead.popleft()
                return reply
            self.disconnect()  # replies to the others may be on their way: all are asked for again, one by one
        reply = self._exchange([command], None)[0]
        if _is_missing_script(reply):
            self.execute("SCRIPT", "LOAD", loaded.text)
            reply = self._exchange([command], None)[0]
        ahead.popleft()
        return self._checked(reply)

    def pipeline(self, commands: Sequence[Command], *, timeout: float | None = None) -> list[Any]:
        """Many commands, one round trip. The first error reply is raised after all were read."""
        replies = self._exchange(commands, timeout)
        return [self._checked(reply) for reply in replies]

    def _checked(self, reply: Any) -> Any:
        if isinstance(reply, ReplyError):
            raise self._translated(reply) from reply
        return reply

    def _translated(self, error: BaseException) -> Exception:
        failure = translate(error, self._where)
        if isinstance(failure, StoreUnavailable):
            self._calls.failed()
        return failure

    def _exchange(self, commands: Sequence[Command], timeout: float | None, repeat: bool = True) -> list[Any]:
        packed = pack(commands)
        drops = redirections = 0
        while True:
            connection = self._connected()
            if self.beat is not None:
                self.beat(SERVER)
            began = clock.monotonic() if self.observe is not None else 0.0
            try:
                connection.send(packed)
                if timeout is not None:
                    connection.wait(timeout)
                replies = [connection.read() for _ in commands]
            except OSError as error:
                self.disconnect()
                drops += 1
                if drops >= DROPS or not repeat or isinstance(error, TimeoutError):
                    raise self._translated(error) from error
                continue
            except BaseException:  # a signal's handler raised: the reply would be taken for that of the next call
                self.disconnect()
                raise
            if self.observe is not None:
                self.observe(clock.monotonic() - began)
            if self.beat is not None:
                self.beat(WORK)
            if ReplyError not in map(type, replies) or not self._are_sent_away(replies):
                return replies
            redirections += 1
            if redirections > REDIRECTIONS:
                return replies

    def _are_sent_away(self, replies: Sequence[Any]) -> bool:
        return any(isinstance(reply, ReplyError) and self._sent_away(reply) for reply in replies)

    def _sent_away(self, error: ReplyError) -> bool:
        """Whether it says that another server holds our slot: nothing was done, and all of it is sent again there. One
        that became a replica is left behind, whoever is to be asked for its successor."""
        word, *rest = str(error).split(" ", 2)
        if word == "MOVED":
            self._master = self._moved_to(rest[-1])
            self.disconnect()
        elif word == "READONLY":
            self._master = None
            self.disconnect()
        return word == "MOVED"

    def _moved_to(self, place: str) -> tuple[str, int] | None:
        """`host:port`; a server that does not know its own name leaves that out, and means itself."""
        host, _, port = place.rpartition(":")
        return (host or self._host, int(port)) if port.isdigit() else None

    # --- calls that are waited for outside ---------------------------------------------------------------------------

    def begin(self, command: Command, what: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> int:
        """Send a command that blocks, and behind it a script, which the server runs in the same turn in which the
        command ends. Replies are waited for by poll(2) on the descriptor returned, then read by `end` and
        `end_script`."""
        connection = self._connected()
        try:
            connection.send(pack([command, _evalsha(self._loaded(what), keys, arguments)]))
        except OSError as error:
            raise self._broken(error) from error
        return connection.fileno()

    def end(self) -> Any:
        """The reply to the command; it is there, or comes within the usual time. After an error the connection is given
        up, as the script's reply may still come."""
        reply = self._begun()
        if isinstance(reply, ReplyError):
            self._sent_away(reply)
            raise self._broken(reply) from reply
        return reply

    def end_script(self) -> Any:
        """The reply to the script, None: the server does not know it. After `end`."""
        reply = self._begun()
        return None if _is_missing_script(reply) else self._checked(reply)

    def _begun(self) -> Any:
        if self._connection is None:
            raise StoreUnavailable(f"the connection to Redis at {self._where} is gone", code="connection")
        try:
            return self._connection.read()
        except OSError as error:
            raise self._broken(error) from error
        except BaseException:
            self.disconnect()
            raise

    def _broken(self, error: BaseException) -> Exception:
        self.disconnect()
        return self._translated(error)

    def fileno(self) -> int | None:
        """The descriptor of the connection, while there is one."""
        return None if self._connection is None else self._connection.fileno()

    # --- connecting --------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Make sure of a connection now: `serial` is its number then. Raises StoreUnavailable."""
        self._connected()

    def _connected(self) -> Connection:
        if self._connection is not None:
            return self._connection
        if self._connects.left() and self._failure is not None:
            raise StoreUnavailable(str(self._failure), fatal=self._failure.fatal, code=self._failure.code)
        try:
            self._connection = self._connect()
        except (OSError, ReplyError, StoreUnavailable) as error:
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

    def _connect(self) -> Connection:
        address = self.address
        if address.kind == "unix":
            return self._greet(Connection.to_path(address.path, self.timeout))
        if address.kind == "single":
            return self._open(*address.hosts[0])
        places = self._sentinel_masters() if address.kind == "sentinel" else self._cluster_places()
        failure: BaseException = OSError("no server is known")
        for place in places:
            try:
                return self._open(*place)
            except (OSError, ReplyError) as error:
                failure = error
        raise failure

    def _cluster_places(self) -> list[tuple[str, int]]:
        seeds = sorted(self.address.hosts, key=lambda _: chance.fraction())
        return [self._master, *seeds] if self._master is not None else seeds

    def _sentinel_masters(self) -> list[tuple[str, int]]:
        """What the sentinels say, the first that answers."""
        failure: BaseException = OSError("no sentinel answers")
        for host, port in self.address.hosts:
            try:
                found = self._ask_sentinel(host, port)
            except (OSError, ReplyError) as error:
                failure = error
                continue
            if found:
                return [(found[0].decode(), int(found[1]))]
            failure = StoreUnavailable(
                f"no Sentinel at {self.address.shown} knows the service {self.address.service}", code="sentinel"
            )
        raise failure

    def _ask_sentinel(self, host: str, port: int) -> Any:
        sentinel = self._reach(host, port)
        try:
            (found,) = sentinel.ask([("SENTINEL", "get-master-addr-by-name", self.address.service)])
        finally:
            sentinel.close()
        if isinstance(found, ReplyError):
            raise found
        return found

    def _open(self, host: str, port: int) -> Connection:
        self._where, self._host = f"{host}:{port}", host
        return self._greet(self._reach(host, port))

    def _reach(self, host: str, port: int) -> Connection:
        if self.beat is not None:
            self.beat(CONNECT)
        return Connection.to_host(host, port, self.timeout, tls=self.address.tls, ca=self.address.ca)

    def _greet(self, made: Connection) -> Connection:
        """Say who we are, and see, before anything else is asked of it, whether the server is our fleet's. Raises
        OtherFleet."""
        greeting = self._greeting()
        try:
            *told, fleet = made.ask([*greeting, ("GET", FLEET)])
            for reply in told:
                if isinstance(reply, ReplyError):
                    raise self._masked(reply)
            if self.address.state_dir and not isinstance(fleet, ReplyError):  # else what is asked next is told the same
                identity.compare(self.address.state_dir, fleet, self._where)
        except BaseException:
            made.close()
            raise
        return made

    def _masked(self, refusal: ReplyError) -> ReplyError:
        """A server that does not know AUTH repeats what it was told."""
        return ReplyError(str(refusal).replace(self.address.password or "\0", "***"))

    def _greeting(self) -> list[Command]:
        address, greeting = self.address, list[Command]()
        if address.password is not None:
            user = () if address.user is None else (address.user,)
            greeting.append(("AUTH", *user, address.password))
        if address.db and address.kind != "cluster":
            greeting.append(("SELECT", address.db))
        greeting.append(("CLIENT", "SETNAME", self.name))
        return greeting

    def use(self, made: Connection) -> None:
        """Go on over this connection, whatever it leads to."""
        self._connection = made

    def disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    close = disconnect


def _evalsha(loaded: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Command:
    return (b"EVALSHA", loaded.sha, len(keys), *keys, *arguments)


def _is_missing_script(reply: Any) -> bool:
    return isinstance(reply, ReplyError) and str(reply).startswith("NOSCRIPT")
