"""Calls that an exception ends half way: Ctrl-C, the handler of a signal, an argument that cannot be written. What the
server answers later is not taken for the answer to the next call.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import FrameType

import pytest
from support.redis_server import Server

from kubemin.store.redis import address as addresses
from kubemin.store.redis import keys
from kubemin.store.redis.client import Client
from kubemin.store.redis.scripts import script


class Interrupted(Exception):
    """As KeyboardInterrupt, which pytest would take for its own."""


def interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    made = Client(addresses.parse(server.address))
    made.execute("FLUSHALL")
    before = signal.signal(signal.SIGALRM, interrupt)
    yield made
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    made.close()


def test_the_next_call_gets_its_own_answer(client: Client) -> None:
    client.execute("SET", "this", "that")
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    with pytest.raises(Interrupted):
        client.execute("BLPOP", "nothing", 1, timeout=5)
    assert client.execute("GET", "this") == b"that"


def test_a_wait_that_is_interrupted_at_its_end(client: Client) -> None:
    client.execute("SET", "this", "that")
    client.begin(("BLPOP", "nothing", 1), script("seal"), [keys.STAMP], (keys.PREFIX, b"\x80"))
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    with pytest.raises(Interrupted):
        client.end()
    assert client.execute("GET", "this") == b"that"


def test_arguments_that_cannot_be_made_after_others_were_sent(client: Client) -> None:
    client.execute("SET", "this", "that")

    def calls() -> Iterator[tuple[str, bytes]]:
        yield keys.PREFIX, b"\x80"
        raise Interrupted

    with pytest.raises(Interrupted):
        client.run_many("seal", [keys.STAMP], calls())
    assert client.execute("GET", "this") == b"that"
