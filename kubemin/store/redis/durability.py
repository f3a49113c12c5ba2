"""`durability`: a submission that waits until the server's disk (`fsync`) or a replica (`replica`) has it.

WAIT and WAITAOF speak of what was written before them on their connection, so each comes with a write of its own: then
it covers whatever the server had accepted by then, on any connection. That holds for one server. After a reconnect,
which may have led to another (a fail-over), the caller repeats its request first (`Client.serial` tells).
"""

from __future__ import annotations

from typing import Any

from kubemin.errors import NotDurable, Refused, StoreUnavailable
from kubemin.store.redis import keys
from kubemin.store.redis.client import Client

CONFIRM_SECONDS = 4.0  # below the client's time-out for a reply
NONE, FSYNC, REPLICA = "none", "fsync", "replica"
_PLACES = {FSYNC: "disk", REPLICA: "a replica"}


class Durability:
    """What one connection's server can give."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._waits: bool | None = None  # it has WAITAOF
        self._looked_at = -1  # connection of which nothing stood against it

    def require(self, wanted: str) -> None:
        """Before anything is written; there is a connection afterwards. Raises Refused, StoreUnavailable."""
        self._client.connect()
        if wanted != NONE and self._looked_at != self._client.serial:
            if obstacle := self.obstacle(wanted):
                raise Refused(obstacle, code="durability")
            self._looked_at = self._client.serial

    def obstacle(self, wanted: str) -> str:
        """What stands against this durability on this server; empty: nothing."""
        if wanted != FSYNC:
            return ""
        log, policy = self._log()
        if log == "no":
            return "durability: fsync needs `appendonly yes` on this server"
        if self._waits_for_disk() or policy == "always":
            return ""
        return "durability: fsync needs Redis 7.2 or later, or `appendfsync always` on this server"

    def confirm(self, wanted: str) -> None:
        """Wait until what was written is there. Raises NotDurable."""
        try:
            done = wanted == NONE or self._confirmed(wanted)
        except StoreUnavailable as exc:
            raise NotDurable(f"not known to be on {_PLACES[wanted]} (durability: {wanted}): {exc}") from exc
        if not done:
            where = f"not on {_PLACES[wanted]} after {CONFIRM_SECONDS:g} s (durability: {wanted})"
            raise NotDurable(f"{where}; it is lost if Redis fails now")

    def _confirmed(self, wanted: str) -> bool:
        wait = round(CONFIRM_SECONDS * 1000)
        if wanted == REPLICA:
            return int(self._after_a_write("WAIT", 1, wait)) >= 1
        if self._waits_for_disk():
            return int(self._after_a_write("WAITAOF", 1, 0, wait)[0]) >= 1
        return self._log()[1] == "always"  # each reply came after the fsync

    def _after_a_write(self, *command: str | int) -> Any:
        return self._client.pipeline([("SET", keys.PROBE, ""), command])[1]

    def _waits_for_disk(self) -> bool:
        if self._waits is None:
            known = self._client.execute("COMMAND", "INFO", "WAITAOF")
            self._waits = bool(known and known[0])
        return self._waits

    def _log(self) -> tuple[str, str]:
        """`appendonly` and `appendfsync`; empty where the server does not say (managed ones, ACLs)."""
        try:
            raw = self._client.execute("CONFIG", "GET", "append*")
        except StoreUnavailable as exc:
            if exc.code not in ("noperm", "redis_error"):
                raise
            return "", ""
        found = dict(zip(raw[::2], raw[1::2], strict=True))
        return found.get(b"appendonly", b"").decode(), found.get(b"appendfsync", b"").decode()
