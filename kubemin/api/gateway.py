"""How a client's write reaches the store: through the daemon's socket, or into the file when no daemon holds it.

Requests are the JSON bodies of docs/design.md section 6 in both cases. Who holds the lock on the state directory
decides: a daemon holds it as long as it, or any worker of it, lives; a client only while it writes. A request that may
have been lost with its connection is sent once more, as it was: every request either is idempotent (the run ids are the
client's own) or says what it found.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator

import msgspec

from kubemin import clock
from kubemin.errors import Invalid, KubeminError, NotFound, Problem, Refused, StoreUnavailable, Unreachable

FRAME_BYTES = 64 * 1024 * 1024
PIPELINE = 16  # requests on their way before a reply is read
ARRIVAL = 10.0  # seconds that a daemon which holds the lock may take to listen: it, or its coordinator, is starting
ANSWER = 30.0  # seconds for one reply
SMALL = 4096  # bytes read at least
_TIMEVAL = struct.Struct("@ll")

Requests = Callable[[], Iterable[bytes]]  # makes the bodies again for a repeat


class Failure(msgspec.Struct, rename="camel"):
    """The daemon's refusal."""

    code: str = "error"
    message: str = "the daemon refused without a reason"
    exit_code: int = 1
    problems: list[Problem] = []


class Answer(msgspec.Struct):
    ok: msgspec.Raw = msgspec.Raw(b"null")
    error: Failure | None = None


_decode_answer = msgspec.json.Decoder(Answer).decode
KINDS: dict[int, type[KubeminError]] = {3: Unreachable, 4: NotFound, 5: Refused}


class Moved(Exception):
    """The daemon has joined its fleet: its store is elsewhere now. Nothing was sent, or it may be repeated."""


class Dropped(Exception):
    """The connection ended before the reply; whether the request was carried out is not known."""


class Connection:
    """One stream to the daemon. Not thread-safe; closed on the first error."""

    def __init__(self, path: str, timeout: float = ANSWER) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._inbound = bytearray()
        self._timeout = timeout
        try:
            self._limit(timeout)
            self._socket.connect(path)
        except BaseException:
            self._socket.close()
            raise

    def exchange(self, requests: Iterable[bytes]) -> Iterator[bytes]:
        """Replies' bodies in order; later requests are on their way before earlier replies are read. Raises Dropped."""
        waiting = 0
        for body in requests:
            if waiting == PIPELINE:
                yield self._receive()
                waiting -= 1
            self._send(body)
            waiting += 1
        for _ in range(waiting):
            yield self._receive()

    def wait_for(self, body: bytes, timeout: float | None) -> bytes | None:
        """The reply to one request; None when `timeout` seconds have passed, the connection is of no more use then."""
        self._send(body)
        self._limit(timeout)
        try:
            reply = self._frame()
        except TimeoutError:
            return None
        self._limit(self._timeout)
        return reply

    def _limit(self, timeout: float | None) -> None:
        """Seconds that one send or receive may take; None: no limit. In the kernel, which saves a poll(2) each."""
        micros = 0 if timeout is None else max(1, round(timeout * 1e6))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._socket.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(*divmod(micros, 1_000_000)))

    def _send(self, body: bytes) -> None:
        if len(body) > FRAME_BYTES:
            raise Invalid(f"the request is {len(body)} bytes; at most {FRAME_BYTES} are taken")
        try:
            self._socket.sendall(len(body).to_bytes(4, "big") + body)
        except BlockingIOError:
            raise self._silent() from None
        except OSError as exc:
            raise Dropped from exc

    def _receive(self) -> bytes:
        try:
            return self._frame()
        except TimeoutError:
            raise self._silent() from None

    def _frame(self) -> bytes:
        self._fill(4)
        end = 4 + int.from_bytes(self._inbound[:4], "big")
        self._fill(end)
        body = bytes(self._inbound[4:end])
        del self._inbound[:end]
        return body

    def _fill(self, length: int) -> None:
        while len(self._inbound) < length:
            try:
                data = self._socket.recv(max(SMALL, length - len(self._inbound)))
            except BlockingIOError:
                raise TimeoutError from None
            except OSError as exc:
                raise Dropped from exc
            if not data:
                raise Dropped
            self._inbound += data

    def _silent(self) -> Unreachable:
        message = (
            f"the daemon gave no answer in {self._timeout:g} s; it may have accepted the request: "
            "see `kubeminctl status` and `kubeminctl runs`, or repeat it with the same key"
        )
        return Unreachable(message, code="no_answer")

    def close(self) -> None:
        self._socket.close()


