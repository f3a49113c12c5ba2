"""The one place that forks, and what every child does first.

A child blocks all signals until its handlers are its own, dies with the supervisor (PR_SET_PDEATHSIG, then a look at
getppid, because the parent may be gone before the call), and closes what is not its own: all descriptors that the
supervisor holds for others are known here. Without that, end-of-file never comes and a dead process' channels stay
open.
"""

from __future__ import annotations

import gc
import os
import resource
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from kubemin import kernel
from kubemin.errors import KubeminError
from kubemin.exits import EXIT_BUG
from kubemin.supervisor import heap, signals
from kubemin.telemetry import log


class Child(NamedTuple):
    """A process to be forked: runs `main`, whose return value is its exit code, and keeps the descriptors `keep`.

    `limited`: it gets back the soft descriptor limit that the daemon was started with, as steps expect it.
    """

    main: Callable[[], int]
    role: str
    keep: Collection[int] = ()
    limited: bool = False


class Forker:
    """Forks children of the supervisor. `private` holds the descriptors that a child must not keep, unless named."""

    def __init__(self) -> None:
        self.private: set[int] = set()
        self._filling: list[bytes] = []
        self._soft_limit = _raise_descriptor_limit()

    def own(self, fds: Iterable[int]) -> None:
        self.private.update(fds)

    def disown(self, fds: Collection[int]) -> None:
        """Close descriptors that are needed no more."""
        self.private.difference_update(fds)
        for fd in fds:
            os.close(fd)

    def prepare(self) -> None:
        """Once, when everything is imported: neither the collector nor a child's own objects touch the pages that
        these objects are on, so they stay shared."""
        gc.collect()
        self._filling = heap.filling()
        gc.freeze()

    def fork(self, child: Child) -> int:
        """Raises OSError (no more processes)."""
        pids, refusal = self.fork_row([child])
        if refusal is not None:
            raise refusal
        return pids[0]

    def fork_row(self, children: Sequence[Child]) -> tuple[list[int], OSError | None]:
        """Fork them one right after the other: as many as can be had, and why there are no more.

        Whatever this process does between two forks, it does on pages that it shares with the child before, which is
        left with the only copy of each: 0.5 MB for every worker of a pool that is forked one by one.
        """
        pids: list[int] = []
        refusal = None
        parent = os.getpid()
        before = kernel.set_mask(kernel.EVERY_SIGNAL)
        try:
            for child in children:
                pid = os.fork()
                if pid == 0:
                    self._become(child, parent)
                pids.append(pid)
        except OSError as exc:
            refusal = exc
        finally:
            kernel.set_mask(before)
        return pids, refusal

    def _become(self, child: Child, parent: int) -> None:
        """Never returns, and never lets an exception back into the supervisor's code."""
        code = EXIT_BUG
        try:
            kernel.die_with_parent(parent)
            signals.reset_in_child()
            os.setpgid(0, 0)  # what the terminal sends (Ctrl-C) is for the supervisor
            _close(self.private.difference(child.keep))
            if child.limited:
                _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
                resource.setrlimit(resource.RLIMIT_NOFILE, (self._soft_limit, hard))
            log.become(child.role)
            kernel.set_mask(kernel.NO_SIGNAL)
            code = child.main()
        except KubeminError as exc:
            log.error(str(exc))
            code = exc.exit_code
        except SystemExit as exc:
            code = exc.code if isinstance(exc.code, int) else 1
        except BaseException as exc:
            log.exception("unexpected error", exc)
        finally:
            _flush()
            os._exit(code & 0xFF)


def _close(fds: Iterable[int]) -> None:
    """Close descriptors, in as few calls as there are gaps between them."""
    runs: list[tuple[int, int]] = []  # [start, end)
    for fd in sorted(fds):
        if runs and runs[-1][1] == fd:
            runs[-1] = runs[-1][0], fd + 1
        else:
            runs.append((fd, fd + 1))
    for start, end in runs:
        os.closerange(start, end)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue


def _raise_descriptor_limit() -> int:
    """Four descriptors a worker are held here: take all that is allowed, and return the soft limit that was."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft
