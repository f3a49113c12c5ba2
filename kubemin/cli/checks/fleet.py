"""A fleet's Redis and its election, as seen from this machine: asked for real, and nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator

from kubemin import clock
from kubemin.cli.checks.base import Finding, note, ok, wrong
from kubemin.config import Settings
from kubemin.coordinator.fleet.election import lease_backend
from kubemin.errors import Invalid, StoreUnavailable
from kubemin.leader.campaign import check_parameters
from kubemin.leader.elector import REQUEST_TIMEOUT
from kubemin.leader.lease.base import LeaseFailure
from kubemin.modes import in_fleet
from kubemin.store.redis import keys
from kubemin.store.redis.node import NodeStore
from kubemin.store.redis.opening import open_store, redis_address

OLDEST = {"redis": (6, 2), "valkey": (8, 0)}
CLOCK_SECONDS = 1.0  # that the clocks of this machine and of Redis may differ without a word
SLOW_SECONDS = 0.05  # of a round trip
# What the engine calls, by commands that change nothing.
ASKED = (
    ("EVAL", "return 1", "0"),
    ("SCRIPT", "EXISTS", "0" * 40),
    ("CLIENT", "LIST", "TYPE", "pubsub"),
    ("CLIENT", "UNBLOCK", "0"),
    ("TIME",),
    ("LLEN", keys.queue("default")),
    ("EXISTS", f"{keys.LOCK}doctor", keys.NODES),
)


def redis(settings: Settings) -> Iterator[Finding]:
    if not in_fleet(settings):
        return
    try:
        store = open_store(settings, name="kubemin-doctor", reads=True)
    except Invalid as exc:
        yield from (wrong("redis", str(problem)) for problem in exc.problems)
        return
    try:
        yield from _server(store, settings)
    except StoreUnavailable as exc:
        yield wrong("redis", f"{exc}; the node works alone until it can be used, and accepts nothing for the fleet")
    finally:
        store.close()


def _server(store: NodeStore, settings: Settings) -> Iterator[Finding]:
    began = clock.monotonic()
    store.check_server()
    seconds = clock.monotonic() - began
    info = store.server_info()
    yield _version(info, store.client.where)
    yield _round_trip(seconds)
    yield from _rights(store)
    yield from _keeps(info, _configured(store))
    if obstacle := store.durability.obstacle(settings.durability):
        yield wrong("durability", obstacle)
    yield clock_difference((store.server_time() - clock.wall()) / clock.SECOND)
    yield from _fleet(store)


def _version(info: dict[str, str], where: str) -> Finding:
    kind = "valkey" if info.get("server_name") == "valkey" else "redis"
    text = info.get(f"{kind}_version", info.get("redis_version", "?"))
    known = tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
    oldest = ".".join(map(str, OLDEST[kind]))
    if known < OLDEST[kind]:
        return wrong("redis", f"{kind} {text} at {where} is too old: {oldest} or later is needed")
    return ok("redis", f"{kind} {text} at {where}")


def _round_trip(seconds: float) -> Finding:
    text = f"a write takes {seconds * 1000:.1f} ms"
    if seconds > SLOW_SECONDS:
        return note("redis", f"{text}: each task waits for one round trip; look at the network and at SLOWLOG GET")
    return ok("redis", text)


def _rights(store: NodeStore) -> Iterator[Finding]:
    """NOPERM of a command is found here, and not in the middle of the work."""
    refused = []
    for command in ASKED:
        try:
            store.client.execute(*command)
        except StoreUnavailable as exc:
            if exc.code != "noperm":
                raise
            refused.append(" ".join(command[:2]) if command[0] in ("CLIENT", "SCRIPT") else command[0])
    if refused:
        yield wrong(
            "acl", f"this user may not call {', '.join(refused)}: ACL SETUSER … ~workflow:* ~lock:* ~kubemin:* +@all"
        )
    else:
        yield ok("acl", "this user may call what the engine needs")


def _configured(store: NodeStore) -> dict[str, str]:
    """Empty: this user may not ask."""
    try:
        raw = store.client.execute("CONFIG", "GET", "*")
    except StoreUnavailable:
        return {}
    return {name.decode(): value.decode(errors="replace") for name, value in zip(raw[::2], raw[1::2], strict=True)}


def _keeps(info: dict[str, str], config: dict[str, str]) -> Iterator[Finding]:
    """Whether what was accepted outlives the server."""
    if info.get("aof_enabled") != "1":
        yield wrong("aof", "appendonly is off: a restart of Redis loses accepted runs; CONFIG SET appendonly yes")
    elif info.get("aof_last_write_status", "ok") != "ok" or info.get("aof_last_bgrewrite_status", "ok") != "ok":
        yield wrong("aof", "the append-only file cannot be written: look at the server's disk and log")
    else:
        yield _fsync(config.get("appendfsync"))
    policy, limit = info.get("maxmemory_policy", "noeviction"), int(info.get("maxmemory", "0"))
    if policy == "noeviction":
        yield ok("eviction", "maxmemory-policy is noeviction")
    elif limit:
        yield wrong("eviction", f"maxmemory-policy is {policy}: a full server throws runs away; set it to noeviction")
    else:
        yield note("eviction", f"maxmemory-policy is {policy}; with a maxmemory it would throw runs away: noeviction")
    replicas = int(info.get("connected_slaves", "0"))
    if replicas:
        yield ok("replicas", f"{replicas} connected")
    else:
        yield note("replicas", "no replica is connected: the fleet lives as long as this server's disk")


def _fsync(how: str | None) -> Finding:
    if how is None:
        return note("aof", "appendonly is on; how often it reaches the disk cannot be read (no right to CONFIG GET)")
    if how == "always":
        return ok("aof", "appendonly is on, each write reaches the disk before its answer")
    lost = "about a second's" if how == "everysec" else "half a minute's"
    return note("aof", f"appendfsync is {how}: a power failure may lose {lost} writes; `durability: fsync` waits")


def clock_difference(seconds: float) -> Finding:
    """Of Redis' clock to this machine's: due times and schedules go by Redis', logs by this one."""
    if abs(seconds) <= CLOCK_SECONDS:
        return ok("clock", "this machine's clock and Redis' agree")
    how = "ahead of" if seconds > 0 else "behind"
    return note(
        "clock", f"Redis' clock is {abs(seconds):.1f} s {how} this machine's; schedules go by Redis': run NTP on both"
    )


