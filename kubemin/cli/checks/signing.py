"""The signing keys: their file, and whether the nodes of the fleet have the same."""

from __future__ import annotations

import os
from collections.abc import Iterator

from kubemin import signing
from kubemin.cli.checks.base import Finding, note, ok, wrong
from kubemin.config import Settings
from kubemin.errors import Invalid, Unreachable
from kubemin.modes import in_fleet
from kubemin.store.redis.node import NodeRecord
from kubemin.users import name_of

CHECK = "signing"


def keys(settings: Settings) -> Iterator[Finding]:
    """Rights of the key file, and what other nodes say of theirs in their heartbeats."""
    try:
        signer = None if settings.signing_key_file is None else signing.load(settings.signing_key_file)
    except Invalid as exc:
        yield wrong(CHECK, "; ".join(str(problem) for problem in exc.problems))
        return
    if signer is not None and settings.signing_key_file is not None:
        yield _file(settings.signing_key_file, signer)
    if in_fleet(settings):
        yield from _fleet(settings, signer)
    elif signer is not None:
        yield note(CHECK, "signingKeyFile has no effect on a machine that works alone")


def _file(path: str, signer: signing.Signer) -> Finding:
    status = os.stat(path)
    if status.st_uid not in (0, os.geteuid()):
        owner = name_of(status.st_uid)
        return note(CHECK, f"{path} belongs to {owner}, who may change it; chown it to root or the daemon's user")
    more = f", verifies {len(signer.ids) - 1} more" if len(signer.ids) > 1 else ""
    return ok(CHECK, f"{path}, mode {status.st_mode & 0o777:04o}: signs with key {signer.id}{more}")


def _fleet(settings: Settings, signer: signing.Signer | None) -> Iterator[Finding]:
    from kubemin.store.redis.opening import open_store

    store = open_store(settings, name="kubemin-doctor", reads=True)
    try:
        live = [view.record for view in store.nodes() if not view.is_lost]
    except Unreachable:
        return  # told by the check of the fleet
    finally:
        store.close()
    if signer is None and not any(record.keys for record in live):
        return
    known = {record.keys[0] if record.keys else "" for record in live}
    if len(known) > 1:
        yield wrong(CHECK, f"the nodes do not sign with the same key ({_by_node(live)}): give them the same key file")
    ours = "" if signer is None else signer.id
    if live and ours not in known:
        yield wrong(CHECK, f"here {_shown(ours)}, and {_by_node(live)}: name the fleet's key file in signingKeyFile")
    elif len(known) == 1:
        yield ok(CHECK, f"{len(live)} live node(s) sign with key {ours}")


def _by_node(live: list[NodeRecord]) -> str:
    return ", ".join(f"{record.node}: {_shown(record.keys[0] if record.keys else '')}" for record in live)


def _shown(key: str) -> str:
    return f"key {key}" if key else "no key"
