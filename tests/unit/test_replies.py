"""What a packed reply says when somebody wrote what is no text into a record."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from kubemin.store.redis.replies import unpack_reply

SINGLE, STEP = ["1m.0@7", "{}", "q1 1 default", False], ["1m.3@8", "1 d 1 - w", "55"]


def packed(*claims: list[Any]) -> bytes:
    return msgspec.msgpack.encode(["OK", "CA", [1, [], ['["finished"]']], *claims])


def test_a_reply_is_what_the_script_packed() -> None:
    assert unpack_reply(packed(SINGLE, STEP)) == ["OK", "CA", [1, [], ['["finished"]']], SINGLE, STEP]


@pytest.mark.parametrize("length", [1, 31, 32, 255, 256, 65_535, 65_536])
def test_a_claim_that_is_no_text_has_its_name_alone_and_the_others_are_whole(length: int) -> None:
    """Whatever the length of the text, which decides how it is packed."""
    text = "x" * (length - 1) + "y"
    raw = packed(SINGLE, ["1m.0@9", text, "q2 1 default", False], STEP).replace(
        text[:-1].encode() + b"y", text[:-1].encode() + b"\xff"
    )
    assert unpack_reply(raw) == ["OK", "CA", [1, [], ['["finished"]']], SINGLE, ["1m.0@9"], STEP]
