"""Put the unit and what belongs to it in place."""

from __future__ import annotations

import os
from pathlib import Path

import click

from kubemin.cli import installing, options, render
from kubemin.cli.session import Session
from kubemin.config import Settings, load_settings
from kubemin.errors import Invalid, Refused


@options.command(
    "install-service",
    """
    sudo kubeminctl install-service
    kubeminctl install-service --print
    kubeminctl install-service --root ./image
    """,
)
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("/"),
    show_default=True,
    metavar="DIR",
    help="Below this folder, for images and packages; systemd is told nothing then.",
)
@click.option("--print", "only_print", is_flag=True, help="Print the files, write nothing.")
def command(session: Session, root: Path, only_print: bool) -> int:
    """Put the systemd unit, the user, folders, man pages and shell completions in place.

    May be run again at any time: after an upgrade, after gracefulTimeout was changed, or after a secret was put into
    /etc/kubemin/secrets. What is yours (the configuration, drop-ins) is left as it is.
    """
    kubemind, kubeminctl = installing.programs()
    settings, notes = _settings(root)
    items = installing.plan(root, settings, kubemind=kubemind, kubeminctl=kubeminctl)
    if only_print:
        _print(session, items)
        return 0
    system = root.resolve() == Path("/")
    if system and os.geteuid() != 0:
        raise Refused("only root may install a service; try again with sudo, or see --print and --root")
    became = [(item, installing.put(root, item)) for item in items]
    steps = installing.announce() if system else []
    if folder := installing.hidden(kubemind):
        notes.append(f"other users may not pass {folder}, so the user kubemin cannot start {kubemind}: move it")
    _tell(session, root, became, steps, notes)
    return int(any(step.problem for step in steps))


def _settings(root: Path) -> tuple[Settings, list[str]]:
    """Of the system below `root`; the defaults where they are not valid, with a note that says so."""
    file = root / "etc/kubemin/kubemin.yaml"
    if not file.exists():
        return Settings(), []
    try:
        return load_settings(str(file), {}, {}), []
    except Invalid as exc:
        return Settings(), [f"{file} is not valid ({exc.problems[0].message}); TimeoutStopSec is for the defaults"]


def _print(session: Session, items: list[installing.Item]) -> None:
    if session.json:
        render.document({"items": items})
        return
    for item in items:
        render.line(render.paint(f"# /{item.path}", "bold"))
        render.line(f"-> {item.target}" if item.target else item.text)


def _tell(
    session: Session,
    root: Path,
    became: list[tuple[installing.Item, installing.Became]],
    steps: list[installing.Step],
    notes: list[str],
) -> None:
    files = [{"path": str(root / item.path), "became": word.value} for item, word in became]
    if session.json:
        render.document({"items": files, "commands": steps, "notes": notes})
        return
    render.table(("FILE", "IS"), [(file["path"], file["became"]) for file in files], "")
    for step in steps:
        render.line(f"{' '.join(step.command)}: {step.problem or 'done'}")
    for note in notes:
        render.note(f"{render.PROGRAM}: {render.clean(note)}")
    if steps and not any(step.problem for step in steps):
        render.line("start it now and at each boot: systemctl enable --now kubemin")
