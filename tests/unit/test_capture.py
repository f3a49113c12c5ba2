"""What a step may write, and what comes of it in the log and in the kept tail."""

from __future__ import annotations

import re
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubemin.model.records import TAIL_BYTES
from kubemin.steps.capture import CUT, LINE_BYTES, Allowance, Capture, Masks


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Log:
    def __init__(self, rate: int = 10**9, secrets: tuple[str, ...] = ()) -> None:
        self.lines: list[str] = []
        self.clock = Clock()
        allowance = Allowance(rate, self.clock)
        self.capture = Capture("stdout", lambda _, line: self.lines.append(line), allowance, Masks(secrets))

    def write(self, *chunks: bytes) -> Log:
        for chunk in chunks:
            self.capture.feed(chunk)
        return self

    def end(self) -> list[str]:
        self.capture.close()
        return self.lines


def test_lines_end_at_newline_with_or_without_carriage_return() -> None:
    assert Log().write(b"a\r\nb\n\nc").end() == ["a", "b", "", "c"]


def test_a_line_in_many_reads_is_one_line() -> None:
    assert Log().write(b"on", b"e\nt", b"", b"wo", b"\n").end() == ["one", "two"]


def test_a_character_split_over_two_reads_is_kept_whole() -> None:
    raw = "grün €\n".encode()
    for cut in range(len(raw)):
        assert Log().write(raw[:cut], raw[cut:]).end() == ["grün €"]


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert Log().write(b"\xff\xfe ok\n").end() == ["�� ok"]


@pytest.mark.parametrize(
    ("raw", "seen"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("a\rb", r"a\x0db"),
        ("a\u2028b\u2029c\x85d", r"a\u2028b\u2029c\x85d"),
        ("\u202eevil\u2066", r"\u202eevil\u2066"),
        ("nul\0", r"nul\x00"),
        ("tab\tstays", "tab\tstays"),
    ],
)
def test_no_line_can_be_forged(raw: str, seen: str) -> None:
    assert Log().write(raw.encode() + b"\n").end() == [seen]


def test_a_long_line_is_cut_into_marked_parts() -> None:
    lines = Log().write(b"x" * (2 * LINE_BYTES + 5), b"\nnext\n").end()
    assert lines == ["x" * LINE_BYTES + CUT, CUT + "x" * LINE_BYTES + CUT, CUT + "xxxxx", "next"]


def test_a_long_line_is_not_cut_inside_a_character() -> None:
    lines = Log().write(("ä" * LINE_BYTES).encode()[:-1] + b"\xa4\n", b"a" + ("€" * LINE_BYTES).encode()).end()
    assert "�" not in "".join(lines)


def test_secrets_are_masked_across_reads_and_across_cuts() -> None:
    secret = "s3cr€t-value"
    raw = b"y" * (LINE_BYTES - 5) + secret.encode() + b" tail " + secret.encode() + b"\n"
    for cut in range(LINE_BYTES - 8, len(raw)):
        log = Log(secrets=(secret,)).write(raw[:cut], raw[cut:])
        text = "".join(log.end())
        assert text.count("***") == 2, cut
        assert "s3cr" not in text
        assert "value" not in text
        assert "s3cr" not in log.capture.tail


def test_a_secret_of_several_lines_is_masked_line_by_line() -> None:
    log = Log(secrets=("-----BEGIN\nabcdefgh\n}\n",)).write(b"key: abcdefgh\n{ }\n")
    assert log.end() == ["key: ***", "{ }"]


def test_a_secret_cut_by_the_ring_leaves_no_piece_in_the_tail() -> None:
    secret = "topsecret" * 3
    for ahead in range(1, 27):
        log = Log(secrets=(secret,)).write(secret.encode(), b"z" * (TAIL_BYTES - ahead))
        tail = log.capture.tail
        assert "secret" not in tail
        assert "topsec" not in tail


