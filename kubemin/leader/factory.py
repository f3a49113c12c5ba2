"""A campaign from the settings: which backend, which connections. The one place that knows both.

Nothing is connected here, and the Kubernetes client is not imported: that is done in the campaign's own threads, on
time.
"""

from __future__ import annotations

from collections.abc import Callable

from kubemin.config import LeaderElection, Settings
from kubemin.errors import Invalid, Problem
from kubemin.kube.client import new_client
from kubemin.kube.credentials import Credentials, find_credentials
from kubemin.leader.announcer import Announcer
from kubemin.leader.campaign import WORK_STOPS_WITHIN, Campaign
from kubemin.leader.elector import REQUEST_TIMEOUT
from kubemin.leader.lease.base import LeaseBackend
from kubemin.leader.lease.caller import FLEET_KEYS, StoreCaller
from kubemin.leader.lease.kubernetes import KubernetesLease
from kubemin.leader.lease.redis import Agreement, RedisLease
from kubemin.store.redis.address import Address

_NO_CREDENTIALS = (
    "there are no credentials for kubernetes: set kubeconfig or $KUBECONFIG, or run in a pod; redis needs none"
)


def new_backend(settings: Settings, address: Address) -> LeaseBackend:
    """`auto` is Kubernetes where this machine has credentials. Raises Invalid."""
    election = settings.leader_election
    credentials = None if election.backend == "redis" else find_credentials(settings.kubeconfig)
    if credentials is not None:
        return _kubernetes(credentials, election)
    if election.backend == "kubernetes":
        raise Invalid([Problem("leaderElection.backend", "no_credentials", _NO_CREDENTIALS)])
    return RedisLease(lambda: StoreCaller(address), FLEET_KEYS, election.lease_duration)


def _kubernetes(credentials: Credentials, election: LeaderElection) -> LeaseBackend:
    return KubernetesLease(lambda: new_client(credentials), election.namespace, election.name)


def new_campaign(
    settings: Settings,
    address: Address,
    epoch_floor: Callable[[], int | None],
    *,
    announcer: Announcer | None = None,
) -> Campaign:
    """Not started. `epoch_floor` uses a connection of its own: it is called in the campaign's threads. Raises
    Invalid."""
    backend = new_backend(settings, address)
    agreement = Agreement(lambda: StoreCaller(address), FLEET_KEYS.backend)
    return Campaign(
        backend,
        settings.leader_election,
        epoch_floor,
        announcer or Announcer(settings.node_id, backend.place),
        may_campaign=lambda: agreement.check(backend.place, REQUEST_TIMEOUT),
        work_stalls_after=max(WORK_STOPS_WITHIN, settings.leader_election.renew_deadline / 2),
    )
