"""What every worker of a fleet does with its tasks, done once in the supervisor before it forks (worker/rehearsal.py).

A real worker takes, runs and tells tasks that do nothing; where Redis would be is a socket pair that is answered here
(store/redis/stage.py). Whatever is amiss with the settings or the directories is the workers' to say. Touches the spare
slot of the scoreboard that it is given, socket pairs and one file of the outbox, and leaves nothing.
"""

from __future__ import annotations

import socket

import msgspec

from kubemin.channel import PacketConnection, WorkerMode, packet_pair
from kubemin.config import Settings
from kubemin.errors import Invalid
from kubemin.model.records import Owner
from kubemin.outbox import drop, path_of
from kubemin.scoreboard import SlotWriter
from kubemin.store.redis.stage import Stage
from kubemin.worker.execute import Executor
from kubemin.worker.fleet.loop import FleetWorker
from kubemin.worker.fleet.process import fleet_worker
from kubemin.worker.fleet.stream import Stream
from kubemin.worker.interrupts import Interrupts
from kubemin.worker.output import PythonOutput

TASKS = 120


class _Unheard(Interrupts):
    """Of a worker that is none: signals go on waking the supervisor."""

    def watch(self) -> bool:
        return True


def rehearse_in_fleet(
    settings: Settings, function: str, writer: SlotWriter, slot: int, output: PythonOutput, executor: Executor
) -> int:
    """`function` is one that the executor admits. How many tasks were run; 0: no worker can begin here."""
    owner = Owner("rehearsal", slot, 0)
    unsigned = msgspec.structs.replace(settings, signing_key_file=None)
    tickets, tasks = packet_pair()
    reports, told = packet_pair()
    interrupts = _Unheard(reports)
    near, far = socket.socketpair()
    try:
        worker = fleet_worker(owner, unsigned, writer, tickets, tasks, reports, interrupts, output, executor, 0.0)
        stage = Stage(near, far, msgspec.json.encode({"python": function, "args": [1]}).decode())
        _perform(worker, stage, tasks, told)
        return stage.tasks
    except (Invalid, OSError):
        return 0
    finally:
        drop(path_of(settings.runtime_dir, owner))
        interrupts.close()
        for end in (tickets, tasks, reports, told, near, far):
            end.close()


def _perform(worker: FleetWorker, stage: Stage, tasks: PacketConnection, told: PacketConnection) -> None:
    worker.store.client.use(stage)
    worker.change_mode(WorkerMode(distributed=True))
    worker.stream = Stream(most_millis=0)
    while stage.tasks < TASKS and not worker.wants_to_end:
        worker.turn(tasks.try_recv())
        told.try_recv()
    worker.store.close()