def _fleet(store: NodeStore) -> Iterator[Finding]:
    views = store.nodes()
    lost = [view.record.node for view in views if view.is_lost]
    if lost:
        yield note("nodes", f"no heartbeat from {', '.join(lost)}: look at these machines, or start them again")
    versions = sorted({view.record.version for view in views})
    if len(versions) > 1:
        yield note("nodes", f"nodes have different versions: {', '.join(versions)}; upgrade the rest, leader last")
    if views and not any(view.record.term is not None and not view.is_lost for view in views):
        yield note("leader", "no node leads now: schedules and recoveries wait; see the log of each node")
    elif views and not lost:
        yield ok("nodes", f"{len(views)} node(s), one leads")


def election(settings: Settings) -> Iterator[Finding]:
    """Credentials, rights and a round trip; whether this node elects as its fleet does."""
    if not in_fleet(settings):
        return
    try:
        check_parameters(settings.leader_election)
        backend = lease_backend(settings, redis_address(settings))
    except Invalid as exc:
        yield from (wrong("election", str(problem)) for problem in exc.problems)
        return
    began = clock.monotonic()
    try:
        holder = backend.probe(REQUEST_TIMEOUT)
    except LeaseFailure as exc:
        yield wrong("lease", f"{backend.place}: {exc}")
        return
    finally:
        backend.close()
    seconds = clock.monotonic() - began
    yield ok("lease", f"{backend.place} can be read and written, {seconds * 1000:.0f} ms; held by {holder or 'nobody'}")
    yield from _agreement(settings, backend.place)


def _agreement(settings: Settings, place: str) -> Iterator[Finding]:
    store = open_store(settings, name="kubemin-doctor", reads=True)
    try:
        known = store.client.execute("GET", keys.LEADER_BACKEND)
    except StoreUnavailable:
        return  # told by the check of Redis
    finally:
        store.close()
    if known is not None and known.decode() != place:
        yield wrong(
            "election",
            f"the fleet elects its leader by {known.decode()}, this node by {place}: it does not campaign; set "
            "leaderElection here as on the other nodes",
        )
