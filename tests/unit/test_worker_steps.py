"""The parts of a worker that need no process: environments, titles, folders, functions, and the task decorator."""

from __future__ import annotations

import errno
import os
import pwd
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import pytest
from setproctitle import getproctitle

import kubemin.task
from kubemin.config.settings import Settings
from kubemin.errors import KubeminError
from kubemin.model.records import Claim
from kubemin.model.states import Cause, TaskState
from kubemin.model.transitions import NOT_TRIED_AGAIN
from kubemin.steps import environment, python
from kubemin.steps import scratch as scratch_module
from kubemin.steps.base import StartFailed, start_failed
from kubemin.steps.identity import identity_of
from kubemin.steps.scratch import Place
from kubemin.worker.title import Title

CLAIM = Claim("r" * 20, 3, "load", "report", 7, 2, 60.0, msgspec.Raw(b"{}"))


# --- environment ------------------------------------------------------------------------------------------------------


def test_the_base_environment_is_clean() -> None:
    daemon = {"PATH": "/bin", "LANG": "de_DE.UTF-8", "TZ": "Europe/Berlin", "NOTIFY_SOCKET": "x", "KUBEMIN_USER": "y"}
    home = pwd.getpwuid(os.geteuid()).pw_dir
    assert environment.base_environment(None, daemon) == {
        "PATH": "/bin",
        "HOME": home,
        "LANG": "de_DE.UTF-8",
        "TZ": "Europe/Berlin",
    }
    assert environment.base_environment("nobody", {}) == {
        "PATH": environment.DEFAULT_PATH,
        "HOME": pwd.getpwnam("nobody").pw_dir,
        "LANG": "C.UTF-8",
    }


def test_task_variables() -> None:
    variables = environment.task_variables(CLAIM, "m")
    assert variables["KUBEMIN_TASK"] == CLAIM.task
    assert (variables["KUBEMIN_TOKEN"], variables["KUBEMIN_ATTEMPT"], variables["KUBEMIN_INSTANCE"]) == ("7", "2", "m")


def test_the_marker_stays_with_its_directory(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "link").symlink_to("state")
    markers = [environment.instance_marker(str(tmp_path / name)) for name in ("state", "link", "other")]
    assert markers[0] == markers[1] != markers[2]


def test_values_become_text_and_secrets_masks(tmp_path: Path) -> None:
    for name, text in {"a": "short\n", "b": "much longer\r\n", "empty": ""}.items():
        (tmp_path / name).write_bytes(text.encode())
    env = {"A": {"secret": "a"}, "B": {"secret": "b"}, "E": {"secret": "empty"}, "N": 1, "T": True, "S": "x", "L": [1]}
    found = environment.step_environment(env, str(tmp_path))
    assert found.values == {
        "A": "short", "B": "much longer", "E": "", "N": "1", "T": "true", "S": "x", "L": "[1]"
    }  # fmt: skip
    assert found.masks == ("much longer", "short")


def test_a_value_that_no_program_can_be_given_is_told_by_name() -> None:
    with pytest.raises(StartFailed, match=r"env\.A holds a NUL"):
        environment.step_environment({"A": "x\0y"}, None)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: os.mkfifo(path), "no regular file"),
        (lambda path: path.mkdir(), "no regular file"),
        (lambda path: path.write_bytes(b"\xff"), "not UTF-8"),
        (lambda path: path.write_bytes(b"a\0b"), "NUL"),
        (lambda path: path.write_bytes(b"x" * 70_000), "over 65536 bytes"),
    ],
)
def test_secrets_that_cannot_be_used(tmp_path: Path, prepare, message: str) -> None:
    prepare(tmp_path / "s")
    with pytest.raises(StartFailed, match=message):
        environment.read_secret("PW", "s", str(tmp_path))


def test_no_place_for_secrets_says_what_to_set() -> None:
    with pytest.raises(StartFailed, match="set secretsDir"):
        environment.read_secret("PW", "s", None)


# --- functions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allow", "path", "admitted"),
    [
        (["os.path:join"], "os.path:join", True),
        (["os.path:*"], "os.path:join", True),
        (["os.*"], "os.path:join", True),
        (["os:*"], "os.path:join", False),
        (["OS.PATH:*"], "os.path:join", False),
        (["*"], "os.path:join", True),
        ([], "os.path:join", False),
        (["json:*"], "json:JSONDecoder.decode", True),
    ],
)
def test_admission(allow: list[str], path: str, admitted: bool) -> None:
    functions = python.Functions(allow)
    if admitted:
        assert functions.find(path) is functions.find(path)
    else:
        with pytest.raises(StartFailed, match="not admitted"):
            functions.find(path)


def test_messages_are_one_bounded_line() -> None:
    assert python.describe(ValueError("a\n  b")) == "ValueError: a b"
    assert python.describe(KeyError()) == "KeyError"
    assert len(python.describe(ValueError("x" * 10_000_000))) == python.TEXT_CHARACTERS


def test_how_exceptions_end_a_step() -> None:
    assert python.ended_by(SystemExit(300)).exit_code == 300 & 0xFF
    assert python.ended_by(StartFailed("no", Cause.REFERENCE)).cause is Cause.REFERENCE
    assert python.ended_by(GeneratorExit()).state is TaskState.FAILED
    assert python.traceback_of(SystemExit(1)) == ""