def test_the_tail_is_the_end_and_bounded() -> None:
    log = Log(rate=0)
    for number in range(40_000):
        log.write(b"line %d\n" % number)
    tail = log.capture.tail
    assert tail.endswith("line 39999\n")
    assert TAIL_BYTES - 20 <= len(tail.encode()) <= TAIL_BYTES


def test_the_tail_of_binary_output_stays_bounded() -> None:
    log = Log(rate=0).write(bytes(range(256)) * 1024)
    assert len(log.capture.tail.encode()) <= TAIL_BYTES


def test_lines_over_the_rate_are_dropped_and_counted() -> None:
    log = Log(rate=10).write(b"x\n" * 25)
    assert log.lines == ["x"] * 10
    log.clock.now += 1.0
    log.write(b"y\n")
    assert log.lines[10:] == ["… 15 lines dropped", "y"]


def test_what_was_dropped_is_told_when_nothing_more_comes() -> None:
    log = Log(rate=1).write(b"a\nb\n")
    log.capture.tick()
    assert log.lines == ["a"]
    log.clock.now += 1.5
    log.capture.tick()
    log.capture.tick()
    assert log.lines == ["a", "… 1 line dropped"]


def test_the_rest_of_a_line_whose_head_was_dropped_is_dropped_too() -> None:
    log = Log(rate=1).write(b"a\nb\nhead")
    log.clock.now += 1.0
    log.write(b" of a line\nwhole\n")
    assert log.lines == ["a", "… 1 line dropped", "whole"]
    log.capture.close()
    assert log.lines == ["a", "… 1 line dropped", "whole", "… 1 line dropped"]


def test_the_streams_of_a_step_share_one_allowance() -> None:
    lines: list[str] = []
    allowance = Allowance(2, Clock())
    captures = [Capture(name, lambda _, line: lines.append(line), allowance, Masks()) for name in ("stdout", "stderr")]
    for capture in captures:
        capture.feed(b"1\n2\n")
    assert lines == ["1", "2"]


@given(st.lists(st.binary(max_size=40), max_size=20), st.integers(0, 6))
def test_every_newline_is_a_line_that_is_shown_or_counted(chunks: list[bytes], rate: int) -> None:
    log = Log(rate=rate)
    log.write(*chunks)
    lines = log.end()
    raw = b"".join(chunks)
    ended = raw.count(b"\n") + (0 if raw.endswith(b"\n") or not raw else 1)
    dropped = sum(int(line.split()[1]) for line in lines if line.startswith("… "))
    assert len([line for line in lines if not line.startswith("… ")]) + dropped == ended
    assert not re.search("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028-\u202e]", "".join(lines))


@given(st.text(max_size=200), st.data())
def test_reads_may_fall_anywhere(text: str, data: st.DataObject) -> None:
    raw = text.encode("utf-8", "replace")
    cut = data.draw(st.integers(0, len(raw)))
    assert Log().write(raw[:cut], raw[cut:]).end() == Log().write(raw).end()


def test_a_gigabyte_without_newline_costs_no_memory_and_little_time() -> None:
    log = Log(rate=1000)
    chunk = b"z" * 65536
    log.write(chunk * 200)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    started = time.perf_counter()
    for _ in range(16_384):
        log.capture.feed(chunk)
    seconds = time.perf_counter() - started
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    print(f"\nnewline-free: {16_384 / 16 / 1024 / seconds:.1f} GiB/s, peak {peak} bytes")
    assert peak < 1024 * 1024


def test_a_million_lines_over_the_rate_are_only_counted() -> None:
    log = Log(rate=1000)
    chunk = b"tiny line\n" * 6554
    started = time.perf_counter()
    for _ in range(1530):
        log.capture.feed(chunk)
    rate = 1530 * 6554 / (time.perf_counter() - started)
    print(f"\n{rate:,.0f} lines/s")
    assert rate > 500_000
