"""Signatures of what a fleet's nodes are given to run (engine rule 25): the key file, and a MAC over named parts.

Whoever can write to Redis must not be able to make a node run what no key holder signed. What is signed, and where it
stands in Redis, is `store/redis/signatures.py`'s business; here is only how: HMAC-SHA-256 (RFC 2104) over a msgpack
list, whose framing leaves no two lists alike. A signature is text: id of the key, instant of signing, MAC. May touch:
the key file, which is read once.

The file holds one key a line: the first signs, all verify, so that keys are rotated without a gap (docs/fleet.md).
"""

from __future__ import annotations

import os
import stat
from base64 import urlsafe_b64encode
from collections.abc import Sequence

import msgspec

from kubemin.clock import Micros
from kubemin.errors import Invalid, Problem, Refused

SHORTEST = 32  # characters of a key: 128 bits when they are hexadecimal
MOST_KEYS = 16
_MOST_BYTES = 64 * 1024
_OPEN_TO_OTHERS = stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP

Part = str | bytes | int | None

_pack = msgspec.msgpack.Encoder().encode


class Unsigned(Refused):
    """No key of ours signed this as it stands."""

    code = "unsigned"


class Signer:
    """The keys of one file. `id`, of the key that signs, names it in signatures and heartbeats and says nothing of
    it."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = {key_id(key): key for key in keys}
        self.ids = tuple(self._keys)
        self.id = self.ids[0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Signer) and self._keys == other._keys and self.ids == other.ids

    __hash__ = None  # type: ignore[assignment]

    def sign(self, at: Micros, *parts: Part) -> str:
        """`parts` begin with a word for what they are: a signature of one thing is none of another."""
        return f"{self.id}.{at}.{_mac(self._keys[self.id], at, parts)}"

    def verify(self, signature: str | None, *parts: Part) -> Micros:
        """When these parts were signed. Raises Unsigned."""
        if not signature:
            raise Unsigned("it has no signature")
        name, _, rest = signature.partition(".")
        instant, _, mac = rest.partition(".")
        key = self._keys.get(name)
        if key is None:
            raise Unsigned(f"it is signed with key {name[:16]!r}, which is not in the key file of this node")
        if not (instant.isascii() and instant.isdigit() and len(instant) <= 18):
            raise Unsigned("its signature cannot be read")
        if not _equal(mac.encode(), _mac(key, int(instant), parts).encode()):
            raise Unsigned("it is not what was signed")
        return int(instant)


def _equal(one: bytes, other: bytes) -> bool:
    import hmac  # and with it OpenSSL, 2 MB, which only nodes with a key need

    return hmac.compare_digest(one, other)


def _mac(key: bytes, at: Micros, parts: Sequence[Part]) -> str:
    import hmac

    return urlsafe_b64encode(hmac.digest(key, _pack((at, *parts)), "sha256")).decode()


def key_id(key: bytes) -> str:
    import hashlib

    return hashlib.sha256(b"kubemin signing key\n" + key).hexdigest()[:8]


# --- the key file ----------------------------------------------------------------------------------------------------


def load(path: str) -> Signer:
    """Raises Invalid: a file that is not there, that others may read or change, or that holds no good keys."""
    try:
        with open(path, "rb", opener=_open) as file:
            status = os.fstat(file.fileno())
            body = file.read(_MOST_BYTES + 1)
    except OSError as exc:
        raise _invalid("unreadable", f"cannot read {path}: {exc.strerror}") from exc
    if not stat.S_ISREG(status.st_mode):
        raise _invalid("unreadable", f"{path} is no regular file")
    if status.st_mode & _OPEN_TO_OTHERS:
        raise _invalid("unsafe", f"others may read {path}, or its group may change it; do `chmod 0640 {path}`")
    return Signer(_keys(path, body))


def _open(path: str, flags: int) -> int:
    """A FIFO in its place must not hold us up."""
    return os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)


def _keys(path: str, body: bytes) -> list[bytes]:
    lines = [line.strip() for line in body.splitlines()]
    keys = [line for line in lines if line and not line.startswith(b"#")]
    if not keys or len(body) > _MOST_BYTES or len(keys) > MOST_KEYS:
        raise _invalid(
            "no_key", f"{path} holds {len(keys)} keys; put one a line, 1 to {MOST_KEYS}: openssl rand -hex 32"
        )
    if short := next((number for number, key in enumerate(keys, 1) if len(key) < SHORTEST), 0):
        text = f"key {short} in {path} has fewer than {SHORTEST} characters; make one with: openssl rand -hex 32"
        raise _invalid("weak_key", text)
    return keys


def _invalid(code: str, text: str) -> Invalid:
    return Invalid([Problem("signingKeyFile", code, text)])
