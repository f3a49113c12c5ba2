"""The packet queues: whole packets, never blocking, nothing hostile breaks the loop, no descriptor leaks."""

from __future__ import annotations

import os
import socket

import msgspec
import pytest

from kubemin import channel
from kubemin.channel import PacketConnection, packet_pair
from kubemin.model.records import Claim, Outcome
from kubemin.model.states import Cause, TaskState

CLAIM = Claim("0" * 20, 3, "load", "report", 7, 1, 60.0, msgspec.Raw(b'{"python":"m:f"}'))


@pytest.fixture
def pair():
    left, right = packet_pair()
    yield left, right
    left.close()
    right.close()


@pytest.fixture(autouse=True)
def no_descriptor_leaks():
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) <= before


def raw(connection: PacketConnection) -> socket.socket:
    return socket.socket(fileno=os.dup(connection.fileno()))


def test_packets_arrive_whole_in_order_and_once(pair):
    left, right = pair
    for n in range(100):
        assert left.try_send(channel.TASK, b"%d" % n)
    assert [right.try_recv() for _ in range(100)] == [(channel.TASK_KIND, b"%d" % n) for n in range(100)]
    assert right.try_recv() is None


@pytest.mark.parametrize("size", [0, 1, channel.PACKET_BYTES, channel.PACKET_BYTES + 1, 3_000_000])
def test_any_size_arrives(pair, size):
    left, right = pair
    assert left.try_send(channel.REPORT, b"x" * size)
    assert right.try_recv() == (channel.REPORT_KIND, b"x" * size)


def test_too_large_is_refused_before_sending(pair):
    left, right = pair
    with pytest.raises(ValueError, match="at most"):
        left.try_send(channel.REPORT, bytes(channel.MESSAGE_BYTES + 1))
    assert right.try_recv() is None


def test_full_is_told_and_nothing_is_lost(pair):
    left, right = pair
    sent = 0
    while left.try_send(channel.TASK, b"x" * 1000):
        sent += 1
    assert sent > 64  # a hand-out window fits
    assert not left.try_send(channel.TASK, b"x" * 100_000)
    received = 0
    while right.try_recv() is not None:
        received += 1
    assert received == sent
    assert left.try_send(channel.TASK, b"again")


def test_two_holders_of_the_read_end_share_the_packets(pair):
    """Engine rule 11: whoever receives the packet owns the task."""
    left, right = pair
    other = channel.from_fd(os.dup(right.fileno()))
    for n in range(50):
        left.try_send(channel.TASK, bytes([n]))
    got = []
    for reader in [right, other] * 25:
        packet = reader.try_recv()
        assert packet is not None
        got.append(packet[1][0])
    assert got == list(range(50))
    assert other.try_recv() is None
    other.close()


def test_end_of_file_after_the_last_packet():
    left, right = packet_pair()
    left.try_send(channel.ACK, b"5")
    left.close()
    assert right.try_recv() == (channel.ACK_KIND, b"5")
    with pytest.raises(EOFError):
        right.try_recv()
    with pytest.raises(OSError, match=r"[Bb]roken pipe|reset"):
        right.try_send(channel.ACK, b"6")
    right.close()


@pytest.mark.parametrize(
    "packet",
    [b"", b"x" * (channel.PACKET_BYTES + 5), bytes([ord("T") | 0x80])],
    ids=["empty", "too long", "large without body"],
)
def test_a_broken_packet_is_an_error_and_the_next_one_is_read(pair, packet):
    left, right = pair
    with raw(left) as sock:
        sock.send(packet)
    left.try_send(channel.ACK, b"1")
    with pytest.raises(ValueError, match="packet"):
        right.try_recv()
    assert right.try_recv() == (channel.ACK_KIND, b"1")


def test_a_large_packet_must_be_a_sealed_memfd(pair, tmp_path):
    left, right = pair
    (tmp_path / "f").write_bytes(b"x" * 100)
    for fd in (os.open(tmp_path / "f", os.O_RDWR), os.memfd_create("loose", os.MFD_ALLOW_SEALING)):
        with raw(left) as sock:
            socket.send_fds(sock, [bytes([ord("T") | 0x80])], [fd])
        os.close(fd)
        with pytest.raises(ValueError, match="not sealed"):
            right.try_recv()


def test_uninvited_descriptors_are_closed(pair):
    left, right = pair
    with raw(left) as sock, open("/dev/null", "rb") as null:
        socket.send_fds(sock, [b"A7"], [null.fileno()] * 3)
        assert right.try_recv() == (channel.ACK_KIND, b"7")
        socket.send_fds(sock, [b"A7"], [null.fileno()] * 40)
        with pytest.raises(ValueError, match="descriptors"):
            right.try_recv()


def test_control_descriptors_work_and_are_close_on_exec(pair):
    left, right = pair
    for text in ("small", "x" * 100_000):
        read, write = os.pipe()
        assert left.send_with_fds({"type": "worker", "text": text}, [write])
        os.close(write)
        received = right.recv_with_fds()
        assert received is not None
        message, [fd] = received
        assert message["text"] == text
        assert not os.get_inheritable(fd)
        os.write(fd, b"hi")
        assert os.read(read, 10) == b"hi"
        os.close(fd)
        os.close(read)
    assert right.recv_with_fds() is None
    assert left.send_with_fds({"type": "stop"})
    assert right.recv_with_fds() == ({"type": "stop"}, [])


@pytest.mark.parametrize("packet", [b"S{", b"S[1]", b"T{}", b"S\xff\xfe"])
def test_a_broken_control_message_is_a_value_error(pair, packet):
    left, right = pair
    with raw(left) as sock, open("/dev/null", "rb") as null:
        socket.send_fds(sock, [packet], [null.fileno()])
    with pytest.raises(ValueError, match="control message"):
        right.recv_with_fds()


def test_typed_bodies_round_trip():
    acked, claim = channel.unpack_task(channel.pack_task(9, CLAIM))
    assert (acked, claim.task, bytes(claim.work), claim.inputs) == (9, CLAIM.task, bytes(CLAIM.work), None)
    claim.inputs = msgspec.Raw(b'{"item":1}')
    assert bytes(channel.unpack_task(channel.pack_task(9, claim))[1].inputs or b"") == b'{"item":1}'
    assert channel.unpack_report(channel.pack_report(1, Outcome("r", 1, 5, None)))[1].output is None
    outcome = Outcome("r", 1, 5, TaskState.FAILED, Cause.EXIT, "exit 3", 3, output=msgspec.Raw(b"[1]"))
    seq, back = channel.unpack_report(channel.pack_report(4, outcome))
    assert (seq, back.state, back.cause, bytes(back.output or b"")) == (4, TaskState.FAILED, Cause.EXIT, b"[1]")
    assert channel.unpack_cancel(channel.pack_cancel(5, Cause.REPLACED)) == (5, Cause.REPLACED)
    assert channel.unpack_ack(channel.pack_ack(12)) == 12


@pytest.mark.parametrize("unpack", ["task", "report", "cancel", "ack"])
@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"x"', b"\xff", b"[" * 5000, b"[5, \xed\xa0\x80]"])
def test_broken_bodies_are_value_errors(unpack, body):
    with pytest.raises(ValueError, match="broken"):
        getattr(channel, f"unpack_{unpack}")(body)


def test_from_fd_refuses_what_is_no_packet_socket():
    read, write = os.pipe()
    stream, peer = socket.socketpair()
    for fd in (read, stream.detach()):
        with pytest.raises(ValueError, match="no packet socket"):
            channel.from_fd(fd)
    os.close(write)
    peer.close()
