"""A program with several clients keeps its hold on the database.

POSIX locks belong to a process: a descriptor of the file that is closed past SQLite takes away the locks of all its
connections. The daemon then believes that nobody reads when it stops, and removes the write-ahead log under a reader;
what the same program writes next goes into a log that no one will read, and is lost.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from kubemin import Client

WRITES_AND_STOPS = """
import sys
from kubemin.store.sqlite.store import SqliteStore
store = SqliteStore(sys.argv[1], instance="daemon")
store.pause("some")
store.close()
"""


def client(folder: Path) -> Client:
    return Client(state_dir=str(folder), runtime_dir=str(folder))


def test_another_client_of_the_same_program_takes_no_lock_away(tmp_path: Path) -> None:
    one, two = client(tmp_path), client(tmp_path)
    first = one.enqueue("some.module:function")
    assert one.states([first]) == {first.id: "waiting"}
    assert two.states([first]) == {first.id: "waiting"}
    subprocess.run([sys.executable, "-c", WRITES_AND_STOPS, str(tmp_path / "kubemin.db")], check=True, timeout=30)
    assert (tmp_path / "kubemin.db-wal").exists(), "the readers' locks were gone"
    second = two.enqueue("some.module:function")
    for each in (one, two, client(tmp_path)):
        assert each.states([first, second]) == {first.id: "waiting", second.id: "waiting"}
        each.close()
