"""Random histories that move from SQLite into Redis at some moment, held against the model that histories of one store
are held against (`test_machine.py`)."""

from __future__ import annotations

from both import Both
from hypothesis.stateful import precondition, rule
from test_machine import StoreMachine, run_histories


class MovingMachine(StoreMachine):
    """The history begins in SQLite; at some moment all that is unfinished moves, and the history goes on in Redis."""

    engine: Both

    @precondition(lambda self: self.engine.now is self.engine.local)
    @rule()
    def move(self) -> None:
        for key in sorted(self.held):
            claim, owner = self.held.pop(key)
            assert self.store.give_back(owner, [(claim.run, claim.idx, claim.token)]) == 1
            run, idx, task = self.task_of(claim)
            run.put_back(idx, task)
            run.settle()
        self.drain()
        before = {name: self.engine.states(name) for name in self.runs}
        self.engine.move()
        self.unfinished = False
        for queue in self.paused:
            self.store.pause(queue)
        for name, run in list(self.runs.items()):
            if run.ended:
                del self.runs[name]
            else:
                assert self.engine.states(name).keys() == before[name].keys()
        self.sent = [(owner, told) for owner, told in self.sent if told.run in self.runs]
        self.dead = [(owner, told) for owner, told in self.dead if told.run in self.runs]


def test_random_histories_that_move() -> None:
    make = staticmethod(lambda at: Both(at, slice_size=3, window=2))
    run_histories(type("Machine", (MovingMachine,), {"make": make}), 25)
