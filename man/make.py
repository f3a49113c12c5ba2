#!/usr/bin/env python3
"""The man pages, made from the table of settings, the commands of click, docs/workflows.md, and the texts here.

`python3 man/make.py` writes them; a test says when they are not current. Pure text: man(7) macros.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from kubemin import __version__  # noqa: E402
from kubemin.cli import kubeminctl  # noqa: E402
from kubemin.config.describe import bounds, default_text, placeholder  # noqa: E402
from kubemin.config.table import TABLE, Applies, Key  # noqa: E402

PAGES = ("kubemind.8", "kubeminctl.1", "kubemin.yaml.5", "kubemin-workflow.5")
_APPLIES = {
    Applies.LIVE: "at once by a reload",
    Applies.ROLLING: "by a reload, as workers are replaced",
    Applies.RESTART: "by a restart",
}


def pages() -> dict[str, str]:
    """Name -> text of each page."""
    made = {"@SETTINGS@": settings, "@COMMANDS@": commands, "@FLAGS@": flags, "@WORKFLOWS@": workflows}
    found = {}
    for name in PAGES:
        text = (PROJECT / "man" / f"{name}.in").read_text(encoding="utf-8").replace("@VERSION@", __version__)
        for mark, make in made.items():
            if mark in text:
                text = text.replace(mark, "\n".join(make()))
        found[name] = text
    return found


def plain(text: str) -> str:
    """Text for roff: no backslash, leading dot or quote is taken for an order, no hyphen is typeset."""
    text = _escaped(text)
    return "\n".join(f"\\&{line}" if line[:1] in (".", "'") else line for line in text.split("\n"))


def entry(head: str, *body: str) -> Iterator[str]:
    yield ".TP"
    yield head
    yield from (plain(line) for line in body)


# --- settings -----------------------------------------------------------------------------------------------------


def settings() -> Iterator[str]:
    for key in TABLE:
        yield from entry(f".B {plain(key.name)}", *_facts(key))


def _facts(key: Key) -> Iterator[str]:
    yield f"{_sentence(key.help)}."
    limits = ", ".join(key.choices) or bounds(key)
    yield f"Default: {default_text(key)}.{f' May be: {limits}.' if limits else ''} Changed {_APPLIES[key.applies]}."
    yield f"Environment: {', '.join(key.variables)}. Flag: {key.flag}."


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def flags() -> Iterator[str]:
    for key in TABLE:
        yield from entry(f'.BI {plain(key.flag)} " {plain(placeholder(key))}"', f"{_sentence(key.help)}.")


# --- commands -----------------------------------------------------------------------------------------------------


def commands() -> Iterator[str]:
    context = click.Context(kubeminctl.group, info_name="kubeminctl")
    for name in kubeminctl.COMMANDS:
        command = kubeminctl.group.get_command(context, name)
        assert command is not None
        yield from _command(command, name, context)


def _command(command: click.Command, name: str, parent: click.Context) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=parent)
    usage = " ".join(command.collect_usage_pieces(context))
    yield f".SS {plain(f'{_path(context)} {usage}')}"
    yield from _paragraphs(command.help or "")
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is not None and isinstance(parameter, click.Option) and parameter.name not in ("output", "help"):
            yield from entry(f".B {plain(record[0])}", " ".join(record[1].split()))
    if isinstance(command, click.Group):
        for sub in command.list_commands(context):
            found = command.get_command(context, sub)
            assert found is not None
            yield from _command(found, sub, context)
    yield from _examples(command.epilog or "")


def _path(context: click.Context) -> str:
    return context.command_path.removeprefix("kubeminctl ")


def _paragraphs(text: str) -> Iterator[str]:
    for number, part in enumerate(text.replace("\b", "").strip().split("\n\n")):
        if number:
            yield ".PP"
        yield plain(" ".join(part.split()))


def _examples(epilog: str) -> Iterator[str]:
    lines = [line.strip() for line in epilog.replace("\b", "").splitlines() if line.strip()]
    if len(lines) > 1:
        yield from (".PP", ".nf", *(plain(f"    {line}") for line in lines[1:]), ".fi")


# --- Markdown -----------------------------------------------------------------------------------------------------


def workflows() -> Iterator[str]:
    """docs/workflows.md without its title."""
    return markdown((PROJECT / "docs" / "workflows.md").read_text(encoding="utf-8").split("\n")[1:])


def markdown(lines: Sequence[str]) -> Iterator[str]:
    """The little of Markdown that the documentation uses: headings, paragraphs, lists, tables, code."""
    code = False
    for line in lines:
        if line.startswith("```"):
            code = not code
            yield ".nf" if code else ".fi"
        elif code:
            yield plain(f"    {line}") if line else "\\&"
        elif line.startswith("#"):
            level, title = line.split(" ", 1)
            yield f".SH {plain(_words(title)).upper()}" if len(level) < 3 else f".SS {_inline(title)}"
        elif line.startswith("|"):
            yield from _row(line)
        elif line.startswith("* "):
            yield from (".IP \\(bu 2", _inline(line[2:]))
        else:
            yield _inline(line.strip()) if line.strip() else ".PP"


def _row(line: str) -> Iterator[str]:
    """A table's first column is what is explained; its heading and rule are left out."""
    cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
    first, *others = cells
    if not re.fullmatch(r"[-: ]*", "".join(cells)) and first and first[:1] in "`":
        told = [cell for cell in others if cell]
        yield from (".TP", _inline(first), _inline("; ".join(told)) or "\\&")


def _words(text: str) -> str:
    """Without marks; of a link its text."""
    return re.sub(r"[`*]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text))


def _inline(text: str) -> str:
    parts = re.split(r"(`[^`]*`)", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text))
    shown = "".join(
        f"\\fB{_escaped(p[1:-1])}\\fR" if p.startswith("`") else _escaped(p.replace("**", "")) for p in parts
    )
    return f"\\&{shown}" if shown[:1] in (".", "'") else shown


def _escaped(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")


def main() -> None:
    for name, text in pages().items():
        (PROJECT / "man" / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
