"""Every example is run for real, by the command that its file tells a reader to type, and what it made is looked at."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import PROJECT, Daemon, program, run_program

WORKFLOWS = PROJECT / "conf" / "workflows.d"
EXAMPLES = PROJECT / "conf" / "examples"
FILES = sorted([*WORKFLOWS.glob("*.yaml"), *EXAMPLES.glob("*.yaml")])


@dataclass
class Result:
    """How `kubeminctl run -o json` ended."""

    code: int
    run: dict[str, Any]
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tasks = {task["step"]: task for task in self.run.get("tasks", ())}

    def states(self) -> dict[str, str]:
        return {step: task["status"] for step, task in self.tasks.items()}

    def output(self, step: str) -> Any:
        return self.tasks[step]["output"]


def run(file: Path, config: Path | None = None, /, **params: str) -> Result:
    arguments = [word for name, value in params.items() for word in ("-p", f"{name}={value}")]
    chosen = ["--config", str(config)] if config else []
    done = run_program("kubeminctl", *chosen, "run", str(file), *arguments, "-o", "json", timeout=180)
    assert done.stdout and "errors" not in json.loads(done.stdout), done.stdout + done.stderr
    return Result(done.returncode, json.loads(done.stdout))


def completed(result: Result) -> Result:
    assert (result.code, result.run["status"]) == (0, "completed"), json.dumps(result.run, indent=1)
    return result


# --- all of them --------------------------------------------------------------------------------------------------


def test_there_are_examples() -> None:
    assert len(FILES) >= 7


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_is_valid(file: Path) -> None:
    done = run_program("kubeminctl", "validate", str(file), "-o", "json")
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["items"][0]["workflow"] == file.stem


def test_a_daemon_publishes_them(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(workflowsDir=str(WORKFLOWS))
    published = [item["name"] for item in daemon.ctl("workflows", "-o", "json").json["items"]]
    assert sorted(published) == sorted(file.stem for file in WORKFLOWS.glob("*.yaml"))
    (schedule,) = daemon.ctl("schedules", "-o", "json").json["items"]
    assert (schedule["name"], schedule["schedule"]) == ("disk-watch", "*/15 * * * *")
    assert int(schedule["nextAt"][14:16]) % 15 == 0


# --- host-report --------------------------------------------------------------------------------------------------


def test_host_report(tmp_path: Path) -> None:
    report = tmp_path / "report.txt"
    began = time.monotonic()
    result = completed(run(WORKFLOWS / "host-report.yaml", top="3", file=str(report)))
    seconds = time.monotonic() - began

    text = report.read_text()
    assert text.startswith(f"Report of {socket.gethostname()}")
    for section in ("System", "Memory", "Disks", "Biggest files of", "Listening", "Logged in", "Kernel warnings"):
        assert f"\n{section}" in text
    assert result.tasks["show"]["stdoutTail"].startswith(text.strip()[:200])
    assert result.output("report/save") == {"file": str(report)}
    assert result.states()["alert"] == "skipped"
    assert list(tmp_path.iterdir()) == [report]  # no temporary file is left
    print(f"host-report: {seconds:.2f} s with its pool")


def test_host_report_tells_when_it_cannot_be_written(tmp_path: Path) -> None:
    result = run(WORKFLOWS / "host-report.yaml", file=str(tmp_path / "missing" / "report.txt"))
    assert (result.code, result.run["status"]) == (1, "failed")
    assert result.states()["report/save"] == "failed"
    assert result.states()["show"] == "skipped"
    assert result.states()["alert"] == "completed"
    assert "made no report" in result.tasks["alert"]["stderrTail"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file that belongs to another user")
def test_host_report_leaves_anothers_report_in_the_temporary_folder_alone(tmp_path: Path) -> None:
    """As a container's bare user, who has no home directory."""
    groups = yaml.safe_load((WORKFLOWS / "host-report.yaml").read_text())["steps"]
    save = next(step for group in groups for step in group.get("steps", ()) if step["name"] == "save")
    fd, name = tempfile.mkstemp(prefix="kubemin-report-", dir="/tmp")
    os.close(fd)
    foreign = Path(name)
    output = tmp_path / "output"
    try:
        os.chown(foreign, 54321, 54321)
        environ = {"HOME": "/nonexistent", "PATH": os.environ["PATH"], "KUBEMIN_OUTPUT": str(output)}
        for name in (foreign.name, f"{foreign.name}.new"):
            subprocess.run(["sh", "-ec", save["shell"]], env=environ | {"FILE": name, "TEXT": "mine"}, check=True)
            placed = Path(json.loads(output.read_text())["file"])
            assert placed.read_text() == "mine\n"
            assert (placed == Path("/tmp", name)) is (name != foreign.name)
            shutil.rmtree(placed.parent) if name == foreign.name else placed.unlink()
        assert foreign.read_text() == ""
    finally:
        foreign.unlink()