class Gateway:
    """Chooses the way for each exchange and keeps one connection. Not thread-safe: `Client` holds a lock around it."""

    def __init__(self, state_dir: str, runtime_dir: str) -> None:
        self.state_dir = state_dir
        self.moved: Callable[[], bool] = lambda: False  # of a node that may join a fleet
        self.socket_path = os.path.join(runtime_dir, "kubemin.sock")
        self._connection: Connection | None = None

    def exchange(self, requests: Requests) -> list[msgspec.Raw]:
        """All replies, in order. Raises the first refusal as its KubeminError, Unreachable, Moved."""
        pause, deadline, lost = 0.005, clock.monotonic() + ARRIVAL, False
        while True:
            connection = self.connect()
            if connection is None:
                if self.moved():
                    raise Moved
                replies = self._directly(requests)
                if replies is not None:
                    return replies
                if clock.monotonic() >= deadline:
                    raise Unreachable(
                        f"others keep taking the lock on {self.state_dir}; start the daemon, or try again"
                    )
                continue
            try:
                return self._over(connection, requests)
            except Dropped as exc:
                # A coordinator that dies is back within a second; until its listener is gone, it even accepts. One that
                # hung may have been waited for until now: the time begins with the first loss.
                if not lost:
                    lost, deadline = True, clock.monotonic() + ARRIVAL
                if clock.monotonic() >= deadline:
                    raise Unreachable(
                        "the connection to the daemon keeps being lost; whether the request was carried out is not "
                        "known; repeating it with the same key is safe; see the daemon's log"
                    ) from exc
                time.sleep(pause)
                pause = min(pause * 2, 0.2)

    def _over(self, connection: Connection, requests: Requests) -> list[msgspec.Raw]:
        finished = False
        try:
            replies = [result(reply) for reply in connection.exchange(requests())]
            finished = True
            return replies
        finally:
            if not finished:  # replies may be left in it
                self.disconnect()

    def connect(self) -> Connection | None:
        """The open connection, a new one, or None when no daemon holds the state directory (nor anybody else)."""
        if self._connection is None:
            self._connection = self.open()
        return self._connection

    def open(self) -> Connection | None:
        """A connection of the caller's own. Waits up to ARRIVAL seconds for a daemon that holds the lock."""
        deadline = clock.monotonic() + ARRIVAL
        pause = 0.005
        while True:
            connection = self.try_open()
            if connection is not None:
                return connection
            if not self.locked():
                return None
            if self.moved():
                raise Moved
            if clock.monotonic() >= deadline:
                raise Unreachable(
                    f"a daemon holds {self.state_dir} and does not answer at {self.socket_path}; see its log "
                    "(journalctl -u kubemin) and check that runtimeDir is the same here and there"
                )
            time.sleep(pause)
            pause = min(pause * 2, 0.2)

    def try_open(self) -> Connection | None:
        """A connection if somebody listens now. Raises Refused without the right to."""
        try:
            return Connection(self.socket_path)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except PermissionError:
            raise Refused(no_rights(self.socket_path), code="no_rights") from None
        except OSError as exc:
            if exc.errno in (errno.EAGAIN, errno.ENOTDIR):
                return None
            raise Unreachable(f"cannot connect to {self.socket_path}: {exc.strerror or exc}") from exc

    def disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def locked(self) -> bool:
        """Somebody holds the lock on the state directory now."""
        try:
            fd = os.open(self._lock_path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except PermissionError:
            raise Refused(no_rights(self.state_dir), code="no_rights") from None
        except OSError as exc:
            raise Unreachable(f"cannot open {self._lock_path}: {exc.strerror}") from exc
        try:
            return not _flock(fd)
        finally:
            os.close(fd)

    @property
    def _lock_path(self) -> str:
        return os.path.join(self.state_dir, "lock")

    def _directly(self, requests: Requests) -> list[msgspec.Raw] | None:
        """Write the file ourselves, holding the lock. None: somebody else was faster to take it."""
        from kubemin.api.direct import carry_out_all

        with self._lock() as held:
            if not held:
                return None
            return [result(reply) for reply in carry_out_all(os.path.join(self.state_dir, "kubemin.db"), requests())]

    @contextlib.contextmanager
    def _lock(self) -> Iterator[bool]:
        fd = self._open_lock()
        try:
            yield _flock(fd)
        finally:
            os.close(fd)

    def _open_lock(self) -> int:
        try:
            os.makedirs(self.state_dir, mode=0o750, exist_ok=True)
            return os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except PermissionError:
            raise Refused(no_rights(self.state_dir), code="no_rights") from None
        except OSError as exc:
            raise StoreUnavailable(f"cannot write in {self.state_dir}: {exc.strerror}") from exc


def result(body: bytes) -> msgspec.Raw:
    """The value of one reply. Raises the daemon's refusal as the error it is."""
    try:
        answer = _decode_answer(body)
    except msgspec.DecodeError as exc:
        raise Unreachable(f"the daemon's reply makes no sense ({exc}); are both of the same version?") from exc
    if answer.error is None:
        return answer.ok
    raise _error(answer.error)


def _error(failure: Failure) -> KubeminError:
    if failure.exit_code == 2:
        return Invalid(failure.problems or failure.message)
    return KINDS.get(failure.exit_code, KubeminError)(failure.message, code=failure.code)


def _flock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def no_rights(path: str) -> str:
    """What a user without rights should do, with the command that would help."""
    try:
        me = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        me = str(os.geteuid())
    return (
        f"user {me} may not use {path}; run the command as its owner (sudo kubeminctl …) or join the daemon's group: "
        f"sudo usermod -aG kubemin {me}, then log in again"
    )
