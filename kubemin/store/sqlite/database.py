"""The SQLite file: opening, settings, migrations, copies, and what its errors mean to an operator.

The only module that knows how a connection is made. sqlite3's errors leave it as `StoreUnavailable`.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kubemin.errors import NoRoom, StoreUnavailable

APPLICATION_ID = 0x6B756265  # "kube": a file of ours
BUSY_SECONDS = 5.0  # a backup or a reader may hold the file for a moment; the state lock keeps writers apart
CACHE_KIB = 4 * 1024
MODE = 0o640  # the daemon's group may read; SQLite gives the -wal and -shm files the same
CHECKPOINT_PAGES = 4000  # 16 MiB of log: fewer fsyncs of the main file than the default 1000, bounded recovery

_FRAME = 4096 + 24  # a page in the log, with its header
_CHUNK = 1 << 20
_FOLDER = os.path.dirname(__file__)
_URI = str.maketrans({"%": "%25", "?": "%3f", "#": "%23"})  # https://www.sqlite.org/uri.html, 3.1
_WRITER_PRAGMAS = (
    f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # a commit is on the disk before its reply leaves (engine rule 17)
    "PRAGMA foreign_keys = OFF",
    f"PRAGMA cache_size = -{CACHE_KIB}",
    "PRAGMA temp_store = MEMORY",
    f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}",
    f"PRAGMA journal_size_limit = {64 * 1024 * 1024}",
)


def _read(name: str) -> str:
    with open(os.path.join(_FOLDER, name), encoding="utf-8") as file:
        return file.read()


def migrations() -> list[tuple[int, str]]:
    """(version, SQL) in order, from the files `NNNN_name.sql` beside this module."""
    return [(int(name[:4]), _read(name)) for name in sorted(os.listdir(_FOLDER)) if name[0].isdigit()]


def queries() -> dict[str, str]:
    """Named SQL of `queries.sql`: `-- name: WORD` starts a query."""
    text = _read("queries.sql")
    found = {}
    for block in text.split("-- name: ")[1:]:
        name, _, sql = block.partition("\n")
        found[name.strip()] = sql.strip().rstrip(";")
    return found


def translate(error: sqlite3.Error, path: str) -> StoreUnavailable:
    """What an operator should read. Fatal: no retry helps."""
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith("SQLITE_FULL") or (name.startswith("SQLITE_IOERR") and _is_full(path)):
        return NoRoom(f"{path}: no space left on the device; free some, and work goes on by itself")
    if name.startswith("SQLITE_READONLY"):
        return StoreUnavailable(f"{path}: cannot be written (read-only file system or permissions); make it writable")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StoreUnavailable(
            f"{path}: another program holds the database locked; close it (sqlite3 shell, copy job)"
        )
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        what = "is not a kubemin database" if name == "SQLITE_NOTADB" else "is damaged"
        return StoreUnavailable(
            f"{path}: {what}; stop kubemin, move it and its -wal and -shm files away, and copy the last backup "
            f"(kubeminctl backup FILE) to {path}",
            fatal=True,
        )
    if name.startswith("SQLITE_CANTOPEN"):
        return StoreUnavailable(f"{path}: cannot be opened; check that the folder exists and its permissions")
    if name.startswith("SQLITE_IOERR"):
        return StoreUnavailable(f"{path}: the disk does not answer ({name}); see the kernel log")
    return StoreUnavailable(f"{path}: {error} ({name or type(error).__name__})")


def _is_full(path: str) -> bool:
    """SQLite says only of a write that there is no room for it, and not of a file that it makes longer."""
    try:
        return os.statvfs(os.path.dirname(os.path.abspath(path))).f_bavail == 0
    except OSError:
        return False


@contextmanager
def translated(path: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise translate(error, path) from error


def connect(path: str) -> sqlite3.Connection:
    """A writer's connection on an up-to-date schema. The caller holds the state-directory lock."""
    _make(path)
    with translated(path):
        connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_SECONDS, cached_statements=256)
        try:
            connection.execute(
                "PRAGMA schema_version"
            ).fetchone()  # reads the header: fails here when it is no database
            for pragma in _WRITER_PRAGMAS:
                connection.execute(pragma)
            _migrate(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


def _make(path: str) -> None:
    """A new file with its rights, whatever the umask: a client's may be another than the daemon's."""
    with suppress(OSError):  # it is there, or SQLite says what is wrong
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
        os.fchmod(fd, MODE)
        os.close(fd)


def reserve_log(path: str) -> None:
    """Give the write-ahead log its full size now: a commit that overwrites is on the disk in half the time of one that
    makes the file longer (no journal of the file system takes part). SQLite reads no further than its last valid frame,
    and holds no lock on this file that closing a descriptor could drop. Without room for all of it, it stays as it is:
    the rest of the disk is for commits."""
    with suppress(OSError):  # commits will say so
        fd = os.open(f"{path}-wal", os.O_WRONLY | os.O_CLOEXEC)
        try:
            _lengthen(fd, CHECKPOINT_PAGES * _FRAME)
        finally:
            os.close(fd)


def _lengthen(fd: int, size: int) -> None:
    """With zeros, on the disk; or not at all. Raises OSError."""
    at = before = os.fstat(fd).st_size
    try:
        while at < size:
            at += os.pwrite(fd, bytes(min(_CHUNK, size - at)), at)
        os.fdatasync(fd)
    except OSError:
        os.ftruncate(fd, before)
        raise


def identity(path: str) -> tuple[int, int] | None:
    """Which file stands there; None: none that we may look at."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def connect_reader(path: str) -> sqlite3.Connection:
    """A read-only connection, with or without a daemon; never makes the file."""
    if not os.path.exists(path):
        raise StoreUnavailable(f"{path}: no such file; start kubemin once, or check stateDir", code="no_store")
    with translated(path):
        try:
            return _open_reader(path, "mode=ro")
        except sqlite3.OperationalError:
            # Nobody has it open, and we may not make the -shm file: without a -wal file the database is at rest.
            if os.path.exists(path + "-wal") and os.path.getsize(path + "-wal"):
                raise
            return _open_reader(path, "mode=ro&immutable=1")


def _open_reader(path: str, options: str) -> sqlite3.Connection:
    uri = f"file:{os.path.abspath(path).translate(_URI)}?{options}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_SECONDS, check_same_thread=False)
    try:
        connection.execute("PRAGMA query_only = ON")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB // 4}")
        if not _check_version(connection, path):  # whoever made the file died before its first commit
            raise StoreUnavailable(f"{path}: holds nothing yet; start kubemin once, or check stateDir", code="no_store")
    except BaseException:
        connection.close()
        raise
    return connection


def _check_version(connection: sqlite3.Connection, path: str) -> int:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    newest = migrations()[-1][0]
    if version > newest:
        raise StoreUnavailable(
            f"{path}: was written by a newer kubemin (schema {version}, this one knows {newest}); "
            "install that version again, or move the file away to start empty",
            fatal=True,
        )
    return version


def _migrate(connection: sqlite3.Connection, path: str) -> None:
    version = _check_version(connection, path)
    if version == 0 and connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        raise StoreUnavailable(
            f"{path}: is the database of another program; set stateDir to a folder of its own", fatal=True
        )
    for number, sql in migrations():
        if number <= version:
            continue
        if version:
            copy(connection, f"{path}.before-{number}", path)
        stamp = f"PRAGMA application_id = {APPLICATION_ID};\nPRAGMA user_version = {number};"
        connection.executescript(f"BEGIN IMMEDIATE;\n{sql}\n;{stamp}\nCOMMIT;")


def copy(connection: sqlite3.Connection, target: str, path: str) -> None:
    """A consistent copy (SQLite's online backup), complete or not there at all."""
    partial = f"{target}.partial"
    with suppress(FileNotFoundError):
        os.unlink(partial)
    try:
        with translated(target):
            out = sqlite3.connect(partial, isolation_level=None)
            try:
                connection.backup(out)
            finally:
                out.close()
        _sync(partial)
        os.replace(partial, target)
        _sync(os.path.dirname(os.path.abspath(target)))
    except OSError as error:
        raise StoreUnavailable(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            os.unlink(partial)


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
