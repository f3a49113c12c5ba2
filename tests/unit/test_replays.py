"""The tokens that a node has begun (`kubemin/worker/fleet/replays.py`): real files, real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kubemin.worker.fleet import replays
from kubemin.worker.fleet.replays import BUCKETS, RECORDS, Replays

ADMIT = """
import sys
from kubemin.worker.fleet.replays import Replays
print(Replays(sys.argv[1]).admit("run", "step", int(sys.argv[2])))
"""


def admit(folder: Path, token: int, fault: str = "") -> tuple[int, str]:
    """By another process: exit status and answer."""
    environ = {**os.environ, "KUBEMIN_FAULT": fault}
    done = subprocess.run(
        [sys.executable, "-c", ADMIT, str(folder), str(token)], env=environ, capture_output=True, text=True
    )
    return done.returncode, done.stdout.strip()


def test_a_token_has_to_rise(tmp_path: Path) -> None:
    known = Replays(str(tmp_path))
    assert known.admit("run", "a", 5)
    assert not known.admit("run", "a", 5) and not known.admit("run", "a", 4)
    assert known.admit("run", "b", 5) and known.admit("other", "a", 5) and known.admit("run", "a", 6)
    assert not known.admit("run", "c", -1) and not known.admit("run", "c", 1 << 70)
    known.close()
    again = Replays(str(tmp_path))  # a restart
    assert not again.admit("run", "a", 6) and again.admit("run", "a", 7)
    again.close()


def test_all_workers_of_a_node_know_the_same(tmp_path: Path) -> None:
    assert admit(tmp_path, 5) == (0, "True")
    assert admit(tmp_path, 5) == (0, "False")
    assert admit(tmp_path, 6) == (0, "True")


@pytest.mark.parametrize(("point", "again"), [("replays.noting", "True"), ("replays.noted", "False")])
def test_a_worker_that_dies_leaves_the_old_record_or_the_new_one(tmp_path: Path, point: str, again: str) -> None:
    assert admit(tmp_path, 3) == (0, "True")
    assert admit(tmp_path, 5, f"{point}=kill") == (-signal.SIGKILL, "")
    assert admit(tmp_path, 5) == (0, again)
    assert admit(tmp_path, 3) == (0, "False") and admit(tmp_path, 6) == (0, "True")


def test_a_full_bucket_forgets_its_lowest_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "_place", lambda run, step: (BUCKETS - 1, int(step)))
    known = Replays(str(tmp_path))
    for n in range(1, RECORDS + 2):
        assert known.admit("run", str(n), 100 + n)
    assert [known.admit("run", str(n), 100 + n) for n in range(2, RECORDS + 2)] == [False] * RECORDS
    assert known.admit("run", "1", 101)
    known.close()


HOLD = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_bucket_that_is_held_too_long_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "LOCK_SECONDS", 0.05)
    known = Replays(str(tmp_path))
    command = [sys.executable, "-c", HOLD, str(tmp_path / "tokens")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(OSError, match="temporarily unavailable"):
            known.admit("run", "a", 1)
        holder.communicate()
    assert known.admit("run", "a", 1)
    known.close()