# --- titles and folders -----------------------------------------------------------------------------------------------


def test_titles_are_for_what_somebody_would_see() -> None:
    before = getproctitle()
    title = Title(4)
    title.idle()
    title.running("work:f", quiet=True)
    assert getproctitle() == "kubemin: worker 4 [idle]"
    title.took("work:f", 0.2)
    title.running("work:f", quiet=True)
    assert getproctitle() == "kubemin: worker 4 [work:f 0s]"
    title.took("work:f", 0.001)
    title.idle()
    title.running("work:f", quiet=True)
    assert getproctitle() == "kubemin: worker 4 [idle]"
    title.running("report/load", quiet=False)
    assert getproctitle() == "kubemin: worker 4 [report/load 0s]"
    import setproctitle

    setproctitle.setproctitle(before)


def test_scratch_folders(tmp_path: Path) -> None:
    place = Place(Settings(state_dir=str(tmp_path)), 1, "marker")
    with place.make() as scratch:
        assert os.listdir(scratch.path) == ["tmp"]
        assert os.stat(scratch.path).st_mode & 0o777 == 0o700
        (tmp_path / "precious").write_text("x")
        os.symlink(tmp_path / "precious", os.path.join(scratch.tmp, "link"))
    assert not os.path.exists(scratch.path) and (tmp_path / "precious").exists()
    left = place.make()
    other = Place(Settings(state_dir=str(tmp_path)), 11, "marker").make()
    place.clear()
    assert not os.path.exists(left.path) and os.path.exists(other.path)


def test_a_folder_without_rights_goes_and_a_file_that_it_shares_stays_as_it_was(tmp_path: Path) -> None:
    shared, outside = tmp_path / "shared", tmp_path / "outside"
    shared.write_text("x")
    shared.chmod(0o440)
    outside.mkdir(0o500)
    with Place(Settings(state_dir=str(tmp_path)), 1, "marker").make() as scratch:
        closed = Path(scratch.tmp, "closed")
        (closed / "below").mkdir(parents=True)
        os.link(shared, closed / "linked")
        (closed / "link").symlink_to(outside)
        # What a removal leaves of it where rights are missing: as root none are, so this part is called by itself.
        for folder in (closed / "below", closed):
            folder.chmod(0)
        scratch_module._open_up(str(closed))
        assert [stat.S_IMODE(folder.stat().st_mode) for folder in (closed, closed / "below")] == [0o700, 0o700]
    assert not os.path.exists(scratch.path)
    assert (stat.S_IMODE(shared.stat().st_mode), stat.S_IMODE(outside.stat().st_mode)) == (0o440, 0o500)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root takes on another user")
def test_a_user_may_be_given_by_number() -> None:
    nobody = pwd.getpwnam("nobody")
    assert identity_of(str(nobody.pw_uid)) == identity_of("nobody")
    assert environment.base_environment(str(nobody.pw_uid), {})["HOME"] == nobody.pw_dir
    with pytest.raises(StartFailed, match="no such user"):
        identity_of("4294967290")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
def test_scratch_folders_belong_to_the_steps_user(tmp_path: Path) -> None:
    place = Place(Settings(state_dir=str(tmp_path), user="nobody"), 1, "unit-test")
    with place.make() as scratch:
        assert scratch.path.startswith(tempfile.gettempdir())
        assert os.stat(scratch.tmp).st_uid == pwd.getpwnam("nobody").pw_uid
    with pytest.raises(StartFailed, match="no such user"):
        Place(Settings(state_dir=str(tmp_path), user="nobody-here"), 1, "unit-test").make()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "tmp").write_text("in the way")
    with pytest.raises(StartFailed, match="cannot make a folder"):
        Place(Settings(state_dir=str(tmp_path)), 1, "m").make()


# --- the decorator ----------------------------------------------------------------------------------------------------


def test_the_module_is_the_decorator() -> None:
    script = """
import kubemin.task, kubemin
@kubemin.task(retry=3, timeout="5m", queue="etl")
def load(rows): return rows
@kubemin.task
def plain(): return 1
assert load(2) == 2 and plain() == 1
assert load.__kubemin__ == {"retry": 3, "timeout": "5m", "queue": "etl"} and plain.__kubemin__ == {}
calls = []
kubemin.task.set_enqueuer(lambda function, args, kwargs: calls.append((function.__name__, args, kwargs)))
load.enqueue(rows=3)
assert calls == [("load", (), {"rows": 3})]
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_outside_of_a_task() -> None:
    with pytest.raises(KubeminError, match="there is no task here"):
        kubemin.task.current_task()


@pytest.mark.parametrize(("number", "cause"), [(errno.ENOSPC, Cause.RESOURCES), (errno.ENOTDIR, Cause.START)])
def test_what_may_work_another_time_is_told_apart(number: int, cause: Cause) -> None:
    error = start_failed("cannot make it", OSError(number, os.strerror(number)))
    assert error.cause is cause and str(error).startswith("cannot make it: ")
    assert (cause in NOT_TRIED_AGAIN) is (cause is Cause.START)
