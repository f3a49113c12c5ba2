"""Keys, their file, and signatures (`kubemin/signing.py`)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kubemin.errors import Invalid
from kubemin.signing import MOST_KEYS, Signer, Unsigned, key_id, load

ONE, TWO = b"1" * 64, b"2" * 64
PARTS = ("task", "run", b"work", 7, None)


def write(path: Path, text: bytes, mode: int = 0o640) -> str:
    path.write_bytes(text)
    path.chmod(mode)
    return str(path)


def test_what_was_signed_verifies_and_says_when() -> None:
    signer = Signer([ONE])
    assert signer.verify(signer.sign(123, *PARTS), *PARTS) == 123


@pytest.mark.parametrize(
    "other",
    [
        ("run", "run", b"work", 7, None),
        ("task", "ru", b"nwork", 7, None),
        ("task", "run", b"worl", 7, None),
        ("task", "run", "work", 7, None),
        ("task", "run", b"work", 8, None),
        ("task", "run", b"work", 7, ""),
        ("task", "run", b"work", 7),
    ],
)
def test_nothing_else_verifies(other: tuple[str | bytes | int | None, ...]) -> None:
    signer = Signer([ONE])
    with pytest.raises(Unsigned, match="not what was signed"):
        signer.verify(signer.sign(123, *PARTS), *other)


def test_a_signature_that_was_changed_does_not_verify() -> None:
    signer = Signer([ONE])
    name, at, mac = signer.sign(123, *PARTS).split(".")
    for changed in (None, "", "x", f"{name}.{at}", f"{name}.124.{mac}", f"{name}..{mac}", f"{name}.٣.{mac}",
                    f"{name}.{'9' * 40}.{mac}", f"{name}.{at}.{mac[:-1]}", f"{name}.{at}.{mac}.", f".{at}.{mac}",
                    f"{name}.-1.{mac}", f"{name}.{at}.é"):  # fmt: skip
        with pytest.raises(Unsigned):
            signer.verify(changed, *PARTS)


def test_the_first_key_signs_and_all_verify() -> None:
    old, both, new = Signer([ONE]), Signer([TWO, ONE]), Signer([TWO])
    assert both.id == new.id == key_id(TWO) and both.ids == (key_id(TWO), key_id(ONE))
    both.verify(old.sign(1, *PARTS), *PARTS)
    new.verify(both.sign(1, *PARTS), *PARTS)
    with pytest.raises(Unsigned, match=f"key '{old.id}', which is not in the key file"):
        new.verify(old.sign(1, *PARTS), *PARTS)


def test_a_key_file_holds_a_key_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "key", b"# the fleet's\r\n\n" + TWO + b"\r\n  " + ONE + b"\n")
    assert load(path) == Signer([TWO, ONE])
    assert load(path) != Signer([ONE, TWO])


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o642])
def test_a_key_file_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(Invalid, match="chmod 0640") as caught:
        load(write(tmp_path / "key", ONE, mode))
    assert [(problem.field, problem.code) for problem in caught.value.problems] == [("signingKeyFile", "unsafe")]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"", "no_key"),
        (b"# nothing\n", "no_key"),
        (ONE + b"\nshort\n", "weak_key"),
        (b"\n".join(b"%032d" % n for n in range(MOST_KEYS + 1)), "no_key"),
        (b"x" * 100_000, "no_key"),
    ],
)
def test_a_key_file_without_good_keys_is_refused(tmp_path: Path, text: bytes, code: str) -> None:
    with pytest.raises(Invalid) as caught:
        load(write(tmp_path / "key", text))
    assert [problem.code for problem in caught.value.problems] == [code]
    assert ONE.decode() not in str(caught.value)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path in (tmp_path, tmp_path / "fifo", tmp_path / "none"):
        with pytest.raises(Invalid, match="signingKeyFile: "):
            load(str(path))
