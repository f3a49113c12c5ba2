"""The pid file: `PID STARTTIME`, so that neither a stale nor a reused pid is ever signalled.

The supervisor writes it, `kubeminctl` reads it. May touch: that file, pidfds.
"""

from __future__ import annotations

import contextlib
import os
import signal

from kubemin import processes, users
from kubemin.errors import Refused, Unreachable


def write(path: str) -> None:
    """Name this process in `path`, atomically. Raises OSError."""
    me = processes.look(os.getpid())
    assert me is not None
    temporary = f"{path}.new"
    with open(temporary, "w", encoding="ascii") as file:
        file.write(f"{me.pid} {me.start}\n")
    os.rename(temporary, path)


def remove(path: str) -> None:
    """Remove the file if it names this process."""
    process = _read(path)
    if process is not None and process.pid == os.getpid():
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def read_live(path: str) -> int | None:
    """The pid of the daemon, if it is alive."""
    fd = _open(path)
    if fd is None:
        return None
    pid, descriptor = fd
    os.close(descriptor)
    return pid


def send(path: str, number: int) -> int:
    """Signal the daemon and return its pid. Raises Unreachable when it does not run, Refused when this user may not."""
    found = _open(path)
    if found is None:
        raise Unreachable(f"the daemon is not running ({path} names no live process)")
    pid, descriptor = found
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError as exc:
        raise Unreachable(f"the daemon (pid {pid}) has just ended") from exc
    except PermissionError as exc:
        message = f"{users.name_of(os.geteuid())} may not signal process {pid}, which {path} names; try again with sudo"
        raise Refused(message, code="no_rights") from exc
    finally:
        os.close(descriptor)
    return pid


def _open(path: str) -> tuple[int, int] | None:
    """(pid, pidfd) of the live process that the file names."""
    process = _read(path)
    if process is None:
        return None
    fd = processes.open_process(process)
    return None if fd is None else (process.pid, fd)


def _read(path: str) -> processes.Process | None:
    try:
        with open(path, encoding="ascii") as file:
            pid, start = (int(word) for word in file.read(100).split())
    except (OSError, ValueError):
        return None
    return processes.Process(pid, 0, start, "") if pid > 0 else None
