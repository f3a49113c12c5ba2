"""The store's own client of Redis as a `ScriptCaller`: its TLS, ACL, Sentinel and Cluster, on a connection of its
own."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from kubemin.leader.lease.redis import LeaderKeys
from kubemin.store.redis import keys
from kubemin.store.redis.address import Address
from kubemin.store.redis.client import Client
from kubemin.store.redis.scripts import Script

# In the engine's hash slot, like all its keys.
FLEET_KEYS = LeaderKeys(lock=keys.LEADER, epoch=keys.LEADER_EPOCH, backend=keys.LEADER_BACKEND)


class StoreCaller:
    """Not to be shared: neither with the node's work, nor between the lease, the epoch's floor and the agreement."""

    def __init__(self, address: Address) -> None:
        self._client = Client(address, name="kubemin-leader")

    def call(self, text: str, keys: Sequence[str], args: Sequence[str | int], timeout: float) -> Any:
        return self._client.run(_script(text), keys, *args, timeout=timeout)

    def close(self) -> None:
        self._client.disconnect()


@functools.cache
def _script(text: str) -> Script:
    return Script("leader", text)
