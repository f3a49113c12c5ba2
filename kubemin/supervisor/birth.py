"""A worker that is about to be forked: all that has to be there before, so that the forks themselves can follow one
another at once (`forking.fork_row`)."""

from __future__ import annotations

import os
from typing import NamedTuple

from kubemin.channel import PacketConnection
from kubemin.config import Settings
from kubemin.proctitle import set_title
from kubemin.scoreboard import SlotState
from kubemin.supervisor.forking import Child
from kubemin.supervisor.node import Node
from kubemin.supervisor.slots import Channel, Slot


class Birth(NamedTuple):
    """`channel` is open: whoever does not fork `child` closes it."""

    slot: int
    incarnation: int
    generation: int
    channel: Channel
    child: Child

    @classmethod
    def prepare(cls, node: Node, slot: Slot, incarnation: int, generation: int, settings: Settings) -> Birth:
        """Raises OSError (no more descriptors)."""
        number, patience = slot.number, slot.patience
        node.board.slot_writer(number).clear()
        channel = Channel.open(node.forker)

        def main() -> int:
            _begin_life(node, number, incarnation, generation)
            tickets, tasks, reports = (PacketConnection(fd) for fd in channel.of_worker)
            return node.entries.worker(
                slot=number,
                incarnation=incarnation,
                generation=generation,
                instance=node.instance,
                settings=settings,
                board=node.board,
                tasks=tasks,
                reports=reports,
                tickets=tickets,
                patience=patience,
            )

        child = Child(main, role=f"worker {number}", keep=channel.of_worker, limited=True)
        return cls(number, incarnation, generation, channel, child)


def _begin_life(node: Node, slot: int, incarnation: int, generation: int) -> None:
    set_title(f"kubemin: worker {slot} [starting]")
    writer = node.board.slot_writer(slot)
    writer.state(SlotState.STARTING, pid=os.getpid(), incarnation=incarnation, generation=generation)
