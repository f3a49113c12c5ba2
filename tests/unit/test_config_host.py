"""What a configuration asks of this machine: its directories, the steps' user, who may write its files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from kubemin.config import Settings
from kubemin.config.host import make_directories, problems
from kubemin.errors import Invalid


def at(tmp_path: Path, state: str, runtime: str) -> Settings:
    return Settings(state_dir=str(tmp_path / state), runtime_dir=str(tmp_path / runtime))


def test_directories_are_made_for_the_owner_and_the_group(tmp_path: Path) -> None:
    make_directories(at(tmp_path, "a/state", "run"))
    assert (tmp_path / "a" / "state").stat().st_mode & 0o777 == 0o750
    make_directories(at(tmp_path, "a/state", "run"))


def test_directories_that_cannot_be_used_are_all_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(Invalid) as caught:
        make_directories(at(tmp_path, "file/state", "open"))
    assert [(p.field, p.code) for p in caught.value.problems] == [
        ("stateDir", "not_writable"),
        ("runtimeDir", "unsafe"),
    ]
    assert "--state-dir" in caught.value.problems[0].message and "chmod o-w" in caught.value.problems[1].message


def test_the_user_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(Settings(), "/no/file") == []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert problems(Settings(user="root"), "/no/file") == problems(Settings(user="0"), "/no/file") == []
    assert [p.code for p in problems(Settings(user="no-such-user"), "/no/file")] == ["no_such_user"]
    assert [p.code for p in problems(Settings(user="4294967290"), "/no/file")] == ["no_such_user"]
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert [p.code for p in problems(Settings(user="root"), "/no/file")] == ["not_root"]


def test_files_that_anybody_else_may_write(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, folder = write("#\n"), tmp_path / "workflows.d"
    folder.mkdir()
    settings = Settings(workflows_dir=str(folder))

    def codes() -> list[tuple[str, str]]:
        return [(problem.field, problem.code) for problem in problems(settings, config)]

    monkeypatch.setattr(os, "geteuid", lambda: os.stat(config).st_uid)
    assert codes() == []
    os.chmod(config, 0o666)
    folder.chmod(0o777)
    assert codes() == [("", "unsafe"), ("workflowsDir", "unsafe")]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs chown")
def test_roots_files_belong_to_root(write: Any) -> None:
    config = write("#\n")
    os.chown(config, 4711, 4711)
    assert [problem.code for problem in problems(Settings(), config)] == ["wrong_owner"]
