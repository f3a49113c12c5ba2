"""What a disk, another program or a power cut does to the file, and what is said about it."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from driving import ALICE, BOB, accept, complete_all, finish, of, outcome, single, start, take
from engines import CHECKS, Sqlite
from graphs import node, workflow

from kubemin.errors import NotFound, Refused, StoreUnavailable
from kubemin.model.graph import Concurrency, Retry
from kubemin.model.ids import run_id
from kubemin.model.records import Owner
from kubemin.model.states import RunState, TaskState
from kubemin.store.sqlite import database
from kubemin.store.sqlite.reader import SqliteReader
from kubemin.store.sqlite.store import SqliteStore

CHAIN = workflow("chain", node("a"), node("b", 0))


@pytest.fixture
def local(folder: Path) -> Iterator[Sqlite]:
    engine = Sqlite(folder)
    yield engine
    engine.close()


# --- opening ---


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_file_has_the_same_rights_whoever_makes_it(folder: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        SqliteStore(str(folder / "kubemin.db"), instance="x").close()
    finally:
        os.umask(before)
    assert (folder / "kubemin.db").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("opener", [SqliteReader, lambda path: SqliteStore(path, instance="x")])
def test_a_file_that_is_no_database(folder: Path, opener) -> None:  # type: ignore[no-untyped-def]
    path = folder / "kubemin.db"
    path.write_bytes(b"this is no database" * 1000)
    with pytest.raises(StoreUnavailable, match=r"not a kubemin database.*backup") as caught:
        opener(str(path))
    assert caught.value.fatal and path.read_bytes().startswith(b"this is no")


def test_a_database_of_another_program(folder: Path) -> None:
    path = str(folder / "kubemin.db")
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    with pytest.raises(StoreUnavailable, match="another program") as caught:
        SqliteStore(path, instance="x")
    assert caught.value.fatal


@pytest.mark.parametrize("made", ["touched", "opened"])
def test_a_file_whose_maker_died_before_its_first_commit_holds_nothing(folder: Path, made: str) -> None:
    path = folder / "kubemin.db"
    path.touch()
    if made == "opened":
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
    with pytest.raises(StoreUnavailable, match="holds nothing yet") as caught:
        SqliteReader(str(path)).queues()
    assert caught.value.code == "no_store"
    SqliteStore(str(path), instance="x").close()
    assert SqliteReader(str(path)).queues() == []


def test_a_newer_schema_is_refused(local: Sqlite) -> None:
    local.store._session.db.execute("PRAGMA user_version = 999")
    for opener in (SqliteReader, lambda path: SqliteStore(path, instance="x")):
        with pytest.raises(StoreUnavailable, match="newer kubemin") as caught:
            opener(local.path)
        assert caught.value.fatal


def test_a_reader_without_a_file(folder: Path) -> None:
    with pytest.raises(StoreUnavailable, match="no such file") as caught:
        SqliteReader(str(folder / "kubemin.db"))
    assert caught.value.code == "no_store" and not list(folder.iterdir())


def test_a_folder_that_is_not_there(folder: Path) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        SqliteStore(str(folder / "none" / "kubemin.db"), instance="x")


@pytest.mark.parametrize("version", range(1, len(database.migrations())))
def test_a_file_of_an_earlier_schema_is_read_and_brought_up_to_date(folder: Path, version: int) -> None:
    """By a reader as it is, before any daemon of this version; by the next daemon with a copy made first."""
    path, run = str(folder / "kubemin.db"), run_id()
    old = sqlite3.connect(path)
    for number, sql in database.migrations()[:version]:
        old.executescript(f"{sql};PRAGMA application_id = {database.APPLICATION_ID};PRAGMA user_version = {number};")
    task = (
        "INSERT INTO tasks (run, idx, node, state, flags, open, queue, seq, attempt, token, strikes, submitted, spec) "
    )
    old.execute(task + "VALUES (?, 0, 0, 1, 256, 0, 'default', 1, 0, 0, 0, 1, ?)", (run, b'{"python": "m:f"}'))
    old.commit()
    old.close()
    reader = SqliteReader(path)
    assert reader.states([run, "0" * 20]) == {run: RunState.WAITING}
    with pytest.raises(NotFound):
        reader.run("0" * 20)
    reader.close()
    store = SqliteStore(path, instance="x")
    assert [claim.run for claim in take(store)] == [run]
    store.close()
    assert Path(f"{path}.before-{version + 1}").exists()


def test_a_migration_copies_the_file_first(local: Sqlite, monkeypatch: pytest.MonkeyPatch) -> None:
    run = accept(local.store, single())[0]
    local.store.close()
    known = database.migrations()
    number = known[-1][0] + 1
    broken = "ALTER TABLE runs ADD COLUMN more; DROP TABLE nothing"
    monkeypatch.setattr(database, "migrations", lambda: [*known, (number, broken)])
    with pytest.raises(StoreUnavailable):
        local.reopen()
    monkeypatch.setattr(database, "migrations", lambda: known)
    local.reopen()  # undone as a whole: the old version still opens
    local.store.close()
    monkeypatch.setattr(database, "migrations", lambda: [*known, (number, "ALTER TABLE meta RENAME TO metadata;")])
    with pytest.raises(StoreUnavailable):
        local.reopen()  # this program does not know that schema; what matters here are file and copy
    assert sqlite3.connect(local.path).execute("PRAGMA user_version").fetchone() == (number,)
    monkeypatch.setattr(database, "migrations", lambda: known)
    before = SqliteStore(f"{local.path}.before-{number}", instance="x")
    assert before.states([run]) == {run: RunState.WAITING}
    before.close()
    shutil.copy(f"{local.path}.before-{number}", local.path)
    local.reopen()


def test_a_reader_who_may_not_write_reads_a_database_at_rest(local: Sqlite, folder: Path) -> None:
    run = accept(local.store, single())[0]
    local.store.close()
    if os.geteuid() != 0:
        pytest.skip("only root can become a user without rights")
    os.chmod(local.path, 0o644)  # as its owner may have made it: it is made for the group
    folder.chmod(0o555)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            status = 0 if SqliteReader(local.path).states([run]) == {run: RunState.WAITING} else 2
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    folder.chmod(0o700)
    local.reopen()
    assert os.waitstatus_to_exitcode(status) == 0


# --- a disk that fails under work ---


def test_disk_full_keeps_what_was_accepted_and_nothing_else(local: Sqlite) -> None:
    kept = [start(local.store, CHAIN), *accept(local.store, single())]
    pages = local.store._session.db.execute("PRAGMA page_count").fetchone()[0]
    local.store._session.db.execute(f"PRAGMA max_page_count = {pages + 5}")
    lost = []
    with pytest.raises(StoreUnavailable, match="no space left") as caught, local.store.group():
        lost = [claim.run for claim in take(local.store)]
        accept(local.store, *(single(work={"python": "a:b", "args": ["x" * 2000]}) for _ in range(200)))
    assert not caught.value.fatal and sorted(lost) == sorted(kept)
    assert local.store.running() == [] and local.store.changes()[-1:] == []
    local.store._session.db.execute("PRAGMA max_page_count = 1000000")
    assert sorted(complete_all(local.store)) == ["a", "b", "reports.load:run"]
    assert set(local.store.states(kept).values()) == {RunState.COMPLETED}
    local.check()


def test_a_failed_call_spoils_its_whole_group(local: Sqlite) -> None:
    run = start(local.store, CHAIN)
    session = local.store._session
    with pytest.raises(StoreUnavailable, match="transaction"), local.store.group():
        session.db.execute("PRAGMA query_only = 1")
        with pytest.raises(StoreUnavailable, match="cannot be written"):
            local.store.submit([single()])
        session.db.execute("PRAGMA query_only = 0")
        with pytest.raises(StoreUnavailable, match="earlier call"):
            local.store.submit([single()])
    assert len(take(local.store)) == 1
    assert list(local.store.states([run])) == [run]


def test_a_group_that_failed_and_is_left_by_a_refusal_leaves_nothing_behind(local: Sqlite) -> None:
    session = local.store._session
    with pytest.raises(Refused, match="because of that"), local.store.group():
        session.db.execute("PRAGMA query_only = 1")
        with pytest.raises(StoreUnavailable):
            local.store.submit([single()])
        session.db.execute("PRAGMA query_only = 0")
        raise Refused("because of that")
    accept(local.store, single())
    assert len(take(local.store)) == 1


def test_a_read_only_file_is_said_and_work_goes_on_later(local: Sqlite) -> None:
    accept(local.store, single())
    claim = take(local.store)[0]
    local.store._session.db.execute("PRAGMA query_only = 1")
    for call in (lambda: local.store.finish(BOB, [outcome(claim)]), lambda: local.store.submit([single()])):
        with pytest.raises(StoreUnavailable, match="read-only") as caught:
            call()
        assert not caught.value.fatal
    local.store._session.db.execute("PRAGMA query_only = 0")
    finish(local.store, outcome(claim))


def test_a_file_that_another_program_holds(local: Sqlite) -> None:
    local.store._session.db.execute("PRAGMA busy_timeout = 20")
    other = sqlite3.connect(local.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="another program holds") as caught:
        local.store.submit([single()])
    assert not caught.value.fatal
    other.execute("ROLLBACK")
    other.close()
    assert len(accept(local.store, single())) == 1


@pytest.mark.parametrize("instead", ["nothing", "another"])
def test_nothing_is_accepted_into_a_file_that_was_moved_away(local: Sqlite, folder: Path, instead: str) -> None:
    accept(local.store, single())
    path, away = Path(local.path), folder / "away"
    path.rename(away)
    if instead == "another":
        shutil.copy(away, path)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=r"moved away.*put it back"):
            accept(local.store, single())
    away.rename(path)
    accept(local.store, single())
    assert len(take(local.store)) == 2


def test_a_damaged_page_is_fatal_and_says_what_to_do(local: Sqlite) -> None:
    accept(local.store, *(single() for _ in range(3000)))
    local.store.close()
    with open(local.path, "r+b") as file:
        for page in range(3, os.path.getsize(local.path) // 4096):
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)
    with pytest.raises(StoreUnavailable, match=r"damaged.*backup") as caught:
        local.reopen()
        complete_all(local.store)
    assert caught.value.fatal
    os.unlink(local.path)
    local.reopen()


# --- records that cannot be read ---

BREAK = {
    "graph": "UPDATE definitions SET graph = x'7b22ff' WHERE name = 'broken'",
    "definition": "DELETE FROM definitions WHERE name = 'broken'",
    "params": "UPDATE payloads SET body = x'7b22ff'",
}


@pytest.mark.parametrize("what", sorted(BREAK))
@pytest.mark.parametrize("when", ["ready", "running", "lost", "late", "cancelled", "retried"])
def test_a_broken_run_fails_alone(local: Sqlite, what: str, when: str) -> None:
    retry = Retry(1)
    work = {"run": ["${{ params.p }}"]}
    nodes = (
        node("a", work=work),
        node("b", work=work, retry=retry),
        node("c", 0, 1),
        node("f", 0, items="${{ params.p }}"),
    )
    definition = workflow("broken", *nodes, params={"p": {"default": [1]}}, timeout=60.0, concurrency=Concurrency("k"))
    broken, waits, good = start(local.store, definition), start(local.store, definition), start(local.store, CHAIN)
    local.store.cancel(waits)
    claims = [] if when == "ready" else take(local.store)
    if when == "late":
        finish(local.store, *(outcome(claim, TaskState.FAILED) for claim in claims if claim.step == "b"))
        local.clock.forward(100)
    local.store._session.db.execute(BREAK[what])
    local.reopen()
    assert len(local.store.running()) == len(claims) - (when == "late")
    if when == "running":
        local.store.finish(ALICE, [outcome(claim) for claim in claims])
    elif when == "lost":
        local.store.lose(ALICE, None)
    elif when == "late":
        local.store.promote()
        local.store.expire()
    elif when == "cancelled":
        local.store.cancel(broken)
    elif when == "retried":
        local.store.recover([], {})
    while todo := take(local.store, owner=BOB):
        local.store.finish(BOB, [outcome(claim) for claim in todo])
    local.store.finish(ALICE, [outcome(claim) for claim in claims])
    while local.store.advance():
        pass
    while todo := take(local.store, owner=BOB):
        local.store.finish(BOB, [outcome(claim) for claim in todo])
    assert local.store.states([good]) == {good: RunState.COMPLETED}
    view = local.store.run(broken)
    stopped = what == "params" and when in ("late", "cancelled")
    assert view.status in ((RunState.FAILED, RunState.TIMEOUT, RunState.CANCELLED) if stopped else (RunState.FAILED,))
    assert stopped or view.cause in ("corrupt", "reference"), view
    assert local.store.stops() == [] and local.store.running() == []
    local.store.obstacles(broken)
    local.store.outputs([broken])
    local.check()
    if what != "params":
        with pytest.raises(Refused):
            local.store.retry(broken)


# --- backups ---


def test_a_backup_is_whole_and_leaves_nothing_when_it_fails(local: Sqlite, folder: Path) -> None:
    run = start(local.store, CHAIN)
    claim = take(local.store)[0]
    target = folder / "backup.db"
    for _ in range(2):
        local.store.backup(str(target))
    with pytest.raises(StoreUnavailable, match="cannot be"):
        local.store.backup(str(folder / "none" / "backup.db"))
    with local.store.group(), pytest.raises(Refused):
        local.store.backup(str(target))
    assert {path.name for path in folder.iterdir() if "backup" in path.name} == {"backup.db"}
    finish(local.store, outcome(claim))
    restored = SqliteStore(str(target), instance="other", clock=local.clock)
    assert restored.running()[0][1] == run
    restored.recover([], {})
    again = restored.claim(BOB, ["default"], 1)[0]
    assert again.step == "a" and again.token > claim.token
    restored.close()


# --- power cuts ---

WRITER = """
import sys
sys.path[:0] = sys.argv[2:]
from driving import ALICE, accept, of, outcome, single, take
from graphs import node, workflow
from kubemin.store.sqlite.store import SqliteStore

