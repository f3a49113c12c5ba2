"""What happens before the loop: the state lock, what a predecessor left, the scoreboard, the pid file.

The order matters. The lock first: it proves that the predecessor is gone. Then its scoreboard is read (which tasks it
had begun) and what its steps left is killed, before the coordinator may hand these tasks out again.
"""

from __future__ import annotations

import contextlib
import os
from fnmatch import fnmatchcase

from kubemin import __version__, processes
from kubemin.clock import boottime
from kubemin.config import Settings
from kubemin.errors import KubeminError, StoreUnavailable
from kubemin.scoreboard import Scoreboard, SlotState
from kubemin.steps.containment import prepare_delegation
from kubemin.steps.environment import instance_marker
from kubemin.steps.scratch import clear_slots
from kubemin.supervisor import orphans, pidfile, wanted
from kubemin.supervisor.coordinator import Started
from kubemin.telemetry import log

PID_FILE = "kubemin.pid"
SCOREBOARD = "scoreboard"
SOCKET = "kubemin.sock"
PASSING = ("*.tmp", "*.kept", "output-*")  # in the runtime directory: what somebody who was killed had no time for
CHECK_RESULT = "settings.json"


def make_directories(settings: Settings) -> None:
    """Usually there already. Raises StoreUnavailable."""
    for path in (settings.state_dir, settings.runtime_dir):
        try:
            os.makedirs(path, mode=0o750, exist_ok=True)
        except OSError as exc:
            raise StoreUnavailable(f"cannot make {path}: {exc.strerror}; make it, or set another", fatal=True) from exc


def read_predecessor(path: str) -> list[Started]:
    """(run, idx, token) of what the workers of the last scoreboard were executing when it died."""
    try:
        board = Scoreboard.open(path)
    except KubeminError:
        return []
    records = [record for slot in range(board.slots) if (record := board.read_slot(slot)) is not None]
    board.close()
    begun = (SlotState.RUNNING, SlotState.REPORTING, SlotState.STOPPING, SlotState.DEAD)
    return [(r.run, r.idx, r.token) for r in records if r.run and r.state in begun]


def prepare_steps(settings: Settings) -> None:
    """The control group of the steps, where one is delegated; and nothing of a dead daemon's steps is left."""
    prepare_delegation()
    marker = instance_marker(settings.state_dir)
    killed = orphans.kill_leftovers(marker)
    if killed:
        log.warning("processes that a dead daemon's steps had left were killed", processes=killed)
    clear_slots(settings, marker, settings.max_workers)  # workers clear their own


def make_board(settings: Settings, instance: str) -> Scoreboard:
    """The new scoreboard, with its header. Raises StoreUnavailable."""
    board = Scoreboard.create(os.path.join(settings.runtime_dir, SCOREBOARD))
    me = processes.look(os.getpid())
    assert me is not None
    board.write_header(
        instance=instance,
        node=settings.node_id,
        version=__version__,
        generation=1,
        supervisor_pid=me.pid,
        supervisor_start=me.start,
        started=boottime(),
        max_workers=settings.max_workers,
    )
    return board


def claim_runtime(settings: Settings) -> None:
    """The pid file is ours; what was checked by or wanted of a predecessor is not. Raises StoreUnavailable."""
    _forget(settings, CHECK_RESULT, wanted.NAME, *PASSING)
    path = os.path.join(settings.runtime_dir, PID_FILE)
    try:
        pidfile.write(path)
    except OSError as exc:
        raise StoreUnavailable(f"cannot write {path}: {exc.strerror}", fatal=True) from exc


def leave(settings: Settings) -> None:
    """All processes have ended."""
    pidfile.remove(os.path.join(settings.runtime_dir, PID_FILE))
    _forget(settings, SOCKET, *PASSING)
    clear_slots(settings, instance_marker(settings.state_dir))


def _forget(settings: Settings, *patterns: str) -> None:
    """Files of the runtime directory."""
    with contextlib.suppress(OSError):
        for name in os.listdir(settings.runtime_dir):
            if any(fnmatchcase(name, pattern) for pattern in patterns):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(settings.runtime_dir, name))


def new_instance() -> str:
    return os.urandom(16).hex()
