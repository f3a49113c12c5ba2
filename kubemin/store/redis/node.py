"""What a node of a fleet asks beyond the store's interface: waiting, renewing, finding what is lost, heartbeat, terms.

`NodeStore` is one connection; each process of the daemon has its own. All of it may be repeated after a lost reply.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from kubemin import clock
from kubemin.clock import Micros
from kubemin.errors import KubeminError, Refused
from kubemin.model.records import Accepted, Claim, Outcome, Owner, Rejection, Submission
from kubemin.model.states import Cause
from kubemin.signing import Signer
from kubemin.store.base import Stop, Verdict
from kubemin.store.codec import encode
from kubemin.store.fleet import FleetStore
from kubemin.store.redis import keys
from kubemin.store.redis.claims import Entry
from kubemin.store.redis.client import Client
from kubemin.store.redis.durability import Durability
from kubemin.store.redis.handover import Handover
from kubemin.store.redis.hooks import Hooks
from kubemin.store.redis.lives import lock_value, slot_name
from kubemin.store.redis.orphans import Orphans
from kubemin.store.redis.records import pack
from kubemin.store.redis.store import RedisStore

BLOCK = 2.0  # seconds a BLPOP lasts at most: a dead host's blocked client swallows pushes (engine rule 7)
OVERDUE = 1.5  # seconds after which a reply to it will not come: the connection is half open
RESCUE_AFTER = 2.0  # seconds that an entry may be popped and not claimed
RESCUE_MOST = 30.0  # the same for a task that was suspect again and again
RESCUE_AT_ONCE = 200
LAPSED_AT_ONCE = 200  # slots looked at in one call
LONG_GONE = 7 * 86_400.0  # seconds that an adopted instance, and a node that is silent, are known
MISSED = 3  # heartbeats after which a node counts as lost
SURE_SECONDS = 30.0  # that what nodes say of their signing keys is relied on
WORKER_NAME = "kubemin-worker:"  # + instance:slot:incarnation: name of a worker's connection, by which it is unblocked

Held = tuple[Owner, str, int, int]  # owner, run, idx, token


class Renewal(msgspec.Struct, frozen=True):
    """`fenced`: of what was said to be held, what is not its owner's any more."""

    fenced: list[Held]
    stops: list[Stop]
    again: int  # locks that had lapsed and were set again


class TermRecord(msgspec.Struct, frozen=True, rename="camel"):
    """Of the node that leads. `since` is its wall clock."""

    epoch: int
    holder: str
    since: Micros
    transitions: int
    lease: str
    backend: str


class NodeRecord(msgspec.Struct, frozen=True, rename="camel"):
    """A heartbeat. `capacity` is worker processes, `busy` those that run something."""

    node: str
    instance: str
    version: str
    record: int = 1  # the newest version of records that this node knows
    capacity: int = 0
    busy: int = 0
    queues: tuple[str, ...] = ()
    term: TermRecord | None = None  # it leads
    drained: bool = False
    started: Micros = 0
    every: float = 5.0  # seconds between heartbeats
    keys: tuple[str, ...] = ()  # ids of its signing keys: it runs what one of them signed
    failures: dict[str, int] = {}  # of the last hour, by workflow


class NodeView(msgspec.Struct, frozen=True):
    """`age`: seconds since its last heartbeat, by Redis' clock."""

    record: NodeRecord
    place: str
    age: float

    @property
    def is_lost(self) -> bool:
        return self.age > MISSED * self.record.every


_record = msgspec.json.Decoder(NodeRecord).decode


