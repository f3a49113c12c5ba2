"""The entry of a fleet's worker: its own connection, made after the fork."""

from __future__ import annotations

from kubemin.channel import PacketConnection
from kubemin.config import Settings
from kubemin.model.records import Owner
from kubemin.scoreboard import SlotWriter
from kubemin.store.redis.node import connection_name
from kubemin.store.redis.opening import open_store
from kubemin.worker.execute import Executor
from kubemin.worker.fleet.loop import FleetWorker
from kubemin.worker.interrupts import Interrupts
from kubemin.worker.output import PythonOutput


def run_fleet_worker(
    owner: Owner,
    settings: Settings,
    writer: SlotWriter,
    tasks: PacketConnection,
    reports: PacketConnection,
    interrupts: Interrupts,
    output: PythonOutput,
    executor: Executor,
) -> None:
    """Until told to stop, or to be replaced. Raises Invalid: an address that cannot be used."""
    store = open_store(settings, instance=owner.instance, name=connection_name(owner))
    FleetWorker(
        owner.slot, settings, writer, tasks, reports, interrupts, output, executor, owner=owner, store=store
    ).run()
