"""A step's output: into the log line by line, and its end into the record, at a bounded cost.

A step may write anything: a gigabyte without newline, a million lines in a second, terminal escapes, another line's
look-alike, a secret. So memory is bounded by a few hundred KiB a stream, what the log does not take is only
counted, and what reaches the log is one line of printable text. Bytes in, text out; no descriptor is touched here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

from kubemin import clock
from kubemin.model.records import TAIL_BYTES

LINE_BYTES: Final = 8 * 1024  # a longer line is cut into parts of this size
CUT: Final = "…"  # ends a part that goes on, and begins the part that follows
MASK: Final = b"***"
_SHORTEST_MASKED_LINE: Final = 6  # of a secret with several lines: a lone "}" is no secret

Emit = Callable[[str, str], None]

# Controls (C0, DEL, C1 with NEL), Unicode line separators, and what changes the direction of the text around it.
_REST = "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff"
_UNSAFE = re.compile(f"[\x00-\x08\x0a-\x1f{_REST}]")
_UNSAFE_IN_TEXT = re.compile(f"[\x00-\x08\x0b-\x1f{_REST}]")


def _visible(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def printable(line: str) -> str:
    """The line with everything visible that could act on a terminal or look like the start of another line."""
    return line if line.isprintable() else _UNSAFE.sub(_visible, line)


class Masks:
    """Replaces secrets by `***`. A secret of several lines is masked whole, and line by line."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        words: set[bytes] = set()
        for secret in secrets:
            raw = secret.encode("utf-8", "surrogateescape")
            words |= {raw, raw.strip()}
            words |= {part for line in raw.splitlines() if len(part := line.strip()) >= _SHORTEST_MASKED_LINE}
        words.discard(b"")
        self.longest = max(map(len, words), default=0)
        ordered = sorted(words, key=len, reverse=True)
        self._pattern = re.compile(b"|".join(map(re.escape, ordered))) if ordered else None

    def apply(self, data: bytes) -> bytes:
        return data if self._pattern is None else self._pattern.sub(MASK, data)

    def apart(self, data: bytes, cut: int) -> int:
        """`cut`, moved past a secret that lies across it."""
        if self._pattern is not None:
            for match in self._pattern.finditer(data):
                if match.start() >= cut:
                    break
                if match.end() > cut:
                    return match.end()
        return cut


class Allowance:
    """At most `rate` lines in a second, shared by a step's streams. Once it is used up nothing passes until the
    second is over, so a flood costs one note a second and not one a line."""

    def __init__(self, rate: int, now: Callable[[], float] = clock.monotonic) -> None:
        self._rate = rate
        self._left = rate
        self._now = now
        self._since = now()

    def used_up(self) -> bool:
        if self._left > 0:
            return False
        now = self._now()
        if now < self._since + 1.0 or self._rate <= 0:
            return True
        self._since, self._left = now, self._rate
        return False

    def take(self) -> bool:
        if self.used_up():
            return False
        self._left -= 1
        return True


class Tail:
    """The last `limit` bytes of a stream, and a little more so that a secret at the cut is found whole."""

    def __init__(self, masks: Masks, limit: int = TAIL_BYTES) -> None:
        self._masks = masks
        self._limit = limit
        self._keep = limit + masks.longest
        self._data = bytearray()

    def add(self, data: bytes) -> None:
        if len(data) >= self._keep:
            self._data = bytearray(data[-self._keep :])
            return
        self._data += data
        if len(self._data) > 2 * self._keep:
            del self._data[: -self._keep]

    def text(self) -> str:
        """At most `limit` bytes of UTF-8: masked, decoded, made visible; newlines and tabs are kept."""
        data = bytes(self._data)
        if len(data) > self._limit:
            cut = _forward_to_character(data, len(data) - self._limit)
            data = data[self._masks.apart(data, cut) :]
        data = self._masks.apply(data)
        text = data.decode("utf-8", "replace").replace("\r\n", "\n")
        return _last_bytes(_UNSAFE_IN_TEXT.sub(_visible, text), self._limit)


def _forward_to_character(data: bytes, cut: int) -> int:
    """`cut`, moved forward out of a UTF-8 character that it would split."""
    for ahead in range(4):
        if cut + ahead >= len(data) or data[cut + ahead] & 0xC0 != 0x80:
            return cut + ahead
    return cut


