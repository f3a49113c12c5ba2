"""Options and arguments that several commands share, and how their text is read."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from kubemin.cli.session import Session
from kubemin.errors import Invalid, Problem

F = TypeVar("F", bound=Callable[..., Any])


def answers(function: F) -> F:
    """Give a command its session and `-o text|json`."""

    @click.option(
        "-o", "--output", type=click.Choice(["text", "json"]), default="text", help="json: one document on stdout."
    )
    @click.pass_obj
    @functools.wraps(function)
    def wrapped(session: Session, output: str, *args: Any, **kwargs: Any) -> Any:
        session.json = session.json or output == "json"  # a group before it may have been told
        return function(session, *args, **kwargs)

    return wrapped  # type: ignore[return-value]


def command(name: str, examples: str) -> Callable[[Callable[..., Any]], click.Command]:
    """A command whose help ends with examples, and which answers in text or JSON."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        epilog = "\b\nExamples:\n" + "\n".join(f"  {line.strip()}" for line in examples.strip().splitlines())
        return click.command(name, epilog=epilog)(answers(function))

    return decorate


param_option = click.option(
    "-p", "--param", "params", multiple=True, metavar="K=V", help="A parameter of the workflow; may be repeated."
)


def pairs(given: Sequence[str], option: str) -> dict[str, str]:
    """`K=V` texts as a dict. Raises Invalid with all problems."""
    found: dict[str, str] = {}
    problems = []
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            problems.append(Problem(option, "usage", f'"{text}" is not of the form K=V'))
        elif name in found:
            problems.append(Problem(option, "usage", f"{name} is given twice"))
        found[name] = value
    if problems:
        raise Invalid(problems)
    return found


def run_and_step(text: str) -> tuple[str, str | None]:
    """`RUN` or `RUN/STEP` (a step of a group: `RUN/publish/upload`)."""
    run, _, step = text.partition("/")
    return run, step or None