CORE = [
    "sh",
    "chmod",
    "dirname",
    "mktemp",
    "mv",
    "rm",
    "timeout",
    "wc",
    "who",
]  # of POSIX and coreutils: all that the report needs


def test_host_report_needs_nothing_but_a_shell_coreutils_and_python(tmp_path: Path) -> None:
    (tools := tmp_path / "bin").mkdir()
    for name in CORE:
        (tools / name).symlink_to(shutil.which(name) or f"/no/{name}")
    (tools / "python3").symlink_to(Path(sys.executable).resolve())
    report = tmp_path / "report.txt"
    command = [sys.executable, program("kubeminctl"), "run", str(WORKFLOWS / "host-report.yaml"), "-o", "json"]
    done = subprocess.run(
        [*command, "-p", f"file={report}"],
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    result = completed(Result(done.returncode, json.loads(done.stdout)))
    assert result.output("gather/packages") == {"manager": "none", "count": 0}
    assert "no package manager that is known here" in report.read_text()


@pytest.mark.parametrize("params", [{"top": "0"}, {"top": "1; reboot"}, {"file": "a b"}, {"unknown": "1"}])
def test_host_report_refuses_what_its_patterns_do_not_allow(params: dict[str, str]) -> None:
    arguments = [word for name, value in params.items() for word in ("-p", f"{name}={value}")]
    done = run_program("kubeminctl", "run", str(WORKFLOWS / "host-report.yaml"), *arguments)
    assert done.returncode == 2
    assert next(iter(params)) in done.stderr


# --- backup -------------------------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a file with spaces.txt").write_text("hello")
    (folder / "numbers.bin").write_bytes(bytes(range(256)) * 100)
    return folder


def test_backup_makes_an_archive_and_keeps_the_newest(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "backups"
    target.mkdir()
    for day in ("01", "02", "03"):
        (target / f"data-202601{day}T000000Z.tar.gz").write_text("old")
        (target / f"data-202601{day}T000000Z.tar.gz.sha256").write_text("old")
    (target / "something-else.tar.gz").write_text("not ours")

    result = completed(run(WORKFLOWS / "backup.yaml", source=str(source), target=str(target), keep="2"))
    facts = result.output("verify")
    archive = Path(facts["archive"])
    content = archive.read_bytes()
    assert facts["sha256"] == hashlib.sha256(content).hexdigest()
    assert facts["bytes"] == len(content)
    with tarfile.open(archive) as tar:
        assert facts["files"] == len(tar.getnames())
        assert "data/deep/a file with spaces.txt" in tar.getnames()
    subprocess.run(["sha256sum", "--status", "-c", f"{archive.name}.sha256"], cwd=target, check=True)
    assert archive.stat().st_mode & 0o077 == 0
    kept = sorted(path.name for path in target.iterdir() if path.suffix == ".gz")
    assert kept == ["data-20260103T000000Z.tar.gz", archive.name, "something-else.tar.gz"]


def test_backup_that_fails_leaves_nothing_half_done(tmp_path: Path, source: Path) -> None:
    (inside := source / "backups").mkdir()
    result = run(WORKFLOWS / "backup.yaml", source=str(source), target=str(inside))
    assert result.run["status"] == "failed"
    assert "lies inside" in result.tasks["check"]["stderrTail"]
    assert result.states()["rotate"] == "skipped"
    assert result.states()["tidy"] == "completed"
    assert list(inside.iterdir()) == []


# --- log-digest ---------------------------------------------------------------------------------------------------


def test_log_digest(tmp_path: Path) -> None:
    (tmp_path / "web.log").write_text(
        "GET / 200\n" * 50 + "".join(f"error {n}: refused by 10.0.0.{n}\n" for n in range(9))
    )
    (tmp_path / "db.log").write_bytes(b"ready\nFATAL: out of memory\n\xff\xfe error in binary\n")
    (tmp_path / "old.log.gz").write_bytes(b"\x1f\x8b error")
    (tmp_path / "empty.log").touch()
    result = completed(run(WORKFLOWS / "log-digest.yaml", folder=str(tmp_path)))
    assert result.output("join") == {"files": 2, "lines": 62, "matches": 11}
    assert result.tasks["join"]["stdoutTail"].splitlines()[0].split(maxsplit=1) == [
        "9",
        "web.log: error #: refused by #",
    ]
    assert {"digest", "digest[0]", "digest[1]"} <= set(result.tasks)


def test_log_digest_of_an_empty_folder(tmp_path: Path) -> None:
    result = completed(run(WORKFLOWS / "log-digest.yaml", folder=str(tmp_path)))
    assert result.output("digest") == []
    assert result.output("join")["files"] == 0


# --- site-check ---------------------------------------------------------------------------------------------------


class Site(BaseHTTPRequestHandler):
    """Answers with the status in its path, and keeps what was posted."""

    posts: list[tuple[dict[str, str], bytes]]

    def do_GET(self) -> None:
        self._answer(int(self.path.strip("/") or 200))

    def do_POST(self) -> None:
        self.posts.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
        self._answer(204)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0" if status == 204 else "5")
        self.end_headers()
        if status != 204:
            self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None: ...


@contextmanager
def serving(certificate: Path | None = None) -> Iterator[tuple[int, list[tuple[dict[str, str], bytes]]]]:
    """(port, what was posted) of a local server, with TLS when there is a certificate."""
    posts: list[tuple[dict[str, str], bytes]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Site,), {"posts": posts}))
    if certificate:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_port, posts
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def test_site_check_of_a_site_that_is_well() -> None:
    with serving() as (port, _):
        result = completed(run(WORKFLOWS / "site-check.yaml", url=f"http://127.0.0.1:{port}/"))
    assert result.output("answer")["status"] == 200
    assert result.output("answer")["bytes"] == 5
    assert result.output("certificate") == {"days": None}
    assert result.states()["alert"] == "skipped"


