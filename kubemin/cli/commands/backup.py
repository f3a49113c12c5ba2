"""A consistent copy of the store, while the daemon works or without it."""

from __future__ import annotations

import os
from contextlib import closing

import click

from kubemin.cli import options, render
from kubemin.cli.session import Session
from kubemin.errors import Invalid


@options.command(
    "backup",
    """
    kubeminctl backup /var/backups/kubemin.db
    kubeminctl backup "kubemin-$(date +%F).db" -o json
    """,
)
@click.argument("file", metavar="FILE")
def command(session: Session, file: str) -> None:
    """Write a consistent copy of the store to FILE, which is there whole or not at all. Nothing is stopped meanwhile.

    To restore it: stop the daemon, move kubemin.db and its -wal and -shm away, copy FILE to kubemin.db.
    """
    from kubemin.client import Client
    from kubemin.store.sqlite import database

    source = os.path.join(session.settings.state_dir, "kubemin.db")
    if (reason := _unfit(file, source)) is not None:
        raise Invalid(f"{file or 'the empty name'} is {reason}; name another file")
    # As who we are, also as root: FILE is his. What SQLite makes beside the store then, it gives to the store's owner.
    with Client.from_settings(session.settings) as client:
        client.reader()  # says what is wrong with the store, or our rights to it
    os.umask(0o077)  # parameters and outputs are in it
    with closing(database.connect_reader(source)) as connection:
        database.copy(connection, file, source)
    size = os.stat(file).st_size
    if session.json:
        render.document({"file": os.path.abspath(file), "bytes": size})
    else:
        render.line(f"{render.clean(file)}: {size} bytes")


def _unfit(file: str, source: str) -> str | None:
    """Why the copy cannot take the place of what stands there. As root, a rename would even replace a device."""
    if not file:
        return "no file"
    if os.path.isdir(file):
        return "a folder"
    if not os.path.exists(file):
        return None
    if os.path.samefile(file, source):
        return "the store itself"
    return None if os.path.isfile(file) else "no regular file"
