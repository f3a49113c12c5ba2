"""Texts that a script packs into one, read back: replies, and the tasks of a run that has ended. Pure.

Somebody may have written anything into a record, and a reply brings many of them: what was no text in Redis costs its
own claim alone.
"""

from __future__ import annotations

from typing import Any

import msgspec

from kubemin.store.redis.records import unpack_any

_CLAIMS = 3  # where they begin
_LENGTHS = {0xD9: 2, 0xDA: 3, 0xDB: 5}  # bytes before a text, by its first; a short one has one
_parts = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_lists = msgspec.msgpack.Decoder(list[list[msgspec.Raw]]).decode


def unpack_reply(raw: bytes) -> list[Any]:
    """Of finish_and_claim.lua. A claim with what is no text has its name alone."""
    try:
        reply: list[Any] = unpack_any(raw)
    except UnicodeDecodeError:
        reply = [_readable(bytes(part)) for part in _parts(raw)]
        reply[_CLAIMS:] = [claim[:1] if _spoilt(claim) else claim for claim in reply[_CLAIMS:]]
    return reply


def _readable(raw: bytes) -> Any:
    """What is no text stays bytes."""
    try:
        return unpack_any(raw)
    except UnicodeDecodeError:
        if raw[0] in _LENGTHS or 0xA0 <= raw[0] <= 0xBF:
            return _text(raw)
        return [_readable(bytes(part)) for part in _parts(raw)]


def _text(raw: bytes) -> bytes:
    return raw[_LENGTHS.get(raw[0], 1) :]


def unpack_folded(raw: bytes) -> list[list[bytes]] | None:
    """Tasks and outputs of a run that has ended (lua/folding.lua), flat as HGETALL tells them; None: unreadable."""
    try:
        tasks, outputs = _lists(raw)
    except (msgspec.MsgspecError, ValueError):
        return None
    flat = [[_text(bytes(part)) for part in texts] for texts in (tasks, outputs)]
    sound = all(len(texts) % 2 == 0 and all(map(bytes.isdigit, texts[::2])) for texts in flat)
    return flat if sound else None


def _spoilt(claim: list[Any]) -> bool:
    return any(isinstance(part, bytes) for part in claim)
