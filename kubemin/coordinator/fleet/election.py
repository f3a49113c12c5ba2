"""The campaign of this node: which backend, under which name, and what the store says of epochs.

The backend is chosen once, at the start, and never changed while it runs; Redis remembers which one the fleet uses.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from typing import TypeVar

from kubemin import faults
from kubemin.config import Settings
from kubemin.errors import Invalid, KubeminError, Problem
from kubemin.kube.client import new_client
from kubemin.kube.credentials import find_credentials
from kubemin.leader.announcer import Announcer
from kubemin.leader.campaign import WORK_STOPS_WITHIN, Campaign
from kubemin.leader.elector import REQUEST_TIMEOUT
from kubemin.leader.lease.base import LeaseBackend, Unanswered
from kubemin.leader.lease.caller import FLEET_KEYS, StoreCaller
from kubemin.leader.lease.kubernetes import KubernetesLease
from kubemin.leader.lease.redis import Agreement, RedisLease
from kubemin.store.redis.address import Address
from kubemin.store.redis.node import NodeStore
from kubemin.store.redis.opening import open_store, redis_address
from kubemin.telemetry import log

T = TypeVar("T")


def make_campaign(settings: Settings) -> Campaign:
    """Raises Invalid: durations that contradict each other, no way to the backend that is configured."""
    address = redis_address(settings)
    backend = lease_backend(settings, address)
    agreement = Agreement(lambda: StoreCaller(address), FLEET_KEYS.backend)
    line = StoreLine(settings)
    election = settings.leader_election
    log.debug("election", lease=backend.place, backend=backend.kind)
    return Campaign(
        backend,
        election,
        line.highest_epoch,
        _announcer(settings, backend.place),
        identity=f"{settings.node_id}_{os.getppid()}_{uuid.uuid4()}",
        may_campaign=lambda: agreement.check(backend.place, REQUEST_TIMEOUT),
        tell_released=line.tell_released,
        work_stalls_after=max(WORK_STOPS_WITHIN, election.renew_deadline / 2),
    )


def node_of(identity: str) -> str:
    """The node's name in a holder identity."""
    name, _, rest = identity.rpartition("_")
    return name.rpartition("_")[0] or rest or identity


class StoreLine:
    """What the campaign says to the store, in its own threads. A connection is taken out while it is used: who hangs in
    one, in a thread that was given up, keeps it, and the next call has a new one."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store: NodeStore | None = None

    def highest_epoch(self) -> int:
        """That the store has accepted. Raises Unanswered."""
        return self._call(NodeStore.newest_epoch)

    def tell_released(self, epoch: int) -> None:
        """Raises Unanswered."""
        faults.point("leader.released")
        self._call(lambda store: store.handover.tell(epoch))

    def _call(self, operation: Callable[[NodeStore], T]) -> T:
        store, self._store = self._store, None
        try:
            store = store or open_store(self._settings, name="kubemin-epoch", reads=True)
            result = operation(store)
        except KubeminError as exc:
            if store is not None:
                store.close()
            raise Unanswered(str(exc)) from exc
        self._store = store
        return result


def _announcer(settings: Settings, place: str) -> Announcer:
    if settings.leader_election.exit_on_lost_leader:
        return _Exiting(settings.node_id, place)
    return Announcer(settings.node_id, place)


class _Exiting(Announcer):
    """exitOnLostLeader: the coordinator is restarted, and never the workers."""

    def lost(self, epoch: int, reason: str) -> None:
        super().lost(epoch, reason)
        log.error("the coordinator ends, as leaderElection.exitOnLostLeader says", epoch=epoch)
        os._exit(1)


def lease_backend(settings: Settings, address: Address) -> LeaseBackend:
    """`auto` is Kubernetes where this machine has credentials. Nothing is connected here, and no client imported."""
    election = settings.leader_election
    credentials = None if election.backend == "redis" else find_credentials(settings.kubeconfig)
    if credentials is not None:
        return KubernetesLease(lambda: new_client(credentials), election.namespace, election.name)
    if election.backend == "kubernetes":
        text = "kubernetes was asked for, and there are no credentials; set kubeconfig, or run in a pod, or use redis"
        raise Invalid([Problem("leaderElection.backend", "no_credentials", text)])
    return RedisLease(lambda: StoreCaller(address), FLEET_KEYS, election.lease_duration)
