"""A reload: check (in a child), try (one canary worker), take over, replace the others.

At the start the same check runs once beside the forks, for the workflow files alone. Requests that come while one is
under way are answered by one more afterwards: a storm of 1,000 HUPs is two reloads.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from enum import Enum, auto

import msgspec

from kubemin.config import ReloadResult, Settings, read_result
from kubemin.config.describe import shown
from kubemin.errors import KubeminError
from kubemin.proctitle import set_title
from kubemin.supervisor.coordinator import Keeper
from kubemin.supervisor.forking import Child
from kubemin.supervisor.node import Node
from kubemin.supervisor.pool import Canary, Pool
from kubemin.supervisor.slots import ending
from kubemin.telemetry import log

CHECK_SECONDS = 300.0  # for the child that reads the files: 50 MB of YAML take 20 s, and longer on a busy machine
CANARY_SECONDS = 30.0  # for the first worker with new settings to become idle
PUBLISH_SECONDS = 10.0  # for the coordinator to have the workflows in the store; a slow disk does not undo a reload
_LOOK = 0.005
_FILES = ("settings.json", "definitions.json")  # what the check leaves


class Phase(Enum):
    IDLE = auto()
    CHECKING = auto()
    TRYING = auto()
    PUBLISHING = auto()


class Outcome(msgspec.Struct, frozen=True):
    """`request` is the id from wanted.json, "" when only a signal came. `text` may have several lines."""

    request: str
    ok: bool
    text: str


class Reload:
    def __init__(self, node: Node, pool: Pool, keeper: Keeper, done: Callable[[Outcome], None]) -> None:
        self.checker: int | None = None
        self.checked = False  # the first check, of the start, is over
        self._node = node
        self._pool = pool
        self._keeper = keeper
        self._done = done
        self._phase = Phase.IDLE
        self._first = False
        self._request = ""
        self._again: str | None = None  # another one was asked for meanwhile
        self._deadline = 0.0
        self._overdue = False  # the checker was killed for the time that it took
        self._canary: Canary | None = None
        self._result: ReloadResult | None = None

    @property
    def active(self) -> bool:
        return self._phase is not Phase.IDLE

    @property
    def again(self) -> bool:
        """Another one follows."""
        return self._again is not None

    def next_due(self, now: float) -> float:
        if self._phase in (Phase.TRYING, Phase.PUBLISHING):
            return _LOOK
        return max(0.0, self._deadline - now) if self.active else float("inf")

    def check_at_start(self, now: float) -> None:
        self._first = True
        self._check(now)

    def request(self, request: str, now: float) -> None:
        """Reload now, or once more after the one that is under way."""
        if self.active:
            self._again = request or self._again or ""
        else:
            self._request = request
            self._check(now)

    def maintain(self, now: float) -> None:
        if self._phase is Phase.CHECKING and now >= self._deadline and self.checker is not None:
            os.kill(self.checker, signal.SIGKILL)  # its death is noted by `reap`
            self._overdue = True
            self._deadline = now + CHECK_SECONDS
        elif self._phase is Phase.TRYING:
            self._look_at_canary(now)
        elif self._phase is Phase.PUBLISHING and (self._keeper.published or now >= self._deadline):
            self._finish()
        if self._again is not None and not self.active:
            self._request, self._again = self._again, None
            self._check(now)

    def reap(self, pid: int, status: int, now: float) -> bool:
        if pid != self.checker:
            return False
        self.checker = None
        if self._phase is Phase.CHECKING:
            self._judge(status, now)
        return True

    def abort(self) -> None:
        """The daemon stops."""
        if self.checker is not None:
            os.kill(self.checker, signal.SIGKILL)
        active, self._phase = self.active and not self._first, Phase.IDLE
        for request in ([self._request] if active else []) + ([self._again] if self._again is not None else []):
            self._done(Outcome(request, False, "not reloaded: the daemon is stopping"))
        self._again, self.checked = None, True

    # --- check --------------------------------------------------------------------------------------------------------

    def _check(self, now: float) -> None:
        node, first = self._node, self._first
        self._phase, self._deadline, self._overdue = Phase.CHECKING, now + CHECK_SECONDS, False
        _keep_files(node)

        def child() -> int:
            set_title("kubemin: checking configuration")
            if first:
                node.entries.check.prepare()
            else:
                node.entries.check(node.settings)
            return 0

        try:
            self.checker = node.forker.fork(Child(child, role="checker"))
        except OSError as exc:
            self._failed(f"the configuration cannot be checked: no process can be forked ({exc.strerror})")

    def _judge(self, status: int, now: float) -> None:
        if status != 0:
            late = f"; it may take {CHECK_SECONDS:.0f} s" if self._overdue else ""
            self._failed(f"the check of the configuration {ending(status)}{late}")
            return
        try:
            result: ReloadResult = read_result(self._node.settings.runtime_dir)
        except KubeminError as exc:
            self._failed(str(exc))
            return
        if self._first:
            self._take_definitions(result)
        elif not result.ok or result.settings is None:
            self._failed("\n".join(str(problem) for problem in result.problems) or "the configuration is not valid")
        else:
            self._try(result, result.settings, now)

    def _take_definitions(self, result: ReloadResult) -> None:
        """The start: wrong workflow files are told, the others are published."""
        for problem in result.problems:
            log.error("a file is not valid", problem=str(problem))
        self._phase, self._first, self.checked = Phase.IDLE, False, True
        self._keeper.reload()

    # --- try ----------------------------------------------------------------------------------------------------------

    def _try(self, result: ReloadResult, settings: Settings, now: float) -> None:
        self._result = result
        self._phase, self._deadline = Phase.TRYING, now + CANARY_SECONDS
        generation = self._pool.generation + 1
        self._canary = self._pool.start_canary(generation, settings)

    def _look_at_canary(self, now: float) -> None:
        assert self._canary is not None
        if self._pool.canary_idle():
            self._accept(self._canary, now)
        elif self._canary.failure is not None:
            self._give_up(f"a worker with the new settings {self._canary.failure}; the old ones stay")
        elif now >= self._deadline:
            late = f"was not ready after {CANARY_SECONDS:.0f} s"
            self._give_up(f"a worker with the new settings {late}; the old ones stay")

    def _give_up(self, text: str) -> None:
        self._pool.drop_canary()
        _put_files_back(self._node)
        self._failed(text)

    def _accept(self, canary: Canary, now: float) -> None:
        before = self._node.settings
        self._node.settings = canary.settings
        if canary.settings.max_workers != before.max_workers:
            self._pool.want = canary.settings.max_workers
        self._pool.accept_canary()
        log.set_level(canary.settings.log.level)
        self._keeper.reload()
        self._phase, self._deadline = Phase.PUBLISHING, now + PUBLISH_SECONDS

    def _finish(self) -> None:
        self._phase = Phase.IDLE
        assert self._result is not None
        self._done(Outcome(self._request, True, _told(self._result)))

    def _failed(self, text: str) -> None:
        first, self._first = self._first, False
        self._phase, self.checked = Phase.IDLE, True
        if first:
            log.error("the workflow files could not be read", reason=text)
        else:
            self._done(Outcome(self._request, False, text))


def _told(result: ReloadResult) -> str:
    lines = [f"{change.key}: {' -> '.join(shown(change))} ({change.applies})" for change in result.changes]
    return "\n".join(["reloaded" if lines else "reloaded; no setting changed", *lines])


def _keep_files(node: Node) -> None:
    """The check replaces these files by rename; hard links keep the old ones, in case the canary fails."""
    for name in _FILES:
        with contextlib.suppress(OSError):
            os.unlink(node.file(f"{name}.kept"))
        with contextlib.suppress(OSError):
            os.link(node.file(name), node.file(f"{name}.kept"))


def _put_files_back(node: Node) -> None:
    for name in _FILES:
        with contextlib.suppress(OSError):
            os.rename(node.file(f"{name}.kept"), node.file(name))
