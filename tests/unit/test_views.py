"""The JSON contract of `-o json`, field by field (design section 7), and what is shown to people."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest

from kubemin.cli import render, views
from kubemin.cli.kubeminctl import wants_json
from kubemin.cli.pool import PoolState, Worker
from kubemin.cli.progress import telling
from kubemin.errors import Invalid, Problem, Refused
from kubemin.model.graph import Edge, Graph, Node
from kubemin.model.records import RunView, TaskView
from kubemin.model.states import RunState, TaskState
from kubemin.store.base import QueueView, WorkflowView
from kubemin.why import Reason

RUN_FIELDS = {"id", "workflow", "status", "cause", "params", "submittedAt", "startedAt", "finishedAt", "tasks"}
TASK_FIELDS = {
    "id", "step", "status", "cause", "attempt", "token", "node", "worker", "exitCode", "queuedAt", "startedAt",
    "finishedAt", "output", "stdoutTail", "stderrTail",
}  # fmt: skip
STATUS_FIELDS = ["node", "mode", "leader", "generation", "supervisorPid", "workers", "queues"]


def run(*tasks: TaskView) -> RunView:
    return RunView(
        id="r1", workflow="w", status=RunState.RUNNING, submitted_at="2026-11-24T07:18:28.123456Z", tasks=list(tasks)
    )


def task(step: str, status: TaskState, **fields: Any) -> TaskView:
    return TaskView(id="r1.0", step=step, status=status, **fields)


def test_a_run() -> None:
    shown = views.run(run(task("extract", TaskState.FAILED, exit_code=3, stdout_tail="x")))
    assert set(shown) >= RUN_FIELDS
    assert set(shown["tasks"][0]) >= TASK_FIELDS
    assert shown["status"] == "running" and shown["tasks"][0]["exitCode"] == 3
    json.dumps(shown)


def test_lists_are_items() -> None:
    assert views.runs([run()])["items"][0]["id"] == "r1"
    workflow = WorkflowView("w", "h", 3, "0 3 * * *", "UTC", None, None, None)
    plain = WorkflowView("v", "h", 3, None, None, None, None, None)
    assert [item["name"] for item in views.workflows([workflow, plain])["items"]] == ["w", "v"]
    assert [item["name"] for item in views.schedules([workflow, plain])["items"]] == ["w"]
    assert views.reasons([Reason("needs", "extract", "…", "load")])["items"] == [
        {"code": "needs", "object": "extract", "message": "…", "step": "load"}
    ]


def test_status_has_the_contracts_fields_and_no_other() -> None:
    worker = Worker(0, 4711, "running", run="r1", step="extract", task="r1.0", seconds=1.23456, label="w/extract")
    pool = PoolState(alive=True, node="n", generation=3, supervisor_pid=99, workers=[worker])
    shown = views.status(pool, [QueueView("default", 3, False, 1.5)])
    assert list(shown) == STATUS_FIELDS
    assert shown["workers"] == [
        {"slot": 0, "pid": 4711, "state": "running", "run": "r1", "step": "extract", "task": "r1.0", "seconds": 1.235}
    ]
    assert shown["queues"] == [{"name": "default", "length": 3, "paused": False, "oldestSeconds": 1.5}]


def test_logs() -> None:
    shown = views.logs([task("a", TaskState.COMPLETED, stdout_tail="out", stderr_tail="err")])
    assert shown["items"] == [
        {"id": "r1.0", "step": "a", "status": "completed", "attempt": 0, "stdoutTail": "out", "stderrTail": "err"}
    ]


def test_refusals(capsys: pytest.CaptureFixture[str]) -> None:
    render.error(
        Invalid([Problem("steps[0]", "kind", "bad", 3), Problem("", "name", "worse")], source="f.yaml"), as_json=True
    )
    assert json.loads(capsys.readouterr().out) == {
        "errors": [
            {"field": "steps[0]", "line": 3, "code": "kind", "message": "bad"},
            {"field": "", "line": None, "code": "name", "message": "worse"},
        ]
    }
    render.error(
        Invalid([Problem("steps[0]", "kind", "bad", 3), Problem("", "name", "worse")], source="f.yaml"), as_json=False
    )
    render.error(Refused("no, because"), as_json=False)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "kubeminctl: f.yaml: line 3: steps[0]: bad",
        "kubeminctl: f.yaml: worse",
        "kubeminctl: no, because",
    ]


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [
        (["runs", "-o", "json"], True),
        (["runs", "--output", "json"], True),
        (["runs", "--output=json"], True),
        (["runs", "-ojson", "--nonsense"], True),
        (["runs", "-o", "text"], False),
        (["submit", "json"], False),
    ],
)
def test_json_is_noticed_in_a_wrong_command_line(argv: list[str], wanted: bool) -> None:
    assert wants_json(argv) is wanted


def test_nothing_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    render.table(("STEP", "STATUS"), [("a\x1b[2J\nb\u202e", "failed")], "")
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\u202e" not in out and out.count("\n") == 2


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def painted(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, **environ: str) -> str:
    monkeypatch.setattr(sys, "stdout", stream)
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return render.state("failed")


def test_colours_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert painted(monkeypatch, Terminal()) == "\x1b[31mfailed\x1b[0m"
    assert painted(monkeypatch, io.StringIO()) == "failed"
    assert painted(monkeypatch, Terminal(), NO_COLOR="1") == "failed"
    assert painted(monkeypatch, Terminal(), TERM="dumb") == "failed"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, None),
        (0.4242, "0.42s"),
        (59.9, "59s"),
        (60, "1m00s"),
        (3599, "59m59s"),
        (7500, "2h05m"),
        (90000, "1d01h"),
    ],
)
def test_durations(seconds: float | None, text: str | None) -> None:
    assert render.duration(seconds) == text


def graph(**needs: str) -> Graph:
    """Steps in order, each with the one-letter names of what it needs."""
    at = {name: index for index, name in enumerate(needs)}
    return Graph("w", tuple(Node(name, needs=tuple(Edge(at[need]) for need in given)) for name, given in needs.items()))


def test_the_steps_that_tell_how_it_went() -> None:
    a, b = task("a", TaskState.COMPLETED, output=1), task("b", TaskState.FAILED)
    group = task("g", TaskState.FAILED, cause="group")
    chain = graph(x="", a="x", b="a", g="b")
    assert telling(run(a, b, group), chain) == [b]
    assert telling(run(task("x", TaskState.COMPLETED), a), chain) == [a]
    assert telling(run(a, task("x", TaskState.RUNNING)), chain) == []


def test_all_steps_after_which_nothing_was_said_tell() -> None:
    a, b, c = (task(name, TaskState.COMPLETED, stdout_tail="text") for name in "abc")
    silent = task("x", TaskState.SKIPPED)
    assert telling(run(a, b, c), graph(a="", b="a", c="a")) == [b, c]
    assert telling(run(a, b, silent, c), graph(a="", b="", x="b", c="x")) == [a, c]