store = SqliteStore(sys.argv[1], instance="writer")
store._session.db.execute("PRAGMA wal_autocheckpoint = 50")
chain = workflow("chain", node("a"), node("b", 0))
store.define([chain])
while True:
    with store.group():
        runs = accept(store, single(), of(chain))
        claims = take(store, 3)
        store.finish(ALICE, [outcome(claim) for claim in claims[:2]])
    print(*runs, *(f"{c.run}.{c.idx}={c.token}" for c in claims[:2]), flush=True)
"""


def test_a_commit_is_on_the_disk_before_it_returns(folder: Path) -> None:
    """No test can cut the power under the disk's own cache: so what SQLite was asked for is looked at."""
    store = SqliteStore(str(folder / "kubemin.db"), instance="test")
    asked = {
        name: store._session.db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
    }
    store.close()
    assert asked == {"journal_mode": "wal", "synchronous": 2}  # FULL: the log is synced at each commit


def test_after_a_power_cut_everything_is_there_whose_commit_had_returned(folder: Path) -> None:
    path = str(folder / "kubemin.db")
    places = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    writer = subprocess.Popen([sys.executable, "-c", WRITER, path, *places], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    told: list[str] = []
    try:
        for number in range(8):
            for _ in range(random.randint(20, 120)):
                told += writer.stdout.readline().split()
            writer.send_signal(signal.SIGSTOP)  # the copy is of one instant, as of a disk that lost its power
            os.waitid(os.P_PID, writer.pid, os.WSTOPPED)
            copied = folder / f"copy-{number}"
            copied.mkdir()
            shutil.copy(path, copied)
            if os.path.exists(path + "-wal"):
                shutil.copy(path + "-wal", copied)
            writer.send_signal(signal.SIGCONT)
            check_copy(str(copied / "kubemin.db"), told)
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()


def check_copy(path: str, told: list[str]) -> None:
    runs = [word for word in told if "=" not in word]
    accepted = [word.partition("=") for word in told if "=" in word]
    store = SqliteStore(path, instance="after")
    assert set(store.states(runs)) == set(runs)
    for what, sql in CHECKS.items():
        assert store._session.db.execute(sql).fetchall() == [], what
    query = "SELECT state, token FROM tasks WHERE run = ? AND idx = ?"
    for task, _, token in accepted:
        run, _, idx = task.rpartition(".")
        assert store._session.db.execute(query, (run, int(idx))).fetchone() == (3, int(token))
    store.recover([], {})
    highest = max(int(token) for _, _, token in accepted)
    claims = store.claim(Owner("after", 0, 1), ["default"], 5)
    assert all(claim.token > highest for claim in claims)
    store.close()


def test_a_log_that_was_cut_short_opens_with_whole_commits_only(local: Sqlite, folder: Path) -> None:
    local.store.define([CHAIN])
    runs = []
    for _ in range(40):
        with local.store.group():
            runs.append(accept(local.store, single(), of(CHAIN)))
    size = os.path.getsize(local.path + "-wal")
    for number, length in enumerate([0, 31, 32, 5000, size // 3, size // 2 + 17, size - 1, size]):
        cut = folder / f"cut-{number}"
        cut.mkdir()
        shutil.copy(local.path, cut)
        shutil.copy(local.path + "-wal", cut)
        os.truncate(cut / "kubemin.db-wal", length)
        store = SqliteStore(str(cut / "kubemin.db"), instance="after")
        there = [len(store.states(pair)) for pair in runs]
        assert there == sorted(there, reverse=True) and set(there) <= {0, 2}
        assert there[-1] == (2 if length == size else 0)
        store.close()


@pytest.mark.parametrize("what", sorted(BREAK))
def test_a_broken_run_that_ended_is_not_run_again_and_nothing_else_is_undone(local: Sqlite, what: str) -> None:
    definition = workflow("broken", node("a"), params={"p": {"default": [1]}}, concurrency=Concurrency("k"))
    broken = start(local.store, definition)
    finish(local.store, *(outcome(claim, TaskState.FAILED) for claim in take(local.store)))
    local.store._session.db.execute(BREAK[what])
    local.reopen()
    with local.store.group():
        (good,) = accept(local.store, single())
        with pytest.raises(Refused, match=f"run {broken}"):
            local.store.retry(broken)
    assert local.store.states([good]) == {good: RunState.WAITING}
