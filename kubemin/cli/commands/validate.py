"""Check workflow files."""

from __future__ import annotations

import click
import msgspec

from kubemin.cli import options, render
from kubemin.cli.session import Session
from kubemin.errors import Invalid, Problem
from kubemin.model.graph import Graph
from kubemin.model.states import Kind


@options.command(
    "validate",
    """
    kubeminctl validate report.yaml
    kubeminctl validate workflows.d/*.yaml -o json
    """,
)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def command(session: Session, files: tuple[str, ...]) -> int:
    """Check workflow files and print every problem with its line. Exit 0 when there is none, else 2."""
    from kubemin.files import load_workflow

    checked, wrong = [], []
    for file in files:
        try:
            graph = load_workflow(file).graph
            checked.append({"file": file, "workflow": graph.workflow, "steps": _steps(graph)})
        except Invalid as exc:
            wrong.append((file, exc))
    if session.json:
        _document(checked, wrong)
    else:
        for one in checked:
            render.line(f"{render.clean(str(one['file']))}: {one['workflow']} is valid, {one['steps']} step(s)")
        for _, invalid in wrong:
            render.error(invalid, as_json=False)
    return 2 if wrong else 0


def _steps(graph: Graph) -> int:
    """As users count them: a group is one, its gate none."""
    return sum(node.kind is not Kind.GATE for node in graph.nodes)


def _document(checked: list[dict[str, object]], wrong: list[tuple[str, Invalid]]) -> None:
    """Of several files the problems' messages name theirs."""
    if not wrong:
        render.document({"items": checked})
        return
    several = len(checked) + len(wrong) > 1
    problems = [_named(problem, file, several) for file, invalid in wrong for problem in invalid.problems]
    render.document({"errors": [render.problem_view(problem) for problem in problems]})


def _named(problem: Problem, file: str, several: bool) -> Problem:
    return msgspec.structs.replace(problem, message=f"{file}: {problem.message}") if several else problem
