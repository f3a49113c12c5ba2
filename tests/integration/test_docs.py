"""The documents are true: links lead somewhere, YAML is valid, tables equal the code's, and the README's tour works.

In the documents, an HTML comment before a block says what is done with it: `<!-- tour -->` runs it, in order, against
one daemon of its own; `<!-- tour: NAME -->` writes it to a file there.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support import PROJECT, Daemon, processes_naming, program, run_program, wait_until
from support.processes import kill
from support.programs import clean_environ

DOCUMENTS = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").glob("*.md")])
README = PROJECT / "README.md"
GUIDE = PROJECT / "docs" / "guide.md"
BLOCK = re.compile(r"(?:<!-- (?P<mark>[^\n]*?) -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")


class Block(NamedTuple):
    document: Path
    line: int
    kind: str
    mark: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.name}:{self.line}"


def blocks(*documents: Path) -> Iterator[Block]:
    for document in documents:
        text = document.read_text()
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start("text"))
            yield Block(document, line, match["kind"], match["mark"] or "", match["text"])


# --- all of them --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for match in LINK.finditer(document.read_text()):
        file, _, anchor = match["target"].partition("#")
        if file.startswith(("http:", "https:")):
            continue
        target = (document.parent / file).resolve() if file else document
        assert target.exists(), f"{document.name} links to {match['target']}"
        if anchor:
            assert anchor in anchors(target), f"{document.name} links to {match['target']}"


def anchors(document: Path) -> set[str]:
    """As the usual renderers make them of headings."""
    heads = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("block", [b for b in blocks(*DOCUMENTS) if b.kind == "yaml"], ids=str)
def test_yaml_is_valid(block: Block, tmp_path: Path) -> None:
    """A workflow, or (with `# kubemin.yaml` in its first line) settings."""
    if block.text.startswith("# kubemin.yaml"):
        (file := tmp_path / "kubemin.yaml").write_text(block.text)
        done = run_program("kubemind", "--config", str(file), "--check")
    else:
        (file := tmp_path / "workflow.yaml").write_text(block.text)
        done = run_program("kubeminctl", "validate", str(file))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", [b for b in blocks(*DOCUMENTS) if b.kind == "python"], ids=str)
def test_python_is_valid(block: Block) -> None:
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", [b for b in blocks(*DOCUMENTS) if b.kind == "sh"], ids=str)
def test_shell_is_valid(block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if d.name != "design.md"], ids=lambda path: path.name)
def test_commands_and_options_exist(document: Path) -> None:
    """Each `kubeminctl COMMAND --option` that the document names."""
    for name, rest in re.findall(r"\bkubeminctl ([a-z][a-z-]*)([^`\n|#;&)]*)", document.read_text()):
        known = options(name)
        assert known, f"kubeminctl {name}"
        assert set(re.findall(r"(?<!\S)--[a-z-]+", rest)) <= known, f"kubeminctl {name}{rest}"


def options(name: str) -> set[str]:
    """Of a command, those of kubeminctl itself included; empty when there is no such command."""
    import click

    from kubemin.cli.kubeminctl import group

    command = group.get_command(click.Context(group), name)
    params = [*command.params, *group.params] if command else []
    return {option for param in params for option in (*param.opts, "--help")}


# --- tables -------------------------------------------------------------------------------------------------------


def test_settings_table_is_the_code_s() -> None:
    from kubemin.config.describe import markdown

    found = re.search(r"<!-- settings: .*? -->\n(.*?)<!-- end of settings -->", GUIDE.read_text(), re.DOTALL)
    assert found is not None
    assert found[1] == markdown(), "put the output of kubemin.config.describe.markdown() between the marks"


def test_why_codes_are_the_code_s() -> None:
    from kubemin.why import CODES

    table = GUIDE.read_text().partition("<!-- codes")[2].partition("\n\n")[0]
    told = {code for row in table.splitlines()[3:] for code in re.findall(r"`([a-z_]+)`", row.split("|")[1])}
    assert told == set(CODES)


def test_causes_are_the_code_s() -> None:
    from kubemin.model.states import Cause

    text = (PROJECT / "docs" / "workflows.md").read_text().partition("## States")[2].partition("## YAML")[0]
    assert {cause.value for cause in Cause} <= set(re.findall(r"`([a-z-]+)`", text))


def test_workflow_keys_are_the_code_s() -> None:
    """Each key of a step, of the head and of what they hold is explained."""
    from kubemin.files import steps, workflow

    text = (PROJECT / "docs" / "workflows.md").read_text()
    keys = {*steps._ALL, *steps._RETRY, *workflow._KEYS, *workflow._SCHEDULE, *workflow._CONCURRENCY}
    assert keys <= set(re.findall(r"`([a-zA-Z]+)`", text))


def test_step_variables_are_the_code_s() -> None:
    text = (PROJECT / "docs" / "workflows.md").read_text()
    code = "".join(path.read_text() for path in (PROJECT / "kubemin" / "steps").glob("*.py"))
    code += "".join(path.read_text() for path in (PROJECT / "kubemin" / "worker").glob("*.py"))
    told = set(re.findall(r"KUBEMIN_[A-Z]+", text.partition("## What a step finds")[2]))
    assert told and all(f'"{name}"' in code for name in told)


def test_log_lines_are_the_code_s() -> None:
    """Each message of the guide's table of log lines is one that the code writes."""
    table = GUIDE.read_text().partition("| line | means")[2].partition("\n\n")[0]
    code = "".join(path.read_text() for path in (PROJECT / "kubemin").rglob("*.py"))
    for row in table.splitlines()[2:]:
        for message in re.findall(r"`([^`]+)`", row.split("|")[1]):
            if match := re.fullmatch(r"(task|run) (\w+)", message):  # made of a subject and the event of a Change
                message = match[2]
            assert message.removesuffix(" …").split(" N ")[0] in code, message


