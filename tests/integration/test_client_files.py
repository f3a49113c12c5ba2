"""A workflow file that is submitted again and again is compiled once, and again as soon as it says other things."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from kubemin.api.files import RESTED, Files
from kubemin.clock import SECOND
from kubemin.errors import Invalid

TEXT = "name: one\nsteps: [{name: a, run: [echo, 'hello']}]\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "one.yaml"
    path.write_text(TEXT)
    rest(path)
    return path


def rest(path: Path) -> None:
    """As if it had been written a minute ago; what a file system calls its change cannot be set, and is waited for."""
    os.utime(path, (time.time() - 60,) * 2)
    changed = path.stat().st_ctime
    while time.time() - changed < 0.2:
        time.sleep(0.02)


def test_a_file_is_compiled_once(file: Path) -> None:
    files = Files()
    assert files.load(file) is files.load(str(file))


def test_a_file_is_itself_under_a_name_in_the_working_directory(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files()
    monkeypatch.chdir(file.parent)
    assert files.load("one.yaml") is files.load(file)
    other = file.parent / "other"
    other.mkdir()
    (other / "one.yaml").write_text(TEXT.replace("hello", "there"))
    monkeypatch.chdir(other)
    assert "there" in str(files.load("one.yaml").graph)


def test_a_changed_file_is_read_again_even_with_its_old_size_and_time(file: Path) -> None:
    files = Files()
    before, times = files.load(file), file.stat()
    file.write_text(TEXT.replace("hello", "there"))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = files.load(file)
    assert "there" in str(after.graph) and before.hash != after.hash


def test_a_file_in_place_of_another_is_read(file: Path) -> None:
    files = Files()
    files.load(file)
    new = file.with_suffix(".new")
    new.write_text(TEXT.replace("hello", "there"))
    new.rename(file)
    assert "there" in str(files.load(file).graph)


def test_a_file_that_was_just_written_is_not_relied_on(tmp_path: Path) -> None:
    """Its times are too coarse to tell one write from the next."""
    path, files = tmp_path / "one.yaml", Files()
    for _ in range(50):
        path.write_text(TEXT)
        one, two = files.load(path), files.load(path)
        if time.time() - path.stat().st_ctime < RESTED / SECOND:
            assert one is not two
            return
    pytest.fail("this machine was never fast enough to look")


def test_what_is_wrong_is_told_each_time_and_what_went_is_gone(file: Path) -> None:
    files = Files()
    files.load(file)
    file.write_text("name: one\nsteps: []\n")
    for _ in range(2):
        with pytest.raises(Invalid):
            files.load(file)
    file.unlink()
    with pytest.raises(Invalid):
        files.load(file)
