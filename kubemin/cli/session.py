"""What one command works with: its settings, its client, its rights, and how it answers.

As root, everything that touches the daemon's files is done as the owner of the state directory, so that no file of
root's is left there that the daemon could not write. The change is for good, for this process.
"""

from __future__ import annotations

import os
import pwd
from functools import cached_property
from typing import TYPE_CHECKING

from kubemin.errors import Invalid, KubeminError

if TYPE_CHECKING:
    from kubemin.client import Client
    from kubemin.config import Settings


class Session:
    """One command's surroundings. `flags` are settings given on the command line, by key."""

    def __init__(self) -> None:
        self.config: str | None = None
        self.flags: dict[str, str] = {}
        self.json = False

    @cached_property
    def settings(self) -> Settings:
        """What the configuration says; where it is wrong, what the running daemon goes by, and a word about it.

        So that a daemon can be looked at, drained and stopped whatever somebody has written since it started. Raises
        Invalid with every problem when no daemon runs.
        """
        from kubemin.config.load import examine

        settings, invalid = examine(self.config, self.flags)
        if invalid is None:
            return settings
        in_force = _in_force(settings)
        if in_force is None:
            raise invalid
        _tell_wrong(invalid)
        return in_force

    @cached_property
    def written_settings(self) -> Settings:
        """What the configuration says, whatever a daemon goes by. Raises Invalid with every problem."""
        from kubemin.config import load_settings

        return load_settings(self.config, self.flags)

    @cached_property
    def client(self) -> Client:
        """The engine, used as its owner."""
        from kubemin.client import Client

        become_owner(self.settings.state_dir)
        return Client.from_settings(self.settings)


def _in_force(settings: Settings) -> Settings | None:
    """Of the daemon at this runtime directory, which it leaves there at its start and at each reload."""
    from kubemin.cli.pool import live_pid
    from kubemin.config.reload import read_result

    try:
        return read_result(settings.runtime_dir).settings if live_pid(settings) is not None else None
    except KubeminError:
        return None


def _tell_wrong(invalid: Invalid) -> None:
    from kubemin.cli import render

    render.error(invalid, as_json=False)
    render.note(f"{render.PROGRAM}: the configuration is wrong (see above); going by what the running daemon goes by")


def become_owner(directory: str) -> None:
    """As root, become the user that `directory` belongs to. Otherwise, and when it does not exist, nothing."""
    if os.geteuid() != 0:
        return
    try:
        info = os.stat(directory)
    except OSError:
        return
    if info.st_uid != 0:
        _become(info.st_uid, info.st_gid)


def _become(uid: int, gid: int) -> None:
    try:
        entry = pwd.getpwuid(uid)
        os.initgroups(entry.pw_name, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.environ["HOME"] = entry.pw_dir  # what is looked for at home is the daemon's, as ~/.kube/config
    except KeyError:  # a user without a name: the directory's group is all that is known
        os.setgroups([])
        os.setgid(gid)
    os.setuid(uid)
