"""Durations and sizes: what is accepted, what it means, and that a refusal says what to write instead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubemin.model.durations import LONGEST, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5s", 5), ("10m", 600), ("2h", 7200), ("1h30m", 5400), ("500ms", 0.5), ("7d", 604800), ("0", 0), ("0s", 0),
        ("1.5h", 5400), (" 3s ", 3), ("1d2h3m4s5ms", 93784.005), ("36500d", LONGEST), ("1m500ms", 60.5),
    ],
)  # fmt: skip
def test_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "s",
        "5 s",
        "-5s",
        "5S",
        "5sec",
        "1m1h",
        "1s1s",
        "1e3s",
        "\u0665s",
        "5s\n5s",
        "inf",
        "1h-2m",
        "9" * 500 + "d",
    ],
)
def test_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a duration; .*such as"):
        parse_duration(text)


def test_endless_duration() -> None:
    with pytest.raises(ValueError, match="too long"):
        parse_duration("36501d")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512Mi", 512 << 20), ("1G", 10**9), ("65536", 65536), ("1.5Gi", 3 << 29), ("64k", 64000), ("64Ki", 65536),
        ("2GB", 2 * 10**9), ("2GiB", 2 << 30), ("0", 0), ("100B", 100), ("1Ti", 1 << 40),
    ],
)  # fmt: skip
def test_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "Mi", "512mi", "5 M", "-1", "1e3", "5X", "\u0665", "i", "9" * 100])
def test_not_a_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a size; .*such as"):
        parse_size(text)


def test_endless_size() -> None:
    with pytest.raises(ValueError, match="too large"):
        parse_size("8Ei")


@given(st.text(max_size=100))
def test_any_text(text: str) -> None:
    for parse in (parse_duration, parse_size):
        try:
            assert parse(text) >= 0
        except ValueError as problem:
            assert str(problem)