def _back_to_character(data: bytes, cut: int) -> int:
    """`cut`, moved back out of a UTF-8 character that it would split. Bytes that are no UTF-8 stay where they are."""
    for back in range(4):
        if data[cut - back] & 0xC0 != 0x80:
            return cut - back
    return cut


def _last_bytes(text: str, limit: int) -> str:
    if len(text) * 4 <= limit:
        return text
    encoded = text.encode("utf-8", "replace")
    return text if len(encoded) <= limit else encoded[-limit:].decode("utf-8", "ignore")


class Capture:
    """One stream of one step. Feed it what was read, `tick` it about once a second, `close` it at the end."""

    def __init__(self, stream: str, emit: Emit, allowance: Allowance, masks: Masks) -> None:
        self._stream = stream
        self._emit = emit
        self._allowance = allowance
        self._masks = masks
        self._tail = Tail(masks)
        self._pending = b""  # the line that has not ended yet, shorter than LINE_BYTES + the longest secret
        self._continued = False  # a part of that line is out already
        self._headless = False  # the line's beginning was dropped: drop its rest
        self._dropped = 0

    @property
    def tail(self) -> str:
        return self._tail.text()

    def feed(self, data: bytes) -> None:
        self._tail.add(data)
        if self._allowance.used_up():
            self._drop(data)
            return
        self._tell_dropped()
        if self._headless:
            data = self._drop_head(data)
        self._lines(self._pending + data if self._pending else data)

    def tick(self) -> None:
        """Tell what was dropped, also when nothing more comes."""
        if self._dropped and not self._allowance.used_up():
            self._tell_dropped()

    def close(self) -> None:
        """The end of the stream: a last line without newline is a line. What was dropped is told even when over the
        rate."""
        if (self._pending and not self._long_line(self._pending)) or self._headless:
            self._dropped += 1
        self._pending, self._headless = b"", False
        self._tell_dropped()

    def _lines(self, data: bytes) -> None:
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            if not self._long_line(data[start:end]):
                self._drop(data[start:])
                return
            start = end + 1
        self._pending = self._parts(data[start:])

    def _long_line(self, line: bytes) -> bool:
        """Emit a line that has ended, in as many parts as it needs. False: the allowance is used up."""
        rest = self._parts(line.removesuffix(b"\r"), LINE_BYTES)
        if self._headless or not self._part(rest):
            return False
        self._continued = False
        return True

    def _parts(self, line: bytes, whole: int | None = None) -> bytes:
        """Emit the parts of an unfinished line that is too long to be kept; returns what is left of it."""
        bound = LINE_BYTES + self._masks.longest if whole is None else whole
        start = 0
        while len(line) - start > bound:
            cut = self._cut(line, start)
            if not self._part(line[start:cut], goes_on=True):
                self._drop(line[start:])
                return b""
            self._continued = True
            start = cut
        return line[start:]

    def _cut(self, line: bytes, start: int) -> int:
        """Where the part that begins at `start` ends: within no character and no secret."""
        window = line[start : start + LINE_BYTES + self._masks.longest]
        return start + self._masks.apart(window, _back_to_character(line, start + LINE_BYTES) - start)

    def _part(self, raw: bytes, goes_on: bool = False) -> bool:
        if not self._allowance.take():
            return False
        text = printable(self._masks.apply(raw).decode("utf-8", "replace"))
        head = CUT if self._continued else ""
        self._emit(self._stream, head + text + (CUT if goes_on else ""))
        return True

    def _drop(self, data: bytes) -> None:
        if not data:
            return
        self._dropped += data.count(b"\n")
        self._pending, self._continued = b"", False
        self._headless = not data.endswith(b"\n")

    def _drop_head(self, data: bytes) -> bytes:
        end = data.find(b"\n")
        if end < 0:
            return b""
        self._headless = False
        self._dropped += 1
        return data[end + 1 :]

    def _tell_dropped(self) -> None:
        if self._dropped:
            word = "line" if self._dropped == 1 else "lines"
            self._emit(self._stream, f"… {self._dropped} {word} dropped")
            self._dropped = 0
