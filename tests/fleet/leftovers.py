"""What may still stand in Redis, and be open in a daemon, when all work has ended: everything else was left behind."""

from __future__ import annotations

import os
import re
from collections import Counter
from contextlib import suppress
from pathlib import Path

from support import Daemon
from support.processes import descendants
from support.redis_server import Server

from kubemin.store.redis import keys
from kubemin.store.redis.claims import slot_claims

# Of ended runs until they are pruned, of definitions, of nodes and terms, and counters.
KEPT = re.compile(
    re.escape(keys.PREFIX)
    + r"((run|tasks|out|tails|graph|slot|files|parts):.*|leader(:epoch|:backend|:stepdown|:released)?|seq|turn|runs|"
    r"ended|queues|slots|keys|backlog|retired|tailed|tailbytes|workflows|publishers|definitions|references|batches|sealed|nodes|stamp|epoch|"
    r"fleet|probe)"
)


def names(server: Server, pattern: str = "*") -> list[str]:
    return [word.decode() for word in server.command("KEYS", pattern).split(b"\r\n")[2::2]]


def left_behind(server: Server) -> list[str]:
    """Keys that belong to work, and claims that a slot still holds."""
    found = [name for name in names(server) if not KEPT.fullmatch(name)]
    for name in names(server, f"{keys.PREFIX}slot:*"):
        with server.link() as link:
            raw = link.command("GET", name).partition(b"\r\n")[2][:-2]
        if raw and raw != b"retired":
            found += [f"{name} holds {claim.run}.{claim.idx}" for claim in slot_claims(raw)]
    counts = server.command("HVALS", keys.BACKLOG).split(b"\r\n")[2::2]
    found += [f"{count.decode()} tasks of a backlog" for count in counts if count != b"0"]
    return found


def descriptors(daemon: Daemon) -> Counter[str]:
    """Open descriptors of the daemon's processes, the most of each kind of process."""
    found: Counter[str] = Counter()
    for pid in [daemon.pid, *descendants(daemon.pid)]:
        with suppress(OSError):
            title = Path(f"/proc/{pid}/cmdline").read_text().partition("[")[0].strip("\0 ").rstrip(" 0123456789")
            found[title] = max(found[title], len(os.listdir(f"/proc/{pid}/fd")))
    return found
