"""Results that could not be told to the store: kept in the state directory until they can (engine rule 14).

A worker that has to end while the server is away leaves its last outcome here, on disk before it exits. The
coordinator delivers it before it takes back what the dead worker or a dead predecessor held. May touch: one folder.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import msgspec

from kubemin.model.records import Outcome, Owner
from kubemin.store.durable import write_durably
from kubemin.telemetry import log

FOLDER = "undelivered"
_NULL = msgspec.Raw(b"null")


class _Kept(Outcome, array_like=True):
    output: msgspec.Raw = _NULL


_encode = msgspec.json.Encoder().encode
_decode: Any = msgspec.json.Decoder(tuple[Owner, list[_Kept]]).decode


def keep(state_dir: str, owner: Owner, outcomes: list[Outcome]) -> str:
    """Write them down, durably; the file's path. Raises OSError."""
    folder = os.path.join(state_dir, FOLDER)
    os.makedirs(folder, mode=0o750, exist_ok=True)
    path = os.path.join(folder, f"{owner.instance}-{owner.slot}-{owner.incarnation}.json")
    write_durably(path, _encode((owner, outcomes)))
    return path


def kept(state_dir: str) -> Iterator[tuple[str, Owner, list[Outcome]]]:
    """(path, owner, outcomes) of what is there. What cannot be read is put aside, with a message."""
    folder = os.path.join(state_dir, FOLDER)
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(folder)):
            path = os.path.join(folder, name)
            if name.endswith(".json") and (found := _read(path)) is not None:
                yield path, *found


def drop(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _read(path: str) -> tuple[Owner, list[Outcome]] | None:
    try:
        with open(path, "rb") as file:
            owner, outcomes = _decode(file.read())
    except (OSError, msgspec.MsgspecError) as exc:
        log.error("a kept result cannot be read and is put aside", file=path, reason=str(exc))
        with contextlib.suppress(OSError):
            os.rename(path, f"{path}.bad")
        return None
    for outcome in outcomes:
        if outcome.output == _NULL:
            outcome.output = None
    return owner, list(outcomes)
