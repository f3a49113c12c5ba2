"""`kubemind` at its edge: --check, --help, --version, refusals at the start. Real processes, one line a problem."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from support.programs import clean_environ, program

from kubemin import __version__
from kubemin.config.table import TABLE

WORKFLOW = "name: {name}\nsteps:\n  - name: a\n    run: ['true']\n"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "workflows.d").mkdir()
    (tmp_path / "kubemin.yaml").write_text("maxWorkers: 2\nstateDir: state\nruntimeDir: run\n")
    return tmp_path


def kubemind(*arguments: str, stdout: Any = subprocess.PIPE, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("kubemind"), *arguments],
        env=clean_environ(**environ),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
        check=False,
    )


def check(home: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return kubemind("--config", str(home / "kubemin.yaml"), "--check", *arguments, **environ)


def refused(done: subprocess.CompletedProcess[str], *texts: str) -> None:
    assert done.returncode == 2, done
    assert done.stdout == "" and "Traceback" not in done.stderr
    assert all(line.startswith("kubemind: ") for line in done.stderr.splitlines())
    for text in texts:
        assert text in done.stderr, done.stderr


def test_a_working_directory_that_is_gone(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    script = f"mkdir {gone} && cd {gone} && rmdir {gone} && exec {program('kubemind')} --check --state-dir state"
    done = subprocess.run(["sh", "-c", script], env=clean_environ(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "kubemind: the working directory is gone; change to one that is there\n"


def test_valid(home: Path) -> None:
    (home / "workflows.d" / "a.yaml").write_text(WORKFLOW.format(name="one"))
    (home / "workflows.d" / "b.json").write_text('{"name": "two", "steps": [{"name": "a", "run": ["true"]}]}')
    done = check(home)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{home}/kubemin.yaml is valid; valid workflows in {home}/workflows.d: 2\n"
    assert not (home / "state").exists() and not (home / "run").exists()  # nothing is touched


def test_a_check_changes_nothing_and_needs_no_workflows(home: Path) -> None:
    (home / "workflows.d").rmdir()
    assert check(home).returncode == 0
    refused(check(home, "--workflows-dir", "/no/such/folder"), "workflowsDir: there is no folder /no/such/folder")


def test_all_problems_of_configuration_and_workflows(home: Path) -> None:
    (home / "kubemin.yaml").write_text("maxWorkers: 0\nmaxWorker: 2\n")
    (home / "workflows.d" / "good.yaml").write_text(WORKFLOW.format(name="good"))
    (home / "workflows.d" / "a.yaml").write_text(
        "name: bad\nsteps:\n  - name: a\n    runn: [x]\n  - name: a\n    run: []\n"
    )
    (home / "workflows.d" / "half.yaml").write_text("name: half\nsteps: [\n")
    done = check(home, KUBEMIN_TASK_TIMEOUT="soon")
    refused(done, "line 1: maxWorkers", "line 2: maxWorker", "KUBEMIN_TASK_TIMEOUT", "a.yaml", "half.yaml", "line 4")
    assert "good.yaml" not in done.stderr
    assert len(done.stderr.splitlines()) >= 6


@pytest.mark.parametrize(
    "content", [b"maxWorkers: [1\n", b"\xff\xfe\x00", b"", b"- a\n", b"a: 1\na: 2\n", b"x" * (17 << 20)]
)
def test_a_file_that_is_no_configuration_is_one_line(home: Path, content: bytes) -> None:
    (home / "kubemin.yaml").write_bytes(content)
    begin = time.monotonic()
    done = check(home)
    assert time.monotonic() - begin < 5
    refused(done, f"kubemind: {home}/kubemin.yaml: ")


@pytest.mark.parametrize("start", [["--check"], []])
def test_files_that_cannot_be_read(tmp_path: Path, start: list[str]) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, reason in ((tmp_path, "directory"), (tmp_path / "none", "no such file"), (tmp_path / "fifo", "FIFO")):
        done = kubemind("--config", str(path), *start)
        refused(done, f"kubemind: {path}: ", reason)
        assert len(done.stderr.splitlines()) == 1


def as_nobody(log: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as another user, in a fork: the interpreter's own files may be readable for root alone."""
    import kubemin.cli.reload
    import kubemin.config.host
    import kubemin.telemetry.log  # noqa: F401  (nothing can be imported after setuid)
    from kubemin.cli.kubemind import main
    from kubemin.config import load_settings

    log.write_text("#\n")
    load_settings(str(log), environ={})  # what reads YAML is imported here
    if (pid := os.fork()) == 0:
        code = 70
        try:
            fd = os.open(log, os.O_WRONLY | os.O_TRUNC)
            sys.stderr = os.fdopen(fd, "w")
            os.setgroups([])
            os.setgid(65534)
            os.setuid(pwd.getpwnam("nobody").pw_uid)
            os.environ.update(HOME="/nonexistent")
            code = main(arguments)
            sys.stderr.flush()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return subprocess.CompletedProcess(arguments, code, "", log.read_text())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_somebody_without_rights() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        config, log = Path(folder, "kubemin.yaml"), Path(folder, "log")
        config.write_text("user: root\n")
        config.chmod(0o600)
        refused(as_nobody(log, "--config", str(config)), "Permission denied")
        config.chmod(0o644)
        refused(as_nobody(log, "--config", str(config), "--check"), "user: ", "the daemon is root")
        places = ["--user=none", f"--state-dir={folder}/state", f"--runtime-dir={folder}/run"]
        done = as_nobody(log, "--config", str(config), *places)
        refused(done, "stateDir: cannot make", "--state-dir", "runtimeDir: cannot make", "--runtime-dir")


def test_directories_that_cannot_be_made(home: Path) -> None:
    (home / "state").write_text("")
    (home / "run").mkdir(mode=0o777)
    (home / "run").chmod(0o777)
    refused(
        kubemind("--config", str(home / "kubemin.yaml")), "stateDir: cannot make", "runtimeDir: everybody may write"
    )


def test_wrong_arguments(home: Path) -> None:
    refused(kubemind("--max-worker", "3"), "unknown argument --max-worker; did you mean --max-workers?")
    refused(kubemind("--lock-ttl"), "--lock-ttl", "--help")
    for empty in (["--config", ""], ["--config="], ["-c"]):
        refused(kubemind(*empty, "--check"), f"{empty[0].rstrip('=')} needs a value")
    assert check(home, "--user", "", "--leader-election-exit-on-lost-leader", "false").returncode == 0
    refused(kubemind("start"), "unknown argument start")
    refused(check(home, "--max-workers=0"), "maxWorkers: 0 is out of range; it may be 1 to 1024 (from --max-workers)")
    assert check(home, "--leader-election-exit-on-lost-leader", "--queues", "a,b").returncode == 0


def test_version_and_help() -> None:
    assert kubemind("--version").stdout == f"kubemind {__version__}\n"
    done = kubemind("--help")
    assert done.returncode == 0 and done.stderr == ""
    assert "Examples:" in done.stdout and all(f"{key.flag} " in done.stdout for key in TABLE)
    assert max(map(len, done.stdout.splitlines())) <= 120


def test_a_reader_that_goes_away() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = kubemind("--help", stdout=writer)
    os.close(writer)
    assert done.stderr == "" and done.returncode == 128 + 13


def test_a_full_disk() -> None:
    with open("/dev/full", "w") as full:
        done = kubemind("--help", stdout=full)
    assert done.stderr == "kubemind: cannot write to standard output: No space left on device\n"
    assert done.returncode == 1


def test_a_link_to_the_program_works(tmp_path: Path) -> None:
    (tmp_path / "kubemind").symlink_to(program("kubemind"))
    done = subprocess.run(
        [tmp_path / "kubemind", "--version"], cwd="/", capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.startswith("kubemind ")
