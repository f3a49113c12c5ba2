"""kubeminctl on runs, against a real daemon: text, JSON, exit codes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import Completed, Daemon

REPORT = """
name: report
params: {day: {default: today, pattern: "[a-z]+"}}
steps:
  - name: extract
    shell: |
      echo "day $DAY"; echo warned >&2
      echo '{"rows": 3}' > $KUBEMIN_OUTPUT
    env: {DAY: "${{ params.day }}"}
  - name: check
    shell: test "$ROWS" -gt "$LIMIT"
    env: {ROWS: "${{ steps.extract.output.rows }}", LIMIT: "1"}
"""
BROKEN = """
name: broken
steps:
  - name: fails
    shell: if [ -e "$FLAG" ]; then exit 0; fi; echo trouble >&2; exit 3
    env: {FLAG: %s}
  - name: after
    run: ["true"]
"""


@pytest.fixture(scope="module")
def flag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flag") / "fixed"


@pytest.fixture(scope="module")
def node(shared_daemon: Daemon, flag: Path) -> Daemon:
    shared_daemon.workflow("report.yaml", REPORT)
    shared_daemon.workflow("broken.yaml", BROKEN % flag)
    shared_daemon.workflow("slow.yaml", "name: slow\nsteps:\n  - {name: nap, run: [sleep, '60']}\n")
    done = shared_daemon.ctl("reload")
    assert done.code == 0, done
    return shared_daemon


def ok(done: Completed) -> Completed:
    assert done.code == 0, done
    return done


def submit(node: Daemon, *args: str) -> str:
    return ok(node.ctl("submit", *args)).stdout.strip()


def errors(done: Completed, code: int) -> list[dict[str, Any]]:
    """The problems of a refused command, which printed one JSON document and nothing else."""
    assert done.code == code and done.stderr == "", done
    found: list[dict[str, Any]] = done.json["errors"]
    assert found and all(set(problem) == {"field", "line", "code", "message"} for problem in found)
    return found


def test_from_submission_to_output(node: Daemon) -> None:
    run = submit(node, "report", "-p", "day=monday", "--wait")
    shown = ok(node.ctl("show", run, "-o", "json")).json
    assert (shown["status"], shown["params"]) == ("completed", {"day": "monday"})
    assert [(task["step"], task["status"], task["attempt"]) for task in shown["tasks"]] == [
        ("extract", "completed", 1),
        ("check", "completed", 1),
    ]
    assert shown["tasks"][0]["output"] == {"rows": 3}
    assert shown["submittedAt"].endswith("Z") and shown["finishedAt"].endswith("Z")
    logs = ok(node.ctl("logs", run)).stdout
    assert "extract | day monday" in logs and "extract | warned" in logs
    alone = ok(node.ctl("logs", f"{run}/extract"))
    assert (alone.stdout, alone.stderr) == ("day monday\n", "warned\n")
    assert ok(node.ctl("logs", run, "-o", "json")).json["items"][0]["stdoutTail"] == "day monday\n"
    step = ok(node.ctl("show", f"{run}/extract", "-o", "json")).json
    assert step["step"] == "extract" and step["output"] == {"rows": 3}
    assert run in ok(node.ctl("show", run)).stdout
    assert [reason["code"] for reason in ok(node.ctl("why", run, "-o", "json")).json["items"]] == ["completed"]


def test_a_failed_run(node: Daemon, flag: Path) -> None:
    done = node.ctl("submit", "broken", "--wait", "-o", "json")
    assert done.code == 1 and done.json["status"] == "failed"
    run = done.json["id"]
    [reason] = ok(node.ctl("why", run, "-o", "json")).json["items"]
    assert (reason["code"], reason["object"]) == ("failed", "fails") and "exit code 3" in reason["message"]
    [skipped] = ok(node.ctl("why", f"{run}/after", "-o", "json")).json["items"]
    assert (skipped["code"], skipped["object"]) == ("skipped", "fails")
    assert run in {item["id"] for item in ok(node.ctl("runs", "--status", "failed", "-o", "json")).json["items"]}
    flag.touch()
    assert ok(node.ctl("retry", run, "-o", "json")).json == {"id": run, "round": 2}
    assert node.client.run(run).wait(10) == "completed"
    assert ok(node.ctl("retry", run, "--from", "after")).stdout.strip().endswith("round 3")
    assert node.client.run(run).wait(10) == "completed"


def test_cancel(node: Daemon, wait_until: Callable[..., Any]) -> None:
    run = submit(node, "slow")
    wait_until(lambda: node.client.run(run).status == "running")
    [reason] = ok(node.ctl("why", run, "-o", "json")).json["items"]
    assert reason["code"] == "running" and reason["object"] in ("0", "1")
    assert errors(node.ctl("retry", run, "-o", "json"), 5)
    assert ok(node.ctl("cancel", run, "-o", "json")).json == {"id": run, "cancelled": True}
    assert node.client.run(run).wait(15) == "cancelled"
    completed = submit(node, "report", "--wait")
    assert errors(node.ctl("cancel", completed, "-o", "json"), 5)


def test_following_ends_with_the_run(node: Daemon) -> None:
    run = submit(node, "report", "--in", "500ms")
    assert "extract | day today" in ok(node.ctl("logs", "-f", run)).stdout


def test_not_due_and_other_times(node: Daemon) -> None:
    run = submit(node, "report", "--in", "1h")
    [reason] = ok(node.ctl("why", run, "-o", "json")).json["items"]
    assert reason["code"] == "not_due" and reason["object"].endswith("Z")
    again = submit(node, "report", "--at", "2099-01-01T10:00:00+01:00")
    assert ok(node.ctl("show", again, "-o", "json")).json["startAt"].startswith("2099-01-01T09:00:00")
    for args in (("--in", "soon"), ("--at", "tomorrow"), ("--in", "1h", "--at", "2099-01-01T10:00")):
        assert errors(node.ctl("submit", "report", *args, "-o", "json"), 2)
    for waiting in (run, again):
        ok(node.ctl("cancel", waiting))


def test_a_key_makes_one_run(node: Daemon) -> None:
    one = ok(node.ctl("submit", "report", "--key", "k1", "-o", "json")).json
    two = ok(node.ctl("submit", "report", "--key", "k1", "-o", "json")).json
    assert one["id"] == two["id"] and (one["created"], two["created"]) == (True, False)
    [problem] = errors(node.ctl("submit", "report", "--key", "k1", "-p", "day=other", "-o", "json"), 5)
    assert problem["code"] == "key_conflict"
    assert [item["id"] for item in ok(node.ctl("runs", "--key", "k1", "-o", "json")).json["items"]] == [one["id"]]


def test_filters(node: Daemon) -> None:
    run = submit(node, "report", "-p", "day=filters", "--wait")

    def found(*args: str) -> list[str]:
        return [item["id"] for item in ok(node.ctl("runs", *args, "-o", "json")).json["items"]]

    assert found("--param", "day=filters") == [run]
    assert run in found("--workflow", "report", "--since", "1h") and run not in found("--workflow", "slow")
    assert found("--until", "1h") == [] and len(found("--limit", "1")) == 1


def test_what_is_wrong_is_said(node: Daemon) -> None:
    nobody = "0" * 20
    for args in (
        ("show", nobody),
        ("logs", nobody),
        ("why", nobody),
        ("cancel", nobody),
        ("retry", nobody),
        ("submit", "nope"),
    ):
        assert errors(node.ctl(*args, "-o", "json"), 4)[0]["code"] == "not_found"
        plain = node.ctl(*args)
        assert plain.code == 4 and plain.stdout == "" and len(plain.stderr.splitlines()) == 1
        assert plain.stderr.startswith("kubeminctl: ")
    for args in (
        ("submit",), ("submit", "report", "-f", "x.yaml"),
        ("submit", "report", "-p", "day"), ("submit", "report", "-p", "day=NO"),
        ("submit", "report", "-p", "nope=1"), ("runs", "--status", "odd"), ("runs", "--since", "odd"), ("nonsense",),
        ("submit", "report", "--key", ""), ("submit", "report", "--key", "k" * 513), ("queue", "pause", "Not A Queue"),
        ("backup", str(node.run / "kubemin.sock")), ("backup", ""), ("scale", "0"), ("runs", "--nope"),
        ("submit", "-f", "/nonexistent.yaml"),
    ):  # fmt: skip
        assert errors(node.ctl(*args, "-o", "json"), 2)
    for args in (("show", submit(node, "report", "--wait") + "/nope"),):
        assert errors(node.ctl(*args, "-o", "json"), 4)


def test_an_argument_that_is_no_text(node: Daemon) -> None:
    odd = os.fsdecode(b"caf\xe9")
    for args in (
        ("show", odd), ("cancel", odd), ("why", odd), ("logs", odd), ("runs", "--workflow", odd), ("submit", odd),
        ("submit", "report", "--key", odd), ("retry", "0" * 20, "--from", odd), ("queue", "pause", odd),
        ("submit", "-f", odd + ".yaml"), ("validate", odd + ".yaml"), ("submit", "report", "-p", f"day={odd}"),
    ):  # fmt: skip
        [problem] = errors(node.ctl(*args, "-o", "json"), 4 if "retry" in args else 2)
        assert "\udce9" not in problem["message"]
        plain = node.ctl(*args)
        assert plain.code in (2, 4) and len(plain.stderr.splitlines()) == 1 and "internal" not in plain.stderr


def test_an_unknown_name_says_why_it_is_unknown(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon()
    [plain] = errors(daemon.ctl("submit", "nothing", "-o", "json"), 4)
    assert "lists the published ones" in plain["message"]
    daemon.workflow("broken.yaml", "name: broken\nsteps:\n  - {name: a, rum: [x]}\n")
    daemon.workflow("other.yaml", "name: misnamed\nsteps: []\n")
    daemon.workflow("later.yaml", "name: later\nsteps: [{name: a, run: ['true']}]\n")
    for name, reason in (
        ("broken", "broken.yaml: line 3: steps[0].rum: "),
        ("misnamed", "other.yaml: line 2: steps: "),
        ("later", "not published yet"),
    ):
        [problem] = errors(daemon.ctl("submit", name, "-o", "json"), 4)
        assert problem["code"] == "not_found" and reason in problem["message"], problem


def test_waiting_has_an_end_when_asked(node: Daemon) -> None:
    done = node.ctl("submit", "slow", "--wait", "--timeout", "300ms", "-o", "json")
    assert (done.code, done.json["status"]) == (1, "running") and "after 0.3 s and goes on" in done.stderr
    node.client.cancel(done.json["id"])
    for args in (("--timeout", "1s"), ("--wait", "--timeout", "soon")):
        assert "--timeout" in errors(node.ctl("submit", "slow", *args, "-o", "json"), 2)[0]["field"]


def test_with_no_daemon_it_says_so(start_daemon: Callable[..., Daemon]) -> None:
    alone = start_daemon(started=False)
    file = str(alone.workflow("later.yaml", REPORT))
    for args in ((), ("--wait", "--timeout", "100ms")):
        done = alone.ctl("submit", "-f", file, *args)
        assert (done.code, len(done.stdout.split())) == (1 if args else 0, 1) and "no daemon is running" in done.stderr


def test_queues(node: Daemon) -> None:
    ok(node.ctl("queue", "pause", "default"))
    try:
        run = submit(node, "report")
        [queue] = ok(node.ctl("queue", "-o", "json")).json["items"]
        assert (queue["name"], queue["length"], queue["paused"]) == ("default", 1, True) and queue["oldestSeconds"] >= 0
        assert [reason["code"] for reason in ok(node.ctl("why", run, "-o", "json")).json["items"]] == ["queue_paused"]
        assert "paused" in ok(node.ctl("queue")).stdout
        assert ok(node.ctl("queue", "-o", "json", "pause", "default")).json == {"name": "default", "paused": True}
    finally:
        ok(node.ctl("queue", "resume", "default"))
    assert node.client.run(run).wait(10) == "completed"


def test_workflows_and_schedules(node: Daemon) -> None:
    assert [item["name"] for item in ok(node.ctl("workflows", "-o", "json")).json["items"]] == [
        "broken",
        "report",
        "slow",
    ]
    assert ok(node.ctl("schedules", "-o", "json")).json == {"items": []}
    assert "report" in ok(node.ctl("workflows")).stdout


def test_backup(node: Daemon, tmp_path: Path) -> None:
    run = submit(node, "report", "--wait")
    copy = tmp_path / "copy" / "kubemin.db"
    copy.parent.mkdir()
    told = ok(node.ctl("backup", str(copy), "-o", "json")).json
    assert told == {"file": str(copy), "bytes": copy.stat().st_size}
    assert copy.stat().st_mode & 0o077 == 0
    shown = ok(node.ctl("--state-dir", str(copy.parent), "--runtime-dir", str(tmp_path), "show", run, "-o", "json"))
    assert shown.json["status"] == "completed"
    assert errors(node.ctl("backup", str(tmp_path), "-o", "json"), 2)
    assert node.ctl("backup", "/nonexistent/x.db").code == 3


def test_every_command_has_help_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    from kubemin.cli.kubeminctl import COMMANDS, main

    for name in COMMANDS:
        assert main([name, "--help"]) == 0, name
        told = capsys.readouterr().out
        assert "Examples:" in told and "kubeminctl" in told, name


def test_no_reading_command_prints_anything_beside_its_document(node: Daemon) -> None:
    run = submit(node, "report", "--wait")
    for args in (
        ("runs",), ("show", run), ("logs", run), ("why", run), ("workflows",), ("schedules",), ("queue",), ("status",),
        ("top",), ("doctor",), ("completion", "bash"),
    ):  # fmt: skip
        done = node.ctl(*args, "-o", "json")
        assert done.code in (0, 1) and done.stderr == "", done
        json.loads(done.stdout)


def test_a_closed_pipe_is_no_error(node: Daemon) -> None:
    import subprocess

    from support import program

    command = f"{program('kubeminctl')} show {submit(node, 'report', '--wait')} | true"
    for _ in range(5):
        done = subprocess.run(["sh", "-c", command], env=node.environ, capture_output=True, text=True, timeout=30)
        assert done.stderr == ""
