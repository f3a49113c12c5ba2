"""Control of the daemon: what is wanted goes into a file, a signal says that it is there, the scoreboard answers.

Signals coalesce and carry nothing, so each request has an id, and its outcome is read by that id (docs/design.md
section 2). The daemon's loop is never held up, so one that has not even read a request after a few seconds is stopped
or hangs: whoever waits is told so, and not after the time that a reload may take.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

from kubemin import __version__, clock, processes
from kubemin.cli.pool import live_pid, no_daemon, pid_path, read_pool, scoreboard_path
from kubemin.cli.session import become_owner
from kubemin.errors import KubeminError, Refused, StoreUnavailable, Unreachable
from kubemin.model.ids import run_id
from kubemin.scoreboard import Header, Scoreboard
from kubemin.supervisor import pidfile, wanted

if TYPE_CHECKING:
    from kubemin.config import Settings

LOOK = 0.02  # seconds between two looks at the scoreboard
SILENCE = 8.0  # seconds without a sign of life before it is said that there is none


class Outcome(KubeminError):
    """The daemon carried a request out and it failed."""

    code = "request_failed"


def request(
    settings: Settings,
    number: signal.Signals,
    *,
    workers: int | None = None,
    drained: bool | None = None,
    timeout: float,
) -> str:
    """Ask, and wait for the outcome's text. Raises Outcome when it failed, Unreachable, Refused."""
    pid = _daemon(settings)
    deadline = clock.monotonic() + timeout
    with _alone(settings, deadline), closing(Scoreboard.open(scoreboard_path(settings))) as board:
        wish = wanted.Wanted(request=run_id(), workers=workers, drained=drained)
        _write(settings, wish)
        pidfile.send(pid_path(settings), number)
        header = _answer(settings, board, pid, wish.request, deadline)
    if not header.outcome_ok:
        raise Outcome(header.outcome or "the daemon could not do it; see its log")
    return header.outcome


def _daemon(settings: Settings) -> int:
    """The daemon's pid. As root we become the owner of the runtime directory before we believe what is in it: he may
    name processes of his own there to be signalled, and nobody else's."""
    become_owner(settings.runtime_dir)
    pid = live_pid(settings)
    if pid is None:
        raise no_daemon(settings)
    return pid


@contextmanager
def _alone(settings: Settings, deadline: float) -> Iterator[None]:
    """One request at a time: the file holds one wish, and a second would take the first one's place unread."""
    fd = os.open(settings.runtime_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        while not _lock(fd):
            if clock.monotonic() >= deadline:
                raise Unreachable("another kubeminctl waits for the daemon's answer; try again", code="no_answer")
            time.sleep(LOOK)
        yield
    finally:
        os.close(fd)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(settings: Settings, wish: wanted.Wanted) -> None:
    try:
        wanted.write(settings.runtime_dir, wish)
    except PermissionError:
        raise Refused(
            f"this user may not control the daemon ({settings.runtime_dir} is not writable); try again with sudo",
            code="no_rights",
        ) from None
    except OSError as exc:
        raise StoreUnavailable(f"cannot write in {settings.runtime_dir}: {exc.strerror}") from exc


def _answer(settings: Settings, board: Scoreboard, pid: int, id: str, deadline: float) -> Header:
    heard = clock.monotonic()
    while (now := clock.monotonic()) < deadline:
        header = board.read_header()
        if header is not None and header.request == id:
            return header
        if live_pid(settings) is None:
            raise Unreachable("the daemon ended before it answered; see its log", code="no_daemon")
        heard = now if _has_taken(header, id) and not processes.is_halted(pid) else heard
        if now > heard + SILENCE:
            raise no_reaction(pid, "what was asked for is done when it goes on")
        time.sleep(LOOK)
    raise Unreachable(
        "the daemon has not answered in time; it may still be at it: see `kubeminctl status` and its log",
        code="no_answer",
    )


def _has_taken(header: Header | None, id: str) -> bool:
    """One of another version may not tell: it is taken for granted."""
    return header is not None and (header.taken == id or header.version != __version__)


def no_reaction(pid: int, then: str) -> Unreachable:
    """Of a supervisor that is alive and does nothing."""
    if processes.is_halted(pid):
        what = f"it is stopped (SIGSTOP, or a debugger); `kill -CONT {pid}` lets it go on"
    else:
        what = "its loop hangs; see its log"
    return Unreachable(
        f"the daemon (pid {pid}) does not answer: {what}, `systemctl restart kubemin` starts it anew and loses no "
        f"run; {then}",
        code="no_answer",
    )


def stop(settings: Settings, *, now: bool, timeout: float) -> int:
    """Ask the daemon to stop and wait until it is gone; its pid. Raises Unreachable, Refused."""
    pid = _daemon(settings)
    fd = os.pidfd_open(pid)
    try:
        pidfile.send(pid_path(settings), signal.SIGINT if now else signal.SIGTERM)
        with suppress(ProcessLookupError):  # as systemd does: one that is stopped (SIGSTOP) is to end as well
            signal.pidfd_send_signal(fd, signal.SIGCONT)
        _await_end(settings, pid, fd, timeout)
    finally:
        os.close(fd)
    return pid


def _await_end(settings: Settings, pid: int, fd: int, timeout: float) -> None:
    """Raises Unreachable when it is still there after `timeout` seconds, or has not even begun to stop."""
    deadline = clock.monotonic() + timeout
    begin = min(SILENCE, timeout)
    if _ended(fd, begin):
        return
    if timeout > begin and not read_pool(settings).stopping:
        raise no_reaction(pid, "`kill -KILL` ends it, and its tasks run again")
    if not _ended(fd, deadline - clock.monotonic()):
        raise Unreachable(f"the daemon (pid {pid}) has not ended in {timeout:g} s; see its log", code="no_answer")


def _ended(fd: int, timeout: float) -> bool:
    return bool(select.select([fd], [], [], max(0.0, timeout))[0])