def test_site_check_tries_again_and_then_alerts() -> None:
    with serving() as (port, _):
        url = f"http://127.0.0.1:{port}/503"
        result = run(WORKFLOWS / "site-check.yaml", url=url)
    assert (result.code, result.run["status"], result.run["cause"]) == (1, "failed", "exit")
    assert result.tasks["answer"]["attempt"] == 3
    assert "answers 503" in result.tasks["answer"]["stderrTail"]
    assert result.states()["alert"] == "completed"
    assert f"{url} is not well" in result.tasks["alert"]["stderrTail"]


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Key and certificate in one file, good for ten days; made with openssl, which needs no library here."""
    pem, config = tmp_path / "site.pem", tmp_path / "openssl.cnf"
    config.write_text(
        "[req]\ndistinguished_name=dn\nx509_extensions=ext\nprompt=no\n[dn]\nCN=127.0.0.1\n"
        "[ext]\nsubjectAltName=IP:127.0.0.1\nbasicConstraints=critical,CA:true\n"
    )
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "10", "-config", str(config)]
    try:
        subprocess.run([*command, "-keyout", str(pem), "-out", str(tmp_path / "cert")], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    pem.write_text(pem.read_text() + (tmp_path / "cert").read_text())
    return pem


def test_site_check_sees_a_certificate_that_ends_soon(certificate: Path) -> None:
    with serving(certificate) as (port, _):
        params = {"url": f"https://127.0.0.1:{port}/", "authority": str(certificate)}
        soon = run(WORKFLOWS / "site-check.yaml", days="21", **params)
        fine = run(WORKFLOWS / "site-check.yaml", days="7", **params)
    assert soon.run["status"] == "failed"
    assert soon.states()["answer"] == "completed"
    assert "ends in 9 days, fewer than 21" in soon.tasks["certificate"]["stderrTail"]
    assert completed(fine).output("certificate") == {"days": 9}


# --- disk-watch ---------------------------------------------------------------------------------------------------


def test_disk_watch_takes_readings_and_alerts(tmp_path: Path) -> None:
    history = tmp_path / "history.csv"
    params = {"path": str(tmp_path), "history": str(history), "hours": "1"}
    first = completed(run(WORKFLOWS / "disk-watch.yaml", percent="99", **params))
    second = run(WORKFLOWS / "disk-watch.yaml", percent="1", **params)
    assert first.output("read")["readings"] == 1
    assert first.states()["alert"] == "skipped"
    assert second.output("read")["readings"] == 2
    assert len(history.read_text().splitlines()) == 2
    if second.output("read")["percent"] >= 1:
        assert second.run["status"] == "failed"
        assert second.states()["alert"] == "completed"


def test_disk_watch_is_scheduled() -> None:
    from kubemin.files import load_workflow

    schedule = load_workflow(str(WORKFLOWS / "disk-watch.yaml")).graph.schedule
    assert schedule is not None
    assert (schedule.cron, schedule.missed, schedule.grace) == ("*/15 * * * *", "skip", 300.0)


# --- push-metrics -------------------------------------------------------------------------------------------------


def test_push_metrics_posts_with_its_secret_and_never_shows_it(tmp_path: Path) -> None:
    token = "s3cr3t-token-of-this-test"
    (secrets := tmp_path / "secrets").mkdir()
    (secrets / "metrics-token").write_text(token + "\n")
    (config := tmp_path / "kubemin.yaml").write_text(json.dumps({"secretsDir": str(secrets)}))
    with serving() as (port, posts):
        result = completed(run(WORKFLOWS / "push-metrics.yaml", config, url=f"http://127.0.0.1:{port}/job"))
    ((headers, body),) = posts
    assert headers["Authorization"] == f"Bearer {token}"
    figures = dict(line.split() for line in body.decode().splitlines())
    assert 0 <= float(figures["host_cpu_busy_ratio"]) <= 1
    assert int(figures["host_memory_total_bytes"]) > int(figures["host_memory_available_bytes"]) > 0
    assert token not in json.dumps(result.run)
    unenforced = result.tasks["processor"].get("unenforced", [])
    assert set(unenforced) <= {"memory", "cpu", "pids"}  # none where a cgroup was delegated


def test_push_metrics_says_which_secret_is_missing() -> None:
    result = run(WORKFLOWS / "push-metrics.yaml", url="http://127.0.0.1:1/")
    assert (result.run["status"], result.tasks["push"]["cause"]) == ("failed", "start")
    assert "metrics-token" in result.tasks["push"]["message"]


# --- csv-totals ---------------------------------------------------------------------------------------------------


def test_csv_totals(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("region,amount\nnorth,0.10\nsouth,5\n")
    (tmp_path / "b.csv").write_text("region,amount\nnorth,0.20\n")
    result = completed(run(EXAMPLES / "csv-totals.yaml", folder=str(tmp_path)))
    assert result.output("sum") == [{"north": "0.10", "south": "5"}, {"north": "0.20"}]
    assert result.output("total") == {"north": "0.30", "south": "5"}
    assert "north" in result.tasks["total"]["stdoutTail"]


def test_csv_totals_shows_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("region,amount\nnorth,0.10\nsouth,many\n")
    result = run(EXAMPLES / "csv-totals.yaml", folder=str(tmp_path))
    assert (result.run["status"], result.tasks["sum[0]"]["cause"]) == ("failed", "exception")
    assert "line 3: no usable amount" in result.tasks["sum[0]"]["message"]
    assert result.tasks["sum[0]"]["attempt"] == 2
    assert result.states()["total"] == "skipped"
