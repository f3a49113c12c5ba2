"""Putting kubemin's files into a system: which ones, where to, and what became of each.

Nothing here asks or prints. Files of ours are replaced when they differ, files of the operator only made when they
are not there, and each is written whole or not at all; so it may be run again at any time.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import msgspec

from kubemin.cli import assets, completions
from kubemin.config.settings import Settings
from kubemin.errors import Refused

UNIT = "etc/systemd/system/kubemin.service"
SYSUSERS = "etc/sysusers.d/kubemin.conf"
TMPFILES = "etc/tmpfiles.d/kubemin.conf"
SECRETS = "etc/kubemin/secrets"
STOP_MARGIN = 30.0  # seconds beyond gracefulTimeout: ending trees, killing, the last commit
COMMAND_SECONDS = 60.0
_SYSTEM_PLACES = ("/usr/bin", "/usr/local/bin", "/bin")
_COMPLETIONS = {
    "bash": "usr/local/share/bash-completion/completions/kubeminctl",
    "zsh": "usr/local/share/zsh/site-functions/_kubeminctl",
    "fish": "usr/local/share/fish/vendor_completions.d/kubeminctl.fish",
}


class Became(StrEnum):
    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    KEPT = "kept"  # it is the operator's


class Item(msgspec.Struct, frozen=True):
    """One file: its path below the root, and its text, or where it is a link to."""

    path: str
    text: str = ""
    target: str = ""
    yours: bool = False  # the operator's: made once, then left alone


class Step(msgspec.Struct, frozen=True):
    """A command that makes systemd take note, with why it was left out, or how it failed."""

    command: list[str]
    problem: str = ""


def programs() -> tuple[str, str]:
    """The kubemind and kubeminctl that this program belongs to."""
    here = os.path.dirname(os.path.realpath(sys.argv[0]))
    return os.path.join(here, "kubemind"), os.path.join(here, "kubeminctl")


def plan(root: Path, settings: Settings, *, kubemind: str, kubeminctl: str) -> list[Item]:
    """Everything that belongs into the system below `root`."""
    return [
        Item(UNIT, unit(root, settings, kubemind, kubeminctl)),
        Item(SYSUSERS, assets.text("systemd", "kubemin.sysusers.conf")),
        Item(TMPFILES, assets.text("systemd", "kubemin.tmpfiles.conf")),
        Item("etc/kubemin/kubemin.yaml", assets.text("conf", "kubemin.yaml"), yours=True),
        *_links(kubemind, kubeminctl),
        *(Item(path, completions.script(shell)) for shell, path in _COMPLETIONS.items()),
        *_manual(),
    ]


def unit(root: Path, settings: Settings, kubemind: str, kubeminctl: str) -> str:
    """The unit, with this installation's programs, the time that its configuration needs, and the secrets there are."""
    stop = f"{settings.graceful_timeout + STOP_MARGIN:.0f}s"
    text = assets.text("systemd", "kubemin.service")
    for name, value in (("ExecStart", kubemind), ("ExecReload", f"{kubeminctl} reload"), ("TimeoutStopSec", stop)):
        text = re.sub(rf"(?m)^{name}=.*$", lambda _, line=f"{name}={value}": line, text)  # type: ignore[misc]
    secrets = "".join(f"LoadCredential={name}:/{SECRETS}/{name}\n" for name in _secrets(root))
    return text.replace("LoadCredential=signing-key", f"{secrets}LoadCredential=signing-key", 1)


def _secrets(root: Path) -> list[str]:
    """Names that systemd takes (systemd.exec(5), LoadCredential=). Without the rights to look there, none."""
    with contextlib.suppress(OSError):
        return sorted(name for name in os.listdir(root / SECRETS) if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name))
    return []


def _links(kubemind: str, kubeminctl: str) -> Iterator[Item]:
    """So that they are found without the path of a virtual environment."""
    for program in (kubemind, kubeminctl):
        if os.path.dirname(program) not in _SYSTEM_PLACES:
            yield Item(f"usr/local/bin/{os.path.basename(program)}", target=program)


def _manual() -> Iterator[Item]:
    for name in assets.names("man"):
        section = name.rpartition(".")[2]
        if section.isdigit():
            yield Item(f"usr/local/share/man/man{section}/{name}", assets.text("man", name))


# --- carrying it out ----------------------------------------------------------------------------------------------


def put(root: Path, item: Item) -> Became:
    """Raises Refused without the rights to write there."""
    path = root / item.path
    there = os.path.lexists(path)
    if there and (item.yours or _same(path, item)):
        return Became.KEPT if item.yours else Became.UNCHANGED
    if there and item.target and not path.is_symlink():
        return Became.KEPT  # a program of another installation
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, item)
    except PermissionError as exc:
        raise Refused(f"cannot write {path}: {exc.strerror}; try again with sudo", code="no_rights") from exc
    return Became.UPDATED if there else Became.CREATED


def _same(path: Path, item: Item) -> bool:
    if item.target:
        return path.is_symlink() and os.readlink(path) == item.target
    return path.is_file() and not path.is_symlink() and path.read_bytes() == item.text.encode()


def _write(path: Path, item: Item) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if item.target:
            temporary.symlink_to(item.target)
        else:
            temporary.write_text(item.text, encoding="utf-8")
            temporary.chmod(0o644)
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def announce() -> list[Step]:
    """Make the user and the folders, and have systemd read the unit. Only for the root of the running system."""
    commands = [
        ["systemd-sysusers", f"/{SYSUSERS}"],
        ["systemd-tmpfiles", "--create", f"/{TMPFILES}"],
        ["systemctl", "daemon-reload"],
    ]
    return [Step(command, _run(command)) for command in commands]


def _run(command: list[str]) -> str:
    """What went wrong, or nothing."""
    program = shutil.which(command[0])
    if program is None:
        return f"there is no {command[0]} on this machine"
    if command[0] == "systemctl" and not os.path.isdir("/run/systemd/system"):
        return "systemd does not run here"
    try:
        done = subprocess.run(
            [program, *command[1:]], capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError) as exc:
        return str(exc)
    return "" if done.returncode == 0 else " ".join(done.stderr.split()) or f"exit code {done.returncode}"


def hidden(program: str) -> str | None:
    """A folder on the way to `program` that other users may not pass, so that the daemon's user cannot start it."""
    for folder in reversed(Path(program).resolve().parents):
        with contextlib.suppress(OSError):
            if not folder.stat().st_mode & 0o001:
                return str(folder)
    return None
