"""Workflow files to definitions: one file, one text, a folder of files."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec

from kubemin.errors import Invalid, Problem
from kubemin.files.compiler import compile_workflow
from kubemin.files.document import load_document, parse_document
from kubemin.files.plain import shown_path
from kubemin.model.records import Definition

_ENDINGS = (".yaml", ".yml", ".json")


class FileProblem(msgspec.Struct, frozen=True):
    """A problem, and the file that it is in."""

    file: str
    problem: Problem

    def __str__(self) -> str:
        return f"{self.file}: {self.problem}"


def load_workflow(path: str | os.PathLike[str]) -> Definition:
    """Read and compile one file. Raises Invalid with all its problems."""
    directory = os.path.dirname(os.path.abspath(path))
    with _without_collector():
        return compile_workflow(load_document(path), directory)


def load_workflow_text(text: str, source: str = "", directory: str = "") -> Definition:
    """Compile a text. Without a `directory` a relative workdir is refused. Raises Invalid with all its problems."""
    with _without_collector():
        return compile_workflow(parse_document(text, source), directory)


def load_directory(
    directory: str | os.PathLike[str], judge: Callable[[str], Sequence[Problem]] = lambda path: ()
) -> tuple[list[Definition], list[FileProblem]]:
    """All workflow files of a folder, in the order of their names. A bad file does not stop the others, nor does one
    with which `judge` finds something wrong before it is read."""
    folder = os.fspath(directory)
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(_ENDINGS) and not name.startswith("."))
    except OSError as exc:
        problem = Problem(field="", code="unreadable", message=f"the folder cannot be read: {exc.strerror}")
        return [], [FileProblem(shown_path(folder), problem)]
    definitions: dict[str, tuple[Definition, str]] = {}
    problems: list[FileProblem] = []
    for path in (os.path.join(folder, name) for name in names):
        try:
            if unfit := judge(path):
                raise Invalid(unfit)
            definition = load_workflow(path)
        except Invalid as exc:
            problems += [FileProblem(shown_path(path), problem) for problem in exc.problems]
            continue
        first = definitions.setdefault(definition.graph.workflow, (definition, path))[1]
        if first != path:
            problems.append(FileProblem(shown_path(path), _taken(definition.graph.workflow, first)))
    return [definition for definition, _ in definitions.values()], problems


@contextmanager
def _without_collector() -> Iterator[None]:
    """Trees grow here and nothing becomes garbage: looking for it takes a third of the time of a large file."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _taken(name: str, path: str) -> Problem:
    message = f'the workflow "{name}" is in {shown_path(os.path.basename(path))} already; give it another name'
    return Problem(field="name", code="duplicate", message=message)
