"""Who may: root works as the owner of the state directory; who has no rights is told what would help."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import Daemon

import kubemin.cli.commands
import kubemin.cli.kubeminctl
from kubemin import processes
from kubemin.scoreboard import Scoreboard

NOBODY = 65534
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users: needs root")


def _open_to_all(path: str) -> bool:
    return all(
        folder.stat().st_mode & 0o005 == 0o005 for folder in [Path(path).resolve(), *Path(path).resolve().parents]
    )


python_for_all = pytest.mark.skipif(
    not (_open_to_all(sys.base_prefix) and _open_to_all(kubemin.__path__[0])),
    reason="Python or the package is in a folder that only root may enter",
)


def as_user(uid: int, *args: str) -> tuple[int, str, str]:
    """Exit code and output of kubeminctl run by this user, in a fork: where Python is may be closed to others."""
    for module in pkgutil.iter_modules(kubemin.cli.commands.__path__):
        importlib.import_module(f"kubemin.cli.commands.{module.name}")
    for name in (
        "encodings.ascii",
        "encodings.utf_8_sig",
        "kubemin.config.load",
        "kubemin.files.document",
        "kubemin.client",
        "kubemin.store.sqlite.store",
        "kubemin.files",
        "kubemin.api.direct",
        "kubemin.config",
        "sqlite3",
        "yaml",
    ):
        importlib.import_module(name)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        out, err, code = io.StringIO(), io.StringIO(), 99
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = kubemin.cli.kubeminctl.main(args)
        finally:
            os.write(writing, json.dumps([code, out.getvalue(), err.getvalue()]).encode())
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as stream:
        code, out_text, err_text = json.loads(stream.read())
    os.waitpid(pid, 0)
    return code, out_text, err_text


@pytest.fixture
def owned(start_daemon: Callable[..., Daemon]) -> Daemon:
    """A node whose state belongs to nobody; no daemon runs."""
    daemon = start_daemon(started=False)
    daemon.home.chmod(0o755)
    daemon.workflow("good.yaml", "name: good\nsteps:\n  - {name: a, run: [ls]}\n")
    daemon.state.mkdir(0o750)
    daemon.run.mkdir(0o750)
    os.chown(daemon.state, NOBODY, NOBODY)
    os.chown(daemon.run, NOBODY, NOBODY)
    return daemon


@pytest.mark.parametrize("command", ["stop", "reload", "drain"])
def test_root_signals_nobody_on_the_word_of_the_daemons_user(owned: Daemon, command: str) -> None:
    victim = subprocess.Popen(["sleep", "60"])  # root's
    try:
        process = processes.look(victim.pid)
        assert process is not None
        (owned.run / "kubemin.pid").write_text(f"{process.pid} {process.start}\n")
        Scoreboard.create(str(owned.run / "scoreboard")).close()
        flags = ("--state-dir", str(owned.state), "--runtime-dir", str(owned.run))
        code, _, err = as_user(0, *flags, command, "--timeout", "1")
        assert code == 5 and "may not" in err, (code, err)
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


@python_for_all
def test_root_leaves_no_files_of_its_own(owned: Daemon) -> None:
    done = owned.ctl("submit", "good")
    assert done.code == 0, done
    assert owned.ctl("show", done.stdout.strip()).code == 0
    assert owned.ctl("queue", "pause", "default").code == 0
    assert owned.ctl("doctor").code == 0
    files = [owned.state, *owned.state.rglob("*"), *owned.run.rglob("*")]
    assert len(files) > 2 and {file.stat().st_uid for file in files} == {NOBODY}


@python_for_all
def test_root_reads_a_file_that_only_root_may(owned: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "secret.yaml"
    file.write_text("name: secret\nsteps:\n  - {name: a, run: [ls]}\n")
    file.chmod(0o600)
    done = owned.ctl("submit", "-f", str(file))
    assert done.code == 0, done


@python_for_all
def test_root_writes_a_backup_where_only_root_may(owned: Daemon, tmp_path: Path) -> None:
    assert owned.ctl("submit", "good").code == 0
    target = tmp_path / "roots"
    target.mkdir(0o700)
    done = owned.ctl("backup", str(target / "copy.db"))
    assert done.code == 0, done
    assert {file.stat().st_uid for file in owned.state.rglob("*")} == {NOBODY}


def test_a_stranger_is_told_what_helps(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon()
    daemon.workflow("good.yaml", "name: good\nsteps:\n  - {name: a, run: [ls]}\n")
    assert daemon.ctl("reload").code == 0
    daemon.home.chmod(0o755)
    flags = ("--config", str(daemon.config))
    for args in (("runs",), ("submit", "good"), ("queue", "pause", "default"), ("cancel", "0" * 20)):
        code, out, err = as_user(NOBODY, *flags, *args)
        assert (code, out) == (5, ""), (args, out, err)
        assert "sudo" in err and len(err.splitlines()) == 1
        code, out, err = as_user(NOBODY, *flags, *args, "-o", "json")
        assert (code, err, json.loads(out)["errors"][0]["code"]) == (5, "", "no_rights")
    for args in (("drain",), ("stop",), ("reload",), ("scale", "3")):
        code, out, err = as_user(NOBODY, *flags, *args)
        assert (code, out) == (5, ""), (args, out, err)
        assert "sudo" in err and len(err.splitlines()) == 1
    assert daemon.running
