"""This node's place in the fleet: its name, its heartbeat, and the burial of its own dead predecessors.

A name belongs to the machine and state directory that beat last: a second node of the same name refuses to start.
What a predecessor held is taken back at once, after what it left undelivered was delivered; no leader is needed.
"""

from __future__ import annotations

from collections.abc import Callable

from kubemin import __version__, clock
from kubemin.config import Settings
from kubemin.coordinator.fleet.instances import Instances
from kubemin.coordinator.fleet.timing import Every
from kubemin.errors import Refused, StoreUnavailable, unwritable
from kubemin.store import undelivered
from kubemin.store.redis import identity
from kubemin.store.redis.node import NodeRecord, NodeStore, TermRecord
from kubemin.telemetry import log

BEAT_SECONDS = 5.0
BEATS_OF_LIFE = 3  # a name is free after so many missed heartbeats

Started = list[tuple[str, int, int]]  # run, idx, token


class NotAdmitted(Refused):
    """This node cannot be in this fleet, as it is configured: it must not start."""


class NameTaken(NotAdmitted):
    code = "node_name"


class Stranger(NotAdmitted):
    code = identity.OTHER_FLEET


class UnknownKey(NotAdmitted):
    code = "signing_key"


class Membership:
    def __init__(self, store: NodeStore, settings: Settings, instance: str, predecessor: Started) -> None:
        self._store, self._settings, self._instance = store, settings, instance
        self._started = {(run, idx): token for run, idx, token in predecessor}
        self._known = bool(predecessor)
        try:
            self._instances = Instances(settings.state_dir)
        except OSError as exc:
            raise unwritable(f"cannot read in {settings.state_dir}", exc) from exc
        self._beat = Every(BEAT_SECONDS, jitter=0.1)
        self._since = clock.wall()

    def left(self) -> float:
        return self._beat.left()

    def enter(self, record: Callable[[], NodeRecord], deliver_more: Callable[[], None]) -> None:
        """Before the first claim. `deliver_more`: results of the dead that are not on disk. Raises NotAdmitted,
        StoreUnavailable."""
        try:
            self.recognise()
        except StoreUnavailable as exc:
            if exc.code == identity.OTHER_FLEET:
                raise Stranger(str(exc)) from exc
            raise
        self._register(record(), joins=True)
        self._beat.due()
        self._compare_keys()
        try:
            dead = self._instances.note(self._instance)
        except OSError as exc:
            raise unwritable(f"cannot write in {self._settings.state_dir}", exc) from exc
        self.deliver()
        deliver_more()
        count = 0
        for instance in dead:
            count += self._store.adopt(instance, self._started if self._known else None)
            self._instances.forget(instance)
        if count:
            log.info("tasks of a dead predecessor were queued again", tasks=count)

    def _compare_keys(self) -> None:
        """Whether all nodes sign alike; those that share no key were told apart when this one was registered."""
        others = [view.record for view in self._store.nodes() if not view.is_lost]
        strange = [record for record in others if self._signs_otherwise(record)]
        if strange:
            log.error(
                "this node does not sign with the same key as another",
                other=strange[0].node,
                key=self._key,
                others=strange[0].keys[0] if strange[0].keys else None,
            )

    @property
    def _key(self) -> str | None:
        return None if self._store.signer is None else self._store.signer.id

    def _signs_otherwise(self, record: NodeRecord) -> bool:
        return record.keys[:1] != (() if self._key is None else (self._key,))

    def recognise(self) -> bool:
        """Is it our fleet's server? True: it was, and has lost everything. Raises StoreUnavailable."""
        client = self._store.client
        try:
            lost = identity.recognise(client.execute, self._settings.state_dir, client.where)
        except OSError as exc:
            raise unwritable(f"cannot write in {self._settings.state_dir}", exc) from exc
        if lost:
            log.error(
                "Redis has lost the records of this fleet (FLUSHALL, a start without its data, or an empty server): "
                "its runs, schedules' marks and paused queues are gone; this node publishes its workflows again and "
                "takes new work; restore a backup with all daemons stopped, or submit again what was lost",
                redis=client.where,
            )
        return lost

    def turn(self, make: Callable[[], NodeRecord]) -> None:
        """The heartbeat, when it is due."""
        if not self._beat.due():
            return
        self._register(make())

    def _register(self, record: NodeRecord, *, joins: bool = False) -> None:
        """Who shares no key with any other node would end their tasks as unsigned, and they its own: it stays out.

        Not while some nodes do not sign: then the fleet is about to begin. Raises NameTaken, UnknownKey."""
        other = self._store.beat(record, self.place, BEAT_SECONDS * BEATS_OF_LIFE, joins=joins)
        if other is None:
            return
        if other.node == record.node:
            raise NameTaken(
                f"a node named {record.node} is in the fleet already, with another machine or state directory "
                f"(instance {other.instance}): set another nodeId here"
            )
        theirs = f"{other.node}: {other.keys[0]}; here {self._key or 'none'}"
        raise UnknownKey(
            f"the nodes of this fleet sign with another key ({theirs}), so none would run what the other signs: name "
            "the fleet's key file in signingKeyFile"
        )

    def beat_soon(self) -> None:
        self._beat.soon()

    @property
    def place(self) -> str:
        return f"{self._instances.machine} {self._settings.state_dir}"

    def record(
        self, *, capacity: int, busy: int, term: TermRecord | None, drained: bool, failures: dict[str, int]
    ) -> NodeRecord:
        return NodeRecord(
            node=self._settings.node_id,
            instance=self._instance,
            version=__version__,
            record=self._store.version,
            capacity=capacity,
            busy=busy,
            queues=self._settings.queues,
            term=term,
            drained=drained,
            started=self._since,
            every=BEAT_SECONDS,
            keys=() if self._store.signer is None else self._store.signer.ids,
            failures=failures,
        )

    def deliver(self) -> int:
        """Results that workers left on disk, before anything of theirs is taken back."""
        count = 0
        for path, owner, outcomes in undelivered.kept(self._settings.state_dir):
            verdicts = self._store.finish(owner, outcomes)
            undelivered.drop(path)
            count += len(outcomes)
            log.info("a kept result was delivered", worker=owner.slot, task=f"{outcomes[0].run}.{outcomes[0].idx}",
                     verdict=verdicts[0].value)  # fmt: skip
        return count

    def leave(self) -> None:
        self._store.leave(self._settings.node_id)
        self._instances.forget(self._instance)
