"""Which lives of this daemon may still hold something in Redis: `stateDir/instances.json` (engine rule 12).

An instance is written here, fsynced, before its first claim. A later life that has taken the lock on the state
directory knows by it whom it may bury: by uuid and machine, never by the node's name. May touch: that file.
"""

from __future__ import annotations

import os

import msgspec

from kubemin.store.durable import write_durably
from kubemin.telemetry import log

NAME = "instances.json"
_MACHINE_ID = "/etc/machine-id"


class _File(msgspec.Struct):
    machine: str = ""
    instances: list[str] = []


class Instances:
    """Raises OSError where the file cannot be written."""

    def __init__(self, state_dir: str) -> None:
        self._path = os.path.join(state_dir, NAME)
        self.machine = machine_id()
        self._file = self._read()

    def note(self, instance: str) -> list[str]:
        """Write this life down; the earlier ones that were not buried yet."""
        if instance not in self._file.instances:
            self._file.instances.append(instance)
            self._write()
        return [known for known in self._file.instances if known != instance]

    def forget(self, instance: str) -> None:
        """It was adopted."""
        self._file.instances.remove(instance)
        self._write()

    def _read(self) -> _File:
        try:
            with open(self._path, "rb") as file:
                found = msgspec.json.decode(file.read(), type=_File)
        except FileNotFoundError:
            return _File(self.machine)
        except msgspec.MsgspecError as exc:
            log.error(
                "the list of instances cannot be read; their tasks come back when their locks lapse", reason=str(exc)
            )
            return _File(self.machine)
        if found.machine != self.machine:
            log.warning("the state directory was copied from another machine; its instances are not taken over")
            return _File(self.machine)
        return found

    def _write(self) -> None:
        write_durably(self._path, msgspec.json.encode(self._file))


def machine_id() -> str:
    try:
        with open(_MACHINE_ID, encoding="ascii") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""