class NodeStore(RedisStore):
    """`ttl` and `renew` are the settings `lock.ttl` and `lock.renew`, in seconds."""

    def __init__(self, address: str, *, ttl: float = 15.0, renew: float = 5.0, **options: Any) -> None:
        super().__init__(address, **options)
        self._claims.ttl = ttl
        self._ttl, self._tolerance = ttl, 2 * renew
        self._hooks = Hooks(self._session, self._intake, self._reads)
        self._orphans = Orphans(self._session, self._claims)
        self._cursor = "0"
        self.handover = Handover(self.client)
        self.durability = Durability(self.client)
        self._obstacle: KubeminError | None = None
        self._known_keys_until = float("-inf")

    # --- signing -----------------------------------------------------------------------------------------------------

    def trust(self, signer: Signer | None, life: float, obstacle: KubeminError | None = None) -> None:
        """Sign, and believe only what is signed; `life`: seconds that a signed run may be begun in. `obstacle`: why
        there is a key that cannot be used, which is raised when something would have to be signed."""
        self._session.trust(signer, life)
        self._obstacle = obstacle

    @property
    def signer(self) -> Signer | None:
        signatures = self._session.signatures
        return None if signatures is None else signatures.signer

    def sign_output(self, claim: Claim, outcome: Outcome) -> str:
        """Empty where nothing is signed."""
        signatures = self._session.signatures
        return "" if signatures is None else signatures.sign_output(claim, outcome)

    def submit(self, submissions: Sequence[Submission]) -> list[Accepted | Rejection]:
        self._check_keys()
        return super().submit(submissions)

    def stage(self, batch: str, submissions: bytes) -> None:
        self._check_keys()
        super().stage(batch, submissions)

    def retry(self, run: str, step: str | None = None) -> int:
        self._check_keys()
        return super().retry(run, step)

    def _check_keys(self) -> None:
        """Whether some node runs what we submit, as far as it is known. Raises Refused, and the obstacle."""
        if self._obstacle is not None:
            raise self._obstacle
        if clock.monotonic() < self._known_keys_until:
            return
        live = [view.record for view in self.nodes() if not view.is_lost]
        if live and not any(self._runs_ours(record) for record in live):
            raise _unknown_key(self.signer, live[0])
        self._known_keys_until = clock.monotonic() + SURE_SECONDS

    def _runs_ours(self, record: NodeRecord) -> bool:
        return not record.keys or (self.signer is not None and self.signer.id in record.keys)

    # --- settings ----------------------------------------------------------------------------------------------------

    @property
    def output_bytes(self) -> int:
        return self._claims.output_bytes

    @output_bytes.setter
    def output_bytes(self, limit: int) -> None:
        self._claims.output_bytes = limit

    @property
    def left(self) -> bool:
        """Something large was begun since the last call of `advance`."""
        return self._session.left

    @property
    def version(self) -> int:
        return self._session.version

    @property
    def on_failure(self) -> tuple[str, ...]:
        """The setting `onFailure`: owed for each run whose failure this node's scripts see."""
        return self._session.on_failure

    @on_failure.setter
    def on_failure(self, argv: tuple[str, ...]) -> None:
        self._session.on_failure = argv

    def pay_calls(self) -> int:
        """Submit what `onFailure` is owed; any node may, at any time. How many."""
        return self._hooks.pay()

    def newest_version(self) -> int:
        """Of records that somebody has written into this fleet's queues."""
        found = (each.rpartition(b"@")[2] for each in self.client.execute("SMEMBERS", keys.QUEUES))
        return max((int(version) for version in found if version.isdigit()), default=1)

    def now(self) -> Micros:
        """Redis' time."""
        return self._session.now()

    def check_server(self) -> None:
        """It answers, takes writes, and is ours to use. Raises StoreUnavailable."""
        self.client.execute("SET", keys.PROBE, "")

    def server_time(self) -> Micros:
        """Asked now."""
        seconds, micros = self.client.execute("TIME")
        return int(seconds) * clock.SECOND + int(micros)

    def server_info(self) -> dict[str, str]:
        """INFO, of the server that holds our keys."""
        lines = self.client.execute("INFO").decode(errors="replace").splitlines()
        return dict(line.partition(":")[::2] for line in lines if ":" in line)

    # --- workers ----------------------------------------------------------------------------------------------

    def begin_wait(self, owner: Owner, queues: Sequence[str], limit: int) -> int:
        """Block in BLPOP, with the claim of what it pops behind it; the descriptor becomes readable at the end."""
        self._session.keep_time(BLOCK + OVERDUE)
        return self._claims.wait(owner, ("BLPOP", *self._lists(queues), BLOCK), queues, limit)

    def end_wait(self) -> Entry | None:
        """What was popped: `claim_popped` tells what came of it."""
        reply: Entry | None = self.client.end()
        return reply

    def claim_popped(self, owner: Owner, queues: Sequence[str], entry: Entry | None) -> list[Claim]:
        return self._claims.claim_popped(owner, queues, entry)

    def _lists(self, queues: Sequence[str]) -> list[str]:
        return [keys.queue(name, v) for name in queues for v in self._session.versions]

    def deliver(self, owner: Owner, outcomes: Sequence[Outcome]) -> list[Verdict]:
        """Results of a living worker of this node, told by another: those that it tells again are duplicates."""
        return self._claims.deliver(owner, outcomes)

    def held(self, owner: Owner) -> list[Held]:
        """What one life of a worker has claimed."""
        records = self._claims.records([slot_name(owner)])
        return [(owner, claim.run, claim.idx, claim.token) for _, claims in records for claim in claims]

    # --- the node's coordinator --------------------------------------------------------------------------------------

    def renew(self, owners: Sequence[Owner], held: Iterable[Held]) -> Renewal:
        """Renew all locks of these workers' claims in one call. What is to be stopped comes with the answer."""
        numbers = {owner: number for number, owner in enumerate(owners, 1)}
        told = [one for one in held if one[0] in numbers]
        request = pack(
            {
                "slots": [lock_value(owner, self._session.node) for owner in owners],
                "ttl": round(self._ttl * 1000),
                "tolerance": round(self._tolerance * clock.SECOND),
                "held": [[numbers[owner], run, idx, token] for owner, run, idx, token in told],
            }
        )
        touched = (keys.STAMP, *(keys.slot(slot_name(owner)) for owner in owners))
        fenced, stops, again = self.client.run("renew", touched, keys.PREFIX, request)
        return Renewal(
            [told[number - 1] for number in fenced],
            [_stop(owners[n - 1], run, idx, token, cause) for n, run, idx, token, cause in stops],
            int(again),
        )

    def rescue(self, queues: Sequence[str], wait: float = RESCUE_AFTER) -> tuple[list[str], int]:
        """Push entries again that were popped `wait` seconds ago and not claimed: (tasks, suspects that are left)."""
        request = {
            "wait": round(wait * clock.SECOND),
            "base": round(RESCUE_AFTER * clock.SECOND),
            "most": round(RESCUE_MOST * clock.SECOND),
            "limit": RESCUE_AT_ONCE,
        }
        pushed, left = [], 0
        for name in queues:
            for v in self._session.versions:
                lists = (keys.queue(name, v), keys.held(name, v))
                touched = (*lists, keys.pending(name, v), keys.suspects(name, v), keys.SEQ, keys.PAUSED)
                some, more = self.client.run("rescue", touched, keys.PREFIX, pack({**request, "queue": name}))
                pushed += [task.decode() for task in some]
                left += int(more)
        return pushed, left

    def beat(self, record: NodeRecord, place: str, life: float, *, joins: bool = False) -> NodeRecord | None:
        """This node lives. The record of another, and nothing is written, where one lives under the same name; or,
        when it `joins`, where the others sign, and none with a key of its own."""
        keys_of = list(record.keys) if joins else None
        request = pack({"name": record.node, "place": place, "life": life, "keys": keys_of})
        other = self.client.run("beat", (keys.NODES,), keys.PREFIX, request, encode(record))
        return None if other == 1 else _record(other)

    def leave(self, node: str) -> None:
        """An orderly end: nobody waits for this node's next heartbeat."""
        self.client.execute("HDEL", keys.NODES, node)

    def nodes(self) -> list[NodeView]:
        raw = self.client.execute("HGETALL", keys.NODES)
        now, found = self.now(), []
        for value in raw[1::2]:
            try:
                at, place, record = value.split(b"\n", 2)
                age = max(now - int(at), 0) / clock.SECOND
                found.append(NodeView(_record(record), place.decode(), age))
            except (msgspec.DecodeError, ValueError):
                continue  # a newer version's, or spoilt: until the node's next heartbeat
        return sorted(found, key=lambda view: view.record.node)

    def unblock(self, prefix: str, *, over: Client | None = None) -> int:
        """End the waits of connections with names that begin so; how many. By `over` when our own is waiting itself."""
        client, count = over or self.client, 0
        for line in client.execute("CLIENT", "LIST", "TYPE", "normal").decode().splitlines():
            if f" name={prefix}" in line and " cmd=blpop " in line:
                number = line.partition("id=")[2].partition(" ")[0]
                count += int(client.execute("CLIENT", "UNBLOCK", number))
        return count

    def is_retired(self, owner: Owner) -> bool:
        """This life of a worker counts as dead: it claims nothing any more."""
        known, dead = self.client.pipeline(
            [("GET", keys.slot(slot_name(owner))), ("HEXISTS", keys.RETIRED, owner.instance)]
        )
        return known == b"retired" or bool(dead)

    # --- the dead ----------------------------------------------------------------------------------------------------

    def adopt(self, instance: str, started: dict[tuple[str, int], int] | None) -> int:
        """Take back what a dead instance held; those in `started` (None: unknown) are charged. How many were queued
        again. Its late requests are refused from here on. Only with proof of its death (engine rule 12)."""
        self.client.execute("HSET", keys.RETIRED, instance, self.now())
        return self._claims.take_all(instance, set(), started)

    def recover_lapsed(self) -> tuple[int, float]:
        """A leader's duty: queue again what is held under locks that are gone: (tasks, seconds of grace left)."""
        request = self._session.duty(
            cursor=self._cursor,
            count=LAPSED_AT_ONCE,
            ttl=round(self._ttl * 1000),
            tolerance=round(self._tolerance * clock.SECOND),
        )
        cursor, slots, grace = self.client.run("lapsed", (keys.STAMP, keys.SLOTS), keys.PREFIX, pack(request))
        self._cursor = cursor.decode()
        count = 0
        for slot in slots:
            count += len(self._claims.lapse(slot.decode()))
        return count, float(grace)

    def take_back_orphans(self) -> tuple[int, bool]:
        """A leader's duty: see orphans.py."""
        return self._orphans.take_back()

    def forget_long_gone(self) -> None:
        """A leader's duty: instances that were adopted, and nodes that were last heard of, more than a week ago."""
        old = self.now() - round(LONG_GONE * clock.SECOND)
        for key in (keys.RETIRED, keys.NODES):
            raw = self.client.execute("HGETALL", key)
            gone = [name for name, value in zip(raw[::2], raw[1::2], strict=True) if _instant(value) < old]
            if gone:
                self.client.execute("HDEL", key, *gone)

    # --- terms -------------------------------------------------------------------------------------------------------

    def newest_epoch(self) -> int:
        """The highest that the store has accepted; 0: none."""
        known = self.client.execute("GET", keys.EPOCH)
        return int(known.split()[0]) if known else 0

    def lead(self, epoch: int, holder: str) -> bool:
        """Begin a term in the store: duties of this connection carry it. False: the store knows a higher one."""
        accepted = self.client.run("lead", (keys.EPOCH,), keys.PREFIX, pack({"epoch": epoch, "holder": holder}))[0]
        self._session.term = (epoch, holder) if accepted else None
        return bool(accepted)

    def follow(self) -> None:
        self._session.term = None


def _instant(value: bytes) -> Micros:
    """With which it begins; 0: with none."""
    word = value.partition(b"\n")[0]
    return int(word) if word.isdigit() else 0


def _unknown_key(signer: Signer | None, node: NodeRecord) -> Refused:
    theirs = f"node {node.node} runs only what is signed with key {' or '.join(node.keys)}"
    ours = "no signingKeyFile is set here" if signer is None else f"the first key here is {signer.id}"
    return Refused(f"{theirs}, and {ours}: name the fleet's key file in signingKeyFile", code="unsigned")


def _stop(owner: Owner, run: bytes, idx: int, token: bytes, cause: bytes) -> Stop:
    return Stop(owner, run.decode(), idx, int(token), Cause(cause.decode()))


def connection_name(owner: Owner) -> str:
    return f"{WORKER_NAME}{slot_name(owner)}"


if TYPE_CHECKING:

    def _is_complete(store: NodeStore) -> FleetStore:
        return store
