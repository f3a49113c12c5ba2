"""Clients that wait for runs to end. In memory only: a client that loses its connection asks again."""

from __future__ import annotations

from kubemin.coordinator.server import Reply
from kubemin.model.states import RUN_TERMINAL, RunState
from kubemin.store.base import Change, Store


class _Wait:
    __slots__ = ("open", "reply", "states")

    def __init__(self, reply: Reply, states: dict[str, RunState], pending: set[str]) -> None:
        self.reply = reply
        self.states = states
        self.open = pending


class Waiters:
    """`wait` requests by the runs they wait for."""

    def __init__(self) -> None:
        self._by_run: dict[str, list[_Wait]] = {}

    def add(self, store: Store, runs: list[str], reply: Reply) -> None:
        """Answer at once if all are terminal; unknown ids count as ended (they are absent from the answer)."""
        states = store.states(runs)
        pending = {run for run, state in states.items() if state not in RUN_TERMINAL}
        wait = _Wait(reply, {r: s for r, s in states.items() if r not in pending}, pending)
        if not pending:
            reply.ok(wait.states)
        for run in pending:
            self._by_run.setdefault(run, []).append(wait)

    def settle(self, change: Change) -> list[Reply]:
        """A run ended: the replies that this completes."""
        done: list[Reply] = []
        if not self._by_run:
            return done
        for wait in self._by_run.pop(change.run, ()):
            wait.open.discard(change.run)
            wait.states[change.run] = RunState(change.state)
            if not wait.open and not wait.reply.connection.closed:
                wait.reply.ok(wait.states)
                done.append(wait.reply)
        return done

    def forget_closed(self) -> None:
        """Drop the waits of clients that are gone."""
        for run, waits in list(self._by_run.items()):
            left = [w for w in waits if not w.reply.connection.closed]
            if left:
                self._by_run[run] = left
            else:
                del self._by_run[run]
