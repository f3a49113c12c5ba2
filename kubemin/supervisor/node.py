"""What all parts of the supervisor share: identity, settings in force, the scoreboard, and who forks."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple, Protocol

from kubemin.config import ReloadResult, Settings
from kubemin.scoreboard import Scoreboard
from kubemin.supervisor.forking import Forker


class Check(Protocol):
    """The checker (`kubemin/cli/reload.py`). It leaves `settings.json` in the runtime directory; read by
    `read_result`."""

    def prepare(self) -> ReloadResult:
        """At the start: the workflow files."""

    def __call__(self, current: Settings) -> ReloadResult:
        """At a reload: configuration and workflow files, against the settings in force."""


class Entries(NamedTuple):
    """The code of the children. Tests put in their own."""

    worker: Callable[..., int]
    coordinator: Callable[..., int]
    check: Check
    rehearse: Callable[[Settings, Scoreboard], None] = lambda settings, board: None  # before the first fork


class Node:
    def __init__(self, settings: Settings, board: Scoreboard, instance: str, entries: Entries, forker: Forker) -> None:
        self.settings = settings
        self.board = board
        self.instance = instance
        self.entries = entries
        self.forker = forker
        self.pid = os.getpid()

    def file(self, name: str) -> str:
        return os.path.join(self.settings.runtime_dir, name)