# --- the README ---------------------------------------------------------------------------------------------------


def test_readme_begins_with_two_commands() -> None:
    first, second = list(blocks(README))[:2]
    assert first.kind == second.kind == "sh"
    assert first.text.count("\n") == second.text.count("\n") == 1
    assert first.text.startswith("python3 -m venv .venv && ")
    assert "host-report.yaml" in first.text
    assert "pytest" in second.text


def test_checks_run_the_readme_s_commands() -> None:
    """`.ci/run` takes both commands out of README.md by patterns; each has to find exactly the command shown there."""
    script = (PROJECT / ".ci" / "run").read_text()
    patterns = re.findall(r"grep -m 1 '([^']+)' README.md", script)
    first, second = list(blocks(README))[:2]
    found = [next(line for line in README.read_text().splitlines() if re.match(pattern, line)) for pattern in patterns]
    assert found == [first.text.strip(), second.text.strip()]


@pytest.fixture
def tour(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of the tour: the commands on PATH, a state of its own, and an end for all of it."""
    (tmp_path / "conf").symlink_to(PROJECT / "conf")
    (binaries := tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("kubemind", "kubeminctl"):
        (binaries / name).symlink_to(program(name))
    places = {"KUBEMIN_STATE_DIR": str(tmp_path / "state"), "KUBEMIN_RUNTIME_DIR": str(tmp_path / "run")}
    yield clean_environ(**places)
    kill(processes_naming(str(tmp_path)))


def test_tour(tour: dict[str, str], tmp_path: Path) -> None:
    outputs = []
    for block in blocks(README):
        if not block.mark.startswith("tour"):
            continue
        if name := block.mark.removeprefix("tour").removeprefix(":").strip():
            (tmp_path / name).write_text(block.text)
        else:
            outputs.append(run_block(block, tour, tmp_path))
    told = "\n".join(outputs)
    assert "failed: step read failed" in told
    assert "True" in told
    assert (tmp_path / "today.txt").read_text().startswith("Report of ")
    assert not wait_until_gone(tmp_path)


def run_block(block: Block, environ: dict[str, str], folder: Path) -> str:
    if block.kind == "python":
        command = [sys.executable, "-c", block.text]
    else:
        command = ["bash", "-eu", "-c", f'export PATH="$PWD/.venv/bin:$PATH"\n{block.text}']
    with open(
        folder / f"{block.line}.out", "a+"
    ) as output:  # no pipe: the daemon of the first block would hold it open
        done = subprocess.run(
            command,
            env=environ,
            cwd=folder,
            stdout=output,
            stderr=output,
            timeout=60,
            check=False,
            start_new_session=True,
        )
        output.seek(0)
        text = output.read()
    if "kubemind" in block.text:
        wait_until(lambda: answers(environ, folder), 20, what="the tour's daemon")
    assert done.returncode == 0, f"{block}: exit {done.returncode}\n{text}"
    return text


def answers(environ: dict[str, str], folder: Path) -> bool:
    """Whether the daemon is up and has published the workflows."""
    command = [str(folder / ".venv" / "bin" / "kubeminctl"), "workflows", "-o", "json"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=20)
    return done.returncode == 0 and "host-report" in done.stdout and os.path.exists(folder / "run" / "kubemin.sock")


def wait_until_gone(folder: Path) -> list[int]:
    wait_until(lambda: not processes_naming(str(folder)), 20, what="the end of the tour's processes")
    return processes_naming(str(folder))


# --- the Python page ----------------------------------------------------------------------------------------------

REPORTS = """
def run(n, rows=1): return n * rows
def total(parts): return sum(parts)
"""
NIGHTLY = """
name: nightly-report
params: {day: today}
steps:
  - name: extract
    shell: sleep 0.5; echo '{"rows":3}' > "$KUBEMIN_OUTPUT"    # long enough to be cancelled
  - name: load
    python: reports.load:run
    with: {n: "${{ steps.extract.output.rows }}"}
"""


def test_python_page_runs(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "load.py").write_text(REPORTS)
    program_text = []
    for block in blocks(PROJECT / "docs" / "python.md"):
        if block.mark.startswith("module: "):
            (tmp_path / block.mark.removeprefix("module: ")).write_text(block.text)
        elif block.kind == "python":
            program_text.append(block.text)
    python = {"path": [str(tmp_path)], "allow": ["reports.*:*"]}
    daemon = start_daemon(started=False, python=python, queues=["default", "etl"])
    daemon.workflow("nightly-report.yaml", NIGHTLY)
    daemon.start()
    ends = "\nassert (total.result, client.run(runs[7].id).result) == (4950, 14)\nprint('whole page')\n"
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(program_text) + ends],
        env=daemon.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "whole page\n", f"{done.stderr}\n{daemon.log[-3000:]}"
