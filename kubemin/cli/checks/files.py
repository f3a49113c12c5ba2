"""Directories, the state lock and the store."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import closing

from kubemin import clock
from kubemin.cli.checks.base import Finding, note, ok, wrong
from kubemin.cli.pool import live_pid
from kubemin.config import Settings
from kubemin.errors import StoreUnavailable
from kubemin.modes import in_fleet
from kubemin.users import name_of

SCARCE = 1024**3  # bytes of free disk that deserve a note
TOO_LITTLE = 64 * 1024**2
CHECKING = 60.0  # seconds that the check of a large store may take


def directories(settings: Settings) -> Iterator[Finding]:
    for name, path in (("stateDir", settings.state_dir), ("runtimeDir", settings.runtime_dir)):
        yield _directory(name, path)


def _directory(name: str, path: str) -> Finding:
    try:
        info = os.stat(path)
    except FileNotFoundError:
        return note(name, f"{path} does not exist; the daemon makes it when it starts")
    except OSError as exc:
        return wrong(name, f"{path}: {exc.strerror}; see kubeminctl doctor as root or as the daemon's user")
    if not stat.S_ISDIR(info.st_mode):
        return wrong(name, f"{path} is not a folder; set {name} to one")
    if info.st_mode & stat.S_IWOTH:
        return wrong(name, f"{path} may be written by everybody, who could run commands as you; chmod 0750 {path}")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return note(name, f"{path} belongs to {name_of(info.st_uid)}, and this user may not write there")
    return ok(name, f"{path}, of {name_of(info.st_uid)}, mode {stat.S_IMODE(info.st_mode):04o}")


def lock(settings: Settings) -> Iterator[Finding]:
    """The lock and the pid file have to tell the same story."""
    held, pid = _held(os.path.join(settings.state_dir, "lock")), live_pid(settings)
    if held is None:
        yield note("lock", f"{settings.state_dir}/lock cannot be looked at by this user")
    elif held and pid is None:
        yield wrong(
            "lock",
            f"{settings.state_dir} is in use and no daemon runs on {settings.runtime_dir}: another runtimeDir, or "
            f"processes of a dead daemon; see fuser -v {settings.state_dir}/lock",
        )
    elif pid is not None and not held:
        yield wrong(
            "lock", f"daemon {pid} runs and holds no lock on {settings.state_dir}; is its stateDir another one?"
        )
    elif pid is None:
        yield note("daemon", "no daemon is running; start it: systemctl start kubemin, or kubemind")
    else:
        yield ok("daemon", f"daemon {pid} runs and holds {settings.state_dir}")


def _held(path: str) -> bool | None:
    """None: not known."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def store(settings: Settings) -> Iterator[Finding]:
    path = os.path.join(settings.state_dir, "kubemin.db")
    if not os.path.exists(path):
        if not in_fleet(settings):  # which needs it in the fall-back alone
            yield note("store", f"there is no {path} yet; the daemon, or the first submission, makes it")
        return
    yield _integrity(path)


def _integrity(path: str) -> Finding:
    from kubemin.store.sqlite import database

    begun, end = time.perf_counter(), clock.monotonic() + CHECKING
    try:
        with closing(database.connect_reader(path)) as connection, database.translated(path):
            connection.set_progress_handler(lambda: int(clock.monotonic() > end), 100_000)
            answer = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except StoreUnavailable as exc:
        if getattr(exc.__cause__, "sqlite_errorname", "") == "SQLITE_INTERRUPT":
            return note("store", f"{path} is so large that its check did not end in {CHECKING:g} s")
        return wrong("store", str(exc))
    if answer != "ok":
        return wrong("store", f"{path} is damaged ({answer}); stop the daemon and put the last backup in its place")
    took = time.perf_counter() - begun
    return ok("store", f"{path}, {os.path.getsize(path)} bytes, is whole (looked at in {took:.1f} s)")


def disk(settings: Settings) -> Iterator[Finding]:
    try:
        found = os.statvfs(settings.state_dir)
    except OSError:
        return
    free = found.f_bavail * found.f_frsize
    message = f"{free // 1024**2} MiB are free for {settings.state_dir}"
    if free < TOO_LITTLE or (found.f_files and found.f_favail < 100):
        yield wrong("disk", f"{message}, {found.f_favail} inodes; make room, or nothing is accepted any more")
    elif free < SCARCE:
        yield note("disk", f"{message}; make room before nothing is accepted any more")
    else:
        yield ok("disk", message)
