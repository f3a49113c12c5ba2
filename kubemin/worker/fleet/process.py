"""The entry of a fleet's worker: its own connection, made after the fork."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubemin.channel import PacketConnection
from kubemin.config import Settings
from kubemin.errors import Invalid
from kubemin.model.records import Owner
from kubemin.outbox import Outbox
from kubemin.scoreboard import SlotWriter
from kubemin.store.redis.node import connection_name
from kubemin.store.redis.opening import open_store
from kubemin.worker.execute import Executor
from kubemin.worker.fleet.batch import Batch
from kubemin.worker.fleet.guard import Guard
from kubemin.worker.fleet.loop import FleetWorker
from kubemin.worker.interrupts import Interrupts
from kubemin.worker.output import PythonOutput

if TYPE_CHECKING:
    from kubemin.worker.fleet.replays import Replays


def fleet_worker(
    owner: Owner,
    settings: Settings,
    writer: SlotWriter,
    tickets: PacketConnection,
    tasks: PacketConnection,
    reports: PacketConnection,
    interrupts: Interrupts,
    output: PythonOutput,
    executor: Executor,
    patience: float,
) -> FleetWorker:
    """Raises Invalid: an address or a key file that cannot be used."""
    store = open_store(settings, instance=owner.instance, name=connection_name(owner))
    batch = Batch(tickets, reports, Outbox(settings.runtime_dir, owner))
    guard = Guard(store, executor, _replays(settings) if store.signer is not None else None)
    parts = (owner.slot, settings, writer, tasks, reports, interrupts, output, executor, patience)
    return FleetWorker(*parts, owner=owner, store=store, batch=batch, guard=guard)


def _replays(settings: Settings) -> Replays:
    from kubemin.worker.fleet.replays import Replays  # brings OpenSSL, 2 MB, which signing needs

    try:
        return Replays(settings.state_dir)
    except OSError as exc:
        raise Invalid(f"signingKeyFile: tokens cannot be noted in {settings.state_dir}: {exc.strerror}") from exc
