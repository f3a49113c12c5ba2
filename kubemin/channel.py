"""Packet queues between supervisor, coordinator and workers (docs/design.md section 4).

A message is one packet on an `AF_UNIX SOCK_SEQPACKET` pair: a kind byte and a JSON body. The kernel delivers a packet
whole or not at all and to one receiver only, so no reader blocks on half a message, no lock exists that a killed
process could keep, and two holders of the same read end never get the same task.

No call blocks; waiting is the caller's, by poll(2). A body too large for a packet travels as a sealed memfd attached to
it. This module may touch sockets and memfds, nothing else.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import select
import socket
import stat
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec

from kubemin.model.records import Claim, Outcome
from kubemin.model.states import Cause

T = TypeVar("T")

PACKET_BYTES: Final = 64 * 1024  # the largest body sent inside a packet
MESSAGE_BYTES: Final = 64 * 1024 * 1024  # the largest body at all: a claim with the outputs of a wide fan-out
MAX_FDS: Final = 16

# Kinds, as they are sent; what `try_recv` returns compares with the `*_KIND` numbers.
TASK: Final = b"T"  # coordinator → worker: [acked, Claim]
HELLO: Final = b"H"  # a new coordinator: send again what is not acknowledged, then answer with the same
ACK: Final = b"A"  # coordinator → worker: highest committed report
REPORT: Final = b"R"  # worker → coordinator: [seq, Outcome]
CANCEL: Final = b"C"  # coordinator → worker: [token, cause]
MODE: Final = b"M"  # coordinator → worker of a fleet: {"distributed", "paused"}
LOST: Final = b"L"  # worker of a fleet → coordinator: it was cut off inside BLPOP
COUNTS: Final = b"N"  # worker of a fleet → coordinator: what it has counted since the last (store/counting.py)
TICKET: Final = b"K"  # worker of a fleet → itself, or its coordinator: who receives it owns the task `RUN.IDX@TOKEN`
BATCH: Final = b"B"  # worker of a fleet → coordinator: it runs batches now, look after them
CONTROL: Final = b"S"  # supervisor ↔ coordinator: a JSON object, perhaps with descriptors
TASK_KIND, HELLO_KIND, ACK_KIND = TASK[0], HELLO[0], ACK[0]
REPORT_KIND, CANCEL_KIND, CONTROL_KIND = REPORT[0], CANCEL[0], CONTROL[0]
MODE_KIND, LOST_KIND, COUNTS_KIND = MODE[0], LOST[0], COUNTS[0]
TICKET_KIND, BATCH_KIND = TICKET[0], BATCH[0]

_LARGE: Final = 0x80  # set in the kind byte: the body is in the first attached descriptor
# Plain integers: `socket`'s own are enums, whose & costs as much as a system call.
_SEND: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_RECV: Final = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
_TRUNCATED: Final = int(socket.MSG_TRUNC)
_INCOMPLETE: Final = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_FD_SPACE: Final = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
_FULL: Final = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})


class PacketConnection:
    """One end of a packet pair. Thread-safe as far as the kernel is: one call, one packet. Owns its descriptor."""

    __slots__ = ("_socket",)

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=fd)

    def fileno(self) -> int:
        """-1 when closed."""
        return self._socket.fileno()

    @property
    def closed(self) -> bool:
        return self._socket.fileno() < 0

    def close(self) -> None:
        self._socket.close()

    # --- never blocking -----------------------------------------------------------------------------------------------

    def try_send(self, kind: bytes, body: bytes) -> bool:
        """Send one packet now; False: the socket is full, nothing was sent.

        Raises OSError when the other end is gone and ValueError for a body over MESSAGE_BYTES.
        """
        try:
            if len(body) <= PACKET_BYTES:
                self._socket.send(kind + body, _SEND)
            else:
                self._send(kind, body, (), _SEND)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _FULL:
                return False
            raise
        return True

    def try_recv(self) -> tuple[int, bytes] | None:
        """The next packet as (kind, body); None: nothing is there.

        Raises EOFError when the other end is closed and all was read, and ValueError for a broken packet (which is
        gone then; the connection goes on).
        """
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(PACKET_BYTES + 2, _FD_SPACE, _RECV)
        except BlockingIOError:
            return None
        if data and not ancillary and not flags & _TRUNCATED and data[0] < _LARGE:
            return data[0], data[1:]
        kind, body, fds = self._unpack(data, ancillary, flags)
        close_all(fds)
        return kind, body

    def send_with_fds(self, message: dict[str, Any], fds: Sequence[int] = ()) -> bool:
        """Send a control message with descriptors (which stay the caller's); False: full. Errors as `try_send`."""
        try:
            self._send(CONTROL, _encode(message), fds, _SEND)
        except OSError as error:
            if error.errno in _FULL:
                return False
            raise
        return True

    def recv_with_fds(self) -> tuple[dict[str, Any], list[int]] | None:
        """The next control message and its descriptors, now the caller's; None: nothing is there.

        Errors as `try_recv`.
        """
        try:
            kind, body, fds = self._recv(_RECV)
        except BlockingIOError:
            return None
        try:
            if kind != CONTROL_KIND:
                raise ValueError(f"a packet of kind {chr(kind)!r} where a control message was expected")
            return _decode(_control, body, "control message"), fds
        except ValueError:
            close_all(fds)
            raise

    # --- the wire -----------------------------------------------------------------------------------------------------

    def _send(self, kind: bytes, body: bytes, fds: Sequence[int], flags: int) -> None:
        if len(body) <= PACKET_BYTES:
            self._socket.sendmsg([kind, body], _rights(fds), flags)
            return
        if len(body) > MESSAGE_BYTES:
            raise ValueError(f"a message of {len(body)} bytes; at most {MESSAGE_BYTES} can be sent")
        memfd = _sealed(body)
        try:
            self._socket.sendmsg([bytes([kind[0] | _LARGE])], _rights([memfd, *fds]), flags)
        finally:
            os.close(memfd)

    def _recv(self, flags: int) -> tuple[int, bytes, list[int]]:
        return self._unpack(*self._socket.recvmsg(PACKET_BYTES + 2, _FD_SPACE, flags)[:3])

    def _unpack(self, data: bytes, ancillary: list[tuple[int, int, bytes]], flags: int) -> tuple[int, bytes, list[int]]:
        fds = _descriptors(ancillary)
        try:
            if not data:
                raise self._nothing()
            if flags & _INCOMPLETE:
                raise ValueError("a packet that is too long, or carries too many descriptors")
            if data[0] < _LARGE:
                return data[0], data[1:], fds
            body = _body_of(fds)
        except BaseException:
            close_all(fds)
            raise
        os.close(fds.pop(0))
        return data[0] & ~_LARGE, body, fds

    def _nothing(self) -> Exception:
        """Zero bytes are the end of the connection, or an empty packet that somebody sent."""
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        events = dict(poller.poll(0)).get(self._socket.fileno(), 0)
        return EOFError() if events & (select.POLLHUP | select.POLLERR) else ValueError("an empty packet")


def packet_pair() -> tuple[PacketConnection, PacketConnection]:
    """Two connected ends, close-on-exec, with the largest send buffers an unprivileged process may have."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (left, right):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    return PacketConnection(left.detach()), PacketConnection(right.detach())


def from_fd(fd: int) -> PacketConnection:
    """Take over a descriptor that was received. Raises ValueError (and closes it) when it is no packet socket."""
    probe = socket.socket(fileno=os.dup(fd)) if _is_socket(fd) else None
    try:
        if probe is None or probe.family != socket.AF_UNIX or probe.type != socket.SOCK_SEQPACKET:
            os.close(fd)
            raise ValueError(f"descriptor {fd} is no packet socket")
    finally:
        if probe is not None:
            probe.close()
    return PacketConnection(fd)


def close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def _is_socket(fd: int) -> bool:
    return stat.S_ISSOCK(os.fstat(fd).st_mode)


def _rights(fds: Sequence[int]) -> list[tuple[int, int, array.array[int]]]:
    """Ancillary data for sendmsg (socket.send_fds drops its flags before Python 3.12, and would block)."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def _sealed(body: bytes) -> int:
    """A memfd that holds `body` and can no longer change, so that its reader cannot be tricked."""
    fd = os.memfd_create("kubemin-packet", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(body)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _body_of(fds: list[int]) -> bytes:
    if not fds:
        raise ValueError("a large packet without its body")
    try:
        sealed = fcntl.fcntl(fds[0], fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError:
        sealed = False
    if not sealed:
        raise ValueError("a large packet whose body is not sealed")
    size = os.fstat(fds[0]).st_size
    if size > MESSAGE_BYTES:
        raise ValueError(f"a packet of {size} bytes; at most {MESSAGE_BYTES} are taken")
    return os.pread(fds[0], size, 0)


# --- typed bodies -----------------------------------------------------------------------------------------------------

_NULL: Final = msgspec.Raw(b"null")


# msgspec takes raw JSON in a field only when its type is Raw alone; `Raw | None` refuses everything but null.
class _ReceivedClaim(Claim, array_like=True):
    inputs: msgspec.Raw = _NULL


class _ReceivedOutcome(Outcome, array_like=True):
    output: msgspec.Raw = _NULL


_encode = msgspec.json.Encoder().encode
_task = msgspec.json.Decoder(tuple[int, _ReceivedClaim]).decode
_report = msgspec.json.Decoder(tuple[int, _ReceivedOutcome]).decode
_cancel = msgspec.json.Decoder(tuple[int, Cause]).decode
_number = msgspec.json.Decoder(int).decode
_control = msgspec.json.Decoder(dict[str, Any]).decode


def _decode(decode: Callable[[bytes], T], body: bytes, what: str) -> T:
    try:
        return decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"a broken {what} packet: {error}") from error


def pack_task(acked: int, claim: Claim) -> bytes:
    return _encode((acked, claim))


def unpack_task(body: bytes) -> tuple[int, Claim]:
    """Raises ValueError, as all `unpack_` functions do."""
    acked, claim = _decode(_task, body, "task")
    given: Claim = claim
    if claim.inputs == _NULL:
        given.inputs = None
    return acked, given


def pack_report(seq: int, outcome: Outcome) -> bytes:
    return _encode((seq, outcome))


def unpack_report(body: bytes) -> tuple[int, Outcome]:
    seq, outcome = _decode(_report, body, "report")
    given: Outcome = outcome
    if outcome.output == _NULL:
        given.output = None
    return seq, given


def pack_cancel(token: int, cause: Cause) -> bytes:
    return _encode((token, cause))


def unpack_cancel(body: bytes) -> tuple[int, Cause]:
    return _decode(_cancel, body, "cancel")


def pack_ack(acked: int) -> bytes:
    return _encode(acked)


def unpack_ack(body: bytes) -> int:
    return _decode(_number, body, "acknowledgement")


class WorkerMode(msgspec.Struct, frozen=True):
    """Where a worker of a fleet takes tasks from: Redis (`distributed`), nowhere (`paused`), else its channel."""

    distributed: bool = False
    paused: bool = False


_mode = msgspec.json.Decoder(WorkerMode).decode


def pack_mode(mode: WorkerMode) -> bytes:
    return _encode(mode)


def unpack_mode(body: bytes) -> WorkerMode:
    return _decode(_mode, body, "mode")


def pack_ticket(run: str, idx: int, token: int) -> bytes:
    return b"%b.%d@%d" % (run.encode(), idx, token)


def token_of(body: bytes) -> int:
    """Of a ticket."""
    try:
        return int(body[body.rindex(b"@") + 1 :])
    except ValueError as error:
        raise ValueError(f"a broken ticket: {error}") from error


def unpack_ticket(body: bytes) -> tuple[str, int, int]:
    try:
        run, _, idx = body[: body.rindex(b"@")].decode().rpartition(".")
        return run, int(idx), token_of(body)
    except ValueError as error:  # UnicodeDecodeError is one
        raise ValueError(f"a broken ticket: {error}") from error


def pack_hello() -> bytes:
    """A hello has no content: whoever receives it sends again what nobody acknowledged."""
    return b"{}"
