"""Files and folders to definitions, and the parameters of a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from kubemin.errors import Invalid
from kubemin.files import bind_params, load_directory, load_workflow, load_workflow_text
from kubemin.model.graph import Graph
from kubemin.model.references import render_work

GOOD = "name: {}\nsteps:\n  - {{name: a, run: [./x.sh], workdir: sub}}\n"


def test_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one.yaml").write_text(GOOD.format("one"))
    definition = load_workflow(tmp_path / "one.yaml")
    assert definition.graph.directory == str(tmp_path)
    assert definition.graph.nodes[0].work == {"run": ["./x.sh"], "workdir": f"{tmp_path}/sub"}
    monkeypatch.chdir(tmp_path)
    assert load_workflow("one.yaml") == definition


def test_a_folder_that_looks_like_a_reference_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "a b${{x}}\n$${{ü"
    folder.mkdir()
    (folder / "one.yaml").write_text(GOOD.format("one"))
    graph = load_workflow(folder / "one.yaml").graph
    assert graph.directory == str(folder)
    assert graph.nodes[0].work is not None
    assert render_work(graph.nodes[0].work, {})["workdir"] == f"{folder}/sub"


def test_names_that_are_not_utf8_are_told_in_a_line_that_can_be_printed(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    folder = tmp_path / odd
    folder.mkdir()
    (folder / "one.yaml").write_text(GOOD.format("one"))
    with pytest.raises(Invalid, match="rename it") as caught:
        load_workflow(folder / "one.yaml")
    assert caught.value.source == f"{tmp_path}/caf\\udce9/one.yaml"
    (tmp_path / f"{odd}.yaml").write_text("name: bad\n")
    (tmp_path / f"{odd}\n.yaml").write_text(GOOD.format("one"))
    definitions, problems = load_directory(tmp_path)
    assert [definition.graph.workflow for definition in definitions] == ["one"]
    assert [str(problem).partition(": ")[0] for problem in problems] == [f"{tmp_path}/caf\\udce9.yaml"]


def test_a_file_with_problems_names_itself(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: bad\nstep: []\n")
    with pytest.raises(Invalid) as caught:
        load_workflow(path)
    assert caught.value.source == str(path)
    assert str(caught.value).startswith(f"{path}: line 1: ")
    assert len(caught.value.problems) == 2


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD.format("one"))
    (tmp_path / "b.yml").write_text("name: bad\n")
    (tmp_path / "c.json").write_text('{"name": "two", "steps": [{"name": "a", "run": ["x"]}]}')
    (tmp_path / "d.yaml").write_text(GOOD.format("one"))
    (tmp_path / "e.txt").write_text("not looked at")
    (tmp_path / ".f.yaml").write_text("an editor's")
    (tmp_path / "g.yaml").mkdir()
    os.mkfifo(tmp_path / "h.yaml")
    definitions, problems = load_directory(tmp_path)
    assert [definition.graph.workflow for definition in definitions] == ["one", "two"]
    assert [(os.path.basename(p.file), p.problem.code) for p in problems] == [
        ("b.yml", "missing"), ("d.yaml", "duplicate"), ("g.yaml", "unreadable"), ("h.yaml", "unreadable")
    ]  # fmt: skip
    assert "a.yaml" in str(problems[1])


def test_a_pattern_that_takes_for_ever_is_given_up(tmp_path: Path) -> None:
    begun, value = time.process_time(), "a" * 60
    (tmp_path / "slow.yaml").write_text(
        f"name: slow\nparams: {{p: {{pattern: '(a+)+b', default: {value}}}}}\nsteps: [{{name: a, run: [x]}}]\n"
    )
    (tmp_path / "good.yaml").write_text(GOOD.format("good"))
    definitions, [problem] = load_directory(tmp_path)
    assert [definition.graph.workflow for definition in definitions] == ["good"]
    assert problem.problem.field == "params.p.default" and "takes too long" in problem.problem.message
    with pytest.raises(Invalid, match="takes too long"):
        bind_params(graph("{p: {pattern: '(a+)+b'}}"), {"p": value})
    assert time.process_time() - begun < 10
    assert signal.getsignal(signal.SIGVTALRM) is signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    definitions, (problem,) = load_directory(tmp_path / "none")
    assert definitions == []
    assert problem.problem.code == "unreadable"


def graph(params: str) -> Graph:
    return load_workflow_text(f"name: test\nparams: {params}\nsteps: [{{name: a, run: [x]}}]\n", "x.yaml").graph


PARAMS = graph('{day: {default: latest, pattern: "^[0-9a-z-]+$"}, rows: {pattern: "[0-9]+"}, list: [1, 2]}')


def test_defaults_are_filled_in() -> None:
    assert bind_params(PARAMS, {"rows": "5"}) == {"day": "latest", "rows": "5", "list": [1, 2]}
    assert bind_params(PARAMS, {"rows": 5, "day": "monday", "list": None}) == {"day": "monday", "rows": 5, "list": None}
    assert bind_params(graph("{a: , b: {}}"), {"a": 1, "b": {"x": [True]}}) == {"a": 1, "b": {"x": [True]}}


@pytest.mark.parametrize(
    ("given", "codes"),
    [
        ({}, {"params.rows": "required"}),
        ({"rows": "5x"}, {"params.rows": "pattern"}),
        ({"rows": "5\n"}, {"params.rows": "pattern"}),
        ({"rows": None}, {"params.rows": "pattern"}),
        ({"rows": "5" * 70_000}, {"params.rows": "pattern"}),
        ({"rows": 5, "list": datetime(2026, 1, 1)}, {"params.list": "type"}),
        ({"rows": 5, "list": float("nan")}, {"params.list": "number"}),
        ({"rows": 5, "list": {1: 2}}, {"params.list": "type"}),
        ({"rows": 5, "list": 2**64}, {"params.list": "number"}),
        ({"rows": 5, "list": "\ud800"}, {"params.list": "encoding"}),
        ({"dya": 1, "day": "X Y", "rows": 5}, {"params.dya": "unknown_param", "params.day": "pattern"}),
    ],
)
def test_all_problems_of_parameters(given: dict[str, Any], codes: dict[str, str]) -> None:
    with pytest.raises(Invalid) as caught:
        bind_params(PARAMS, given)
    assert {problem.field: problem.code for problem in caught.value.problems} == codes
    assert all(problem.message.isprintable() for problem in caught.value.problems)


def test_a_parameter_has_a_suggestion() -> None:
    with pytest.raises(Invalid, match='did you mean "day"'):
        bind_params(PARAMS, {"rows": 1, "dya": 1})


def test_no_parameters() -> None:
    assert bind_params(graph("{}"), {}) == {}
    with pytest.raises(Invalid, match="has no parameter"):
        bind_params(graph("{}"), {"a": 1})


def test_what_is_heavy_is_loaded_when_needed() -> None:
    """The processes that only bind parameters, and `kubeminctl status`, do not pay for YAML, cron and difflib."""
    code = "import sys, kubemin.files; print(sorted({'yaml', 'cronsim', 'difflib', 'json'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"
