"""One connection to a server: replies in pieces, refusals, silence and nonsense, and what errors of a server mean."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubemin.errors import Invalid, StoreUnavailable
from kubemin.store.redis import address as addresses
from kubemin.store.redis.client import Client
from kubemin.store.redis.connection import Connection, ReplyError, pack
from kubemin.store.redis.errors import translate


@pytest.fixture
def ends() -> Iterator[tuple[Connection, socket.socket]]:
    ours, theirs = socket.socketpair()
    with theirs, ours:
        yield Connection(ours, 0.2), theirs


def test_commands_of_all_kinds_of_arguments() -> None:
    packed = pack([("SET", b"k\r\n", 12), ("GET", 1.5)])
    assert packed == b"*3\r\n$3\r\nSET\r\n$3\r\nk\r\n\r\n$2\r\n12\r\n*2\r\n$3\r\nGET\r\n$3\r\n1.5\r\n"


def test_replies_come_in_pieces_and_several_at_once(ends: tuple[Connection, socket.socket]) -> None:
    connection, server = ends
    server.sendall(b"*2\r\n:1\r\n$3\r\na\r\n")
    with pytest.raises(TimeoutError):
        connection.read()
    server.sendall(b"b"[:0] + b"\r\n+OK\r\n$-1\r\n")
    assert [connection.read(), connection.read(), connection.read()] == [[1, b"a\r\n"], b"OK", None]


def test_a_refusal_is_returned_and_the_next_reply_is_read(ends: tuple[Connection, socket.socket]) -> None:
    connection, server = ends
    server.sendall(b"-LOADING wait\r\n:2\r\n")
    refusal = connection.read()
    assert isinstance(refusal, ReplyError) and str(refusal) == "LOADING wait"
    assert connection.read() == 2


def test_silence_ends_after_its_time(ends: tuple[Connection, socket.socket]) -> None:
    connection, _ = ends
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        connection.read()
    with pytest.raises(TimeoutError):
        connection.wait(0.05)
    assert 0.2 <= time.monotonic() - began < 2


def test_a_server_that_takes_nothing_ends_the_send(ends: tuple[Connection, socket.socket]) -> None:
    with pytest.raises(TimeoutError):
        ends[0].send(bytes(64 * 1024 * 1024))


@pytest.mark.parametrize("last", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"*1\r\n:"])
def test_an_end_and_nonsense_break_the_connection(ends: tuple[Connection, socket.socket], last: bytes) -> None:
    connection, server = ends
    server.sendall(last)
    server.shutdown(socket.SHUT_WR)
    with pytest.raises(OSError):
        connection.read()


def test_a_file_of_certificates_that_is_not_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = Client(addresses.parse(f"rediss://127.0.0.1:{server.getsockname()[1]}?ca={tmp_path}/none.pem"))
        with pytest.raises(StoreUnavailable, match="cannot use the certificates in"):
            client.execute("PING")


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("READONLY You can't write against a read only replica.", "readonly"),
        ("ERR Error running script (call to f_a): @user_script:1: -READONLY You can't write", "readonly"),
        ("MISCONF Redis is configured to save RDB snapshots", "misconf"),
        ("OOM command not allowed when used memory > 'maxmemory'. script: a, on @user_script:1.", "oom"),
        ("ERR Error running script (call to f_a): @user_script:1: -OOM command not allowed", "oom"),
        ("NOAUTH Authentication required.", "noauth"),
        ("WRONGPASS invalid username-password pair or user is disabled.", "noauth"),
        ("ERR AUTH <password> called without any password configured for the default user.", "noauth"),
        ("NOPERM this user has no permissions to run the 'evalsha' command", "noperm"),
        ("CLUSTERDOWN The cluster is down", "clusterdown"),
        ("ASK 3999 127.0.0.1:6381", "clusterdown"),
        ("TRYAGAIN Multiple keys request during rehashing of slot", "clusterdown"),
        ("ERR Script attempted to access a non local key in a cluster node", "clusterdown"),
        ("MOVED 3999 127.0.0.1:6381", "moved"),
        ("MASTERDOWN Link with MASTER is down", "masterdown"),
        ("LOADING Redis is loading the dataset in memory", "loading"),
        ("BUSY Redis is busy running a script.", "busy"),
        ("NOREPLICAS Not enough good replicas to write.", "noreplicas"),
        ("ERR max number of clients reached", "maxclients"),
        ("WRONGTYPE Operation against a key", "redis_error"),
    ],
)
def test_what_a_server_refuses_has_its_code(said: str, code: str) -> None:
    failure = translate(ReplyError(said), "redis:6379")
    assert isinstance(failure, StoreUnavailable) and failure.code == code
    assert failure.fatal == (code in ("noauth", "noperm"))


def test_a_server_that_repeats_the_password_does_not_bring_it_into_a_message() -> None:
    said = b"-ERR unknown command `AUTH`, with args beginning with: `ann`, `open-sesame`, \r\n+OK\r\n$-1\r\n"
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = Client(addresses.parse(f"redis://ann:open-sesame@127.0.0.1:{server.getsockname()[1]}"))
        answering = threading.Thread(target=lambda: server.accept()[0].sendall(said))
        answering.start()
        with pytest.raises(StoreUnavailable, match="unknown command") as failed:
            client.execute("PING")
        answering.join()
    assert "open-sesame" not in str(failed.value)


def test_names_of_hosts_in_other_scripts() -> None:
    assert addresses.parse("bücher.example:7").hosts == (("xn--bcher-kva.example", 7),)
    with pytest.raises(Invalid, match="no host name"):
        addresses.parse(f"ü{'a' * 80}:7")


@pytest.mark.parametrize(
    ("place", "found"),
    [
        ("10.0.0.7:7001", ("10.0.0.7", 7001)),
        (":7001", ("here", 7001)),
        ("fd00::7:7001", ("fd00::7", 7001)),
        ("?", None),
    ],
)
def test_where_a_cluster_sends_us(place: str, found: tuple[str, int] | None) -> None:
    client = Client(addresses.parse("redis+cluster://here:7000"))
    client._host = "here"
    client._sent_away(ReplyError(f"MOVED 3999 {place}"))
    assert client._master == found
