"""The start of a node that is configured to be in a fleet: distributed mode, or the fall-back to local.

A coordinator that follows one of the same daemon in the fleet stays there, whether Redis answers or not: an outage
stops no process. The fall-back is for a daemon that never got in.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from kubemin.channel import PacketConnection
from kubemin.config import Settings
from kubemin.coordinator.control import Control
from kubemin.coordinator.fleet.membership import NotAdmitted, Started
from kubemin.errors import Invalid, KubeminError, NoRoom, StoreUnavailable, Unreachable
from kubemin.exits import EXIT_STORE_UNUSABLE
from kubemin.modes import uses_redis
from kubemin.scoreboard import Scoreboard
from kubemin.store.redis.identity import OTHER_FLEET
from kubemin.store.redis.node import NodeStore
from kubemin.store.redis.opening import open_store, redis_address
from kubemin.telemetry import log

if TYPE_CHECKING:
    from kubemin.coordinator.fleet.process import FleetCoordinator

LOOK_SECONDS = 1.0  # between looks for Redis in the fall-back


def run_in_fleet(
    *, instance: str, settings: Settings, board: Scoreboard, control: PacketConnection, predecessor: Started
) -> int | None:
    """The exit code of this process; None: Redis does not answer, and the node is to work alone until it does."""
    place = redis_address(settings).shown
    log.info(f"Initializing distributed workflow with Redis at {place}")
    store = open_store(settings, instance=instance, name="kubemin-coordinator")
    known = board.read_coordinator()
    if known is None or not uses_redis(known.mode):
        failure = _try(store)
        if failure is not None and failure.code == OTHER_FLEET:
            return _refuse(str(failure))
        if failure is not None:
            return _without(settings, failure)
        if obstacle := store.durability.obstacle(settings.durability):
            return _refuse(obstacle)
    log.info(f"Distributed mode enabled with Redis at {place}")
    return _serve(instance, settings, board, control, store, predecessor)


def watch_for_redis(settings: Settings) -> int:
    """A descriptor that becomes readable once Redis answers; a thread looks (this process never forks)."""
    found = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    threading.Thread(target=_look, args=(settings, found), name="redis-watch", daemon=True).start()
    return found


def _look(settings: Settings, found: int) -> None:
    store = open_store(settings, name="kubemin-watch", reads=True)
    told = ""
    while (failure := _try(store)) is not None:
        if failure.code == OTHER_FLEET and str(failure) != told:
            told = str(failure)
            log.error("Redis answers, and this node cannot be in its fleet", reason=told)
        time.sleep(max(store.client.retry_in(), LOOK_SECONDS))
    store.close()
    log.info("Redis answers now; this node joins its fleet")
    os.eventfd_write(found, 1)


def _try(store: NodeStore) -> KubeminError | None:
    try:
        store.check_server()
    except StoreUnavailable as exc:
        return exc
    return None


def _refuse(reason: str) -> int:
    log.error("this node cannot be in the fleet", reason=reason)
    return EXIT_STORE_UNUSABLE


def _without(settings: Settings, failure: KubeminError) -> int | None:
    if settings.redis_required:
        log.error(f"Failed to init Redis, and redisRequired is set: {failure}")
        return EXIT_STORE_UNUSABLE
    log.warning(f"Failed to init Redis, falling back to local mode: {failure}")
    return None


def _serve(
    instance: str,
    settings: Settings,
    board: Scoreboard,
    control: PacketConnection,
    store: NodeStore,
    predecessor: Started,
) -> int:
    from kubemin.coordinator.fleet.process import FleetCoordinator

    try:
        coordinator = FleetCoordinator(instance, settings, board, Control(control), store, predecessor)
        coordinator.attach()
        _run(coordinator)
    except NoRoom:
        raise
    except (NotAdmitted, Invalid, Unreachable) as exc:
        return _refuse(str(exc))
    return 0


def _run(coordinator: FleetCoordinator) -> None:
    """Work of the leader that crashes gives the lease up: the next leader need not wait for it to lapse."""
    try:
        coordinator.run()
    except Exception:
        coordinator.office.close()
        raise
