"""A small model of a store: the same rules, kept in dictionaries and worked out the slow way.

Where a store counts down and writes cursors, the model looks at the whole graph again after each event, in
topological order, until nothing changes. Both use `kubemin.model.transitions` for the rules themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kubemin.model import transitions as rules
from kubemin.model.graph import Graph
from kubemin.model.records import Owner
from kubemin.model.states import STARTS_IN_STOPPED_RUN, TASK_TERMINAL, Cause, Kind, RunState, TaskState
from kubemin.store.base import CRASH_LIMIT, LOSS_LIMIT


@dataclass
class Task:
    """A node, or one item of a fan-out. `backoff`: waits for its retry's due time."""

    state: TaskState = TaskState.WAITING
    cause: Cause | None = None
    used: int = 0
    crashes: int = 0
    losses: int = 0
    drains: int = 0
    backoff: bool = False
    holder: tuple[Owner, int] | None = None
    last_token: int = 0
    accepted: int = 0  # token of the last accepted outcome
    items: dict[int, Task] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        return self.state in TASK_TERMINAL

    def reset(self) -> None:
        self.state, self.cause, self.backoff = TaskState.WAITING, None, False
        self.used = self.crashes = self.losses = self.drains = 0


class Run:
    def __init__(self, graph: Graph, *, released: bool = True) -> None:
        self.graph = graph
        self.nodes = [Task() for _ in graph.nodes]
        self.released = released
        self.started = False
        self.deadline = False
        self.round = 1
        self.stop: Cause | None = None
        self.causes: list[str] = []  # of failed steps
        self.state = RunState.WAITING
        self.settle()

    # --- what is known of a node -------------------------------------------------------------------------------------

    def heard(self, idx: int) -> int:
        bits = 0
        for edge in self.graph.nodes[idx].needs:
            need = self.nodes[edge.node]
            before = self.graph.nodes[edge.node]
            gate = self.graph.nodes[idx].kind is Kind.JOIN and before.step == self.graph.nodes[idx].step + "/"
            member = before.kind is Kind.GATE and not gate
            bits |= rules.passes(
                need.state, need.cause, self.heard(edge.node), soft=edge.soft, gate=gate, member=member
            )
        return bits

    def settled(self, idx: int) -> bool:
        """Ended, and so has everything before it: a step kept from an earlier round passes on only then."""
        needs = self.graph.nodes[idx].needs
        return self.nodes[idx].ended and all(self.settled(edge.node) for edge in needs)

    def stopped(self, idx: int) -> Cause | None:
        return None if self.graph.nodes[idx].when in STARTS_IN_STOPPED_RUN else self.stop

    @property
    def ended(self) -> bool:
        return self.released and all(task.ended for task in self.nodes)

    # --- consequences ------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        if self.released:
            for idx in range(len(self.nodes)):
                self._settle_node(idx)
        if self.ended:
            failure = self.causes[0] if self.causes else None
            self.state, _ = rules.run_end(self.stop, failure)

    def _settle_node(self, idx: int) -> None:
        task, node = self.nodes[idx], self.graph.nodes[idx]
        if task.state is TaskState.RUNNING and node.kind is Kind.FANOUT:
            self._settle_fan(idx)
        elif (
            task.state in (TaskState.QUEUED, TaskState.WAITING)
            and self.stopped(idx)
            and (task.state is TaskState.QUEUED or task.backoff)
        ):
            self.end(idx, task, TaskState.CANCELLED, self.stop)
        elif (
            task.state is TaskState.WAITING and not task.backoff and all(self.settled(edge.node) for edge in node.needs)
        ):
            self._decide(idx)

    def _decide(self, idx: int) -> None:
        task, node = self.nodes[idx], self.graph.nodes[idx]
        if node.kind is Kind.JOIN:
            end: rules.End | None = rules.join_state(node.when, self.heard(idx), self.stop)
        else:
            end = rules.decide(node.when, self.heard(idx), self.stop)
        if end is not None:
            self.end(idx, task, *end)
        elif node.kind is Kind.GATE:
            self.end(idx, task, TaskState.COMPLETED)
        elif node.kind is Kind.TASK:
            task.state = TaskState.QUEUED
        else:
            task.state = TaskState.RUNNING
            for item in range(len(node.items)):
                child = task.items.setdefault(item, Task())
                if child.state is not TaskState.COMPLETED:
                    child.reset()
                    child.state = TaskState.QUEUED
            self._settle_fan(idx)

    def _settle_fan(self, idx: int) -> None:
        """Children that were not claimed when the run is stopped: made or not, they start no more."""
        task = self.nodes[idx]
        if self.stopped(idx):
            for child in task.items.values():
                if child.state is TaskState.QUEUED or child.backoff:
                    child.state, child.cause, child.backoff = TaskState.CANCELLED, self.stop, False
        if all(child.ended for child in task.items.values()):
            bits = self.heard(idx) & (rules.TAINTED | rules.OUTSIDE)
            for child in task.items.values():
                bits |= rules.passes(child.state, child.cause, 0)
            self.end(idx, task, *rules.join_state(self.graph.nodes[idx].when, bits, self.stop))

    def end(self, idx: int, task: Task, state: TaskState, cause: Cause | None = None) -> None:
        task.state, task.cause, task.backoff, task.holder = state, cause, False, None
        kind = Kind.TASK if task is not self.nodes[idx] else self.graph.nodes[idx].kind
        if rules.fails_run(kind, state):
            self.causes.append((cause or Cause(state.value if state is TaskState.TIMEOUT else "exit")).value)

    # --- events ------------------------------------------------------------------------------------------------------

    def attempt_ended(self, idx: int, task: Task, state: TaskState, cause: Cause | None) -> None:
        task.holder = None
        if state is TaskState.CANCELLED:
            cause = self.stopped(idx) or cause or Cause.CANCELLED
        retry, stopped = self.graph.nodes[idx].retry, self.stopped(idx) is not None
        then = rules.after_attempt(state, cause, task.used, retry, stopped=stopped)
        if isinstance(then, rules.Again):
            task.used, task.state, task.backoff, task.cause = then.used, TaskState.WAITING, True, cause
        else:
            task.used += 1
            self.end(idx, task, *then)

    def put_back(self, idx: int, task: Task) -> bool:
        """True: it is queued again."""
        task.holder = None
        stopped = self.stopped(idx)
        if stopped is not None:
            self.end(idx, task, TaskState.CANCELLED, stopped)
            return False
        task.state = TaskState.QUEUED
        return True

    def drained(self, idx: int, task: Task) -> None:
        task.drains += 1
        then = rules.after_drain(task.drains, LOSS_LIMIT, task.used, self.graph.nodes[idx].retry)
        if isinstance(then, rules.End):
            task.used += 1
            self.end(idx, task, *then)
            return
        if isinstance(then, rules.Again):
            task.used = then.used
        self.put_back(idx, task)

    def crashed(self, idx: int, task: Task) -> bool:
        task.crashes += 1
        return self._charged(idx, task, task.crashes >= CRASH_LIMIT)

    def lost(self, idx: int, task: Task) -> bool:
        task.losses += 1
        return self._charged(idx, task, task.losses >= LOSS_LIMIT)

    def _charged(self, idx: int, task: Task, quarantine: bool) -> bool:
        if not quarantine:
            return self.put_back(idx, task)
        task.used += 1
        self.end(idx, task, TaskState.FAILED, Cause.CRASH)
        return False

    def retry(self, step: str | None) -> None:
        forced = self._downstream(step) if step is not None else set()
        for idx, task in enumerate(self.nodes):
            if rules.runs_again(task.state, forced=idx in forced):
                task.reset()
                if idx in forced:
                    for child in task.items.values():
                        child.reset()
        self.round += 1
        self.stop, self.causes, self.state, self.released, self.deadline = None, [], RunState.RUNNING, True, False
        self.settle()

    def _downstream(self, step: str) -> set[int]:
        names = {node.step: idx for idx, node in enumerate(self.graph.nodes)}
        found = {names.get(step + "/", names[step])}
        for idx, node in enumerate(self.graph.nodes):
            if any(edge.node in found for edge in node.needs):
                found.add(idx)
        return found

    def take_over(self, states: dict[str, tuple[TaskState, Cause | None]]) -> None:
        """Of nodes that were decided, how. A fan-out that has begun has all its items, made or not."""
        for node, task in zip(self.graph.nodes, self.nodes, strict=True):
            if node.kind is Kind.FANOUT and states.get(node.step, (None,))[0] is TaskState.RUNNING:
                for item in range(len(node.items or ())):
                    task.items.setdefault(item, Task(state=TaskState.QUEUED))
        for _, step, task in self.tasks():
            if step in states and not task.holder and not task.backoff:
                task.state, task.cause = states[step]

    # --- lookups -----------------------------------------------------------------------------------------------------

    def tasks(self) -> list[tuple[int, str, Task]]:
        """(node, step path, task) of all, gates too."""
        found = []
        for idx, (node, task) in enumerate(zip(self.graph.nodes, self.nodes, strict=True)):
            found.append((idx, node.step, task))
            found += [(idx, f"{node.step}[{item}]", child) for item, child in task.items.items()]
        return found

    def find(self, step: str) -> tuple[int, Task]:
        return next((idx, task) for idx, name, task in self.tasks() if name == step)

    def queued(self, queue: str) -> list[str]:
        return [
            step
            for idx, step, task in self.tasks()
            if task.state is TaskState.QUEUED and self.graph.nodes[idx].queue == queue
        ]

    def shape(self) -> dict[str, Any]:
        """step -> state of all that a user sees. Items that were never made, and so never claimed, are left out."""
        shown: dict[str, Any] = {}
        for idx, step, task in self.tasks():
            if self.graph.nodes[idx].kind is not Kind.GATE:
                shown[step] = task.state
        return shown
