"""The steps of one level (the workflow's, or one group's) in an order in which each comes after what it needs.

Nothing here recurses: a chain of 10,000 steps is as flat as one of ten.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from kubemin.files.checks import Checks, shown, suggestion
from kubemin.files.document import child
from kubemin.files.steps import Step

_SHOWN = 6  # steps of a cycle that a message names

Needs = list[tuple[int, bool]]  # positions of the needed steps, and whether only the order of StepByStep says so


def read_needs(steps: Sequence[Step], mode: str, inside: str, checks: Checks) -> list[Needs]:
    """What each step of a level needs. Notes duplicate names, needs that are not there, and self-needs.

    `inside` names the group, or is empty at the top.
    """
    positions = _positions(steps, checks)
    needs: list[Needs] = []
    for position, step in enumerate(steps):
        if step.needs is None:
            needs.append([(position - 1, True)] if position and mode == "StepByStep" else [])
        else:
            needs.append([(need, False) for need in _named(step, position, positions, inside, checks)])
    return needs


def arrange(steps: Sequence[Step], needs: Sequence[Needs], checks: Checks) -> list[int]:
    """Positions in topological order, else in the file's. Notes cycles; those in one come last."""
    open_needs = [len(of_one) for of_one in needs]
    followers: list[list[int]] = [[] for _ in steps]
    for position, of_one in enumerate(needs):
        for need, _ in of_one:
            followers[need].append(position)
    ready = [position for position, count in enumerate(open_needs) if not count]
    order: list[int] = []
    while ready:
        position = heapq.heappop(ready)
        order.append(position)
        for follower in followers[position]:
            open_needs[follower] -= 1
            if not open_needs[follower]:
                heapq.heappush(ready, follower)
    if len(order) < len(steps):
        left = [position for position, count in enumerate(open_needs) if count]
        _note_cycles(steps, needs, left, checks)
        order += left
    return order


def _positions(steps: Sequence[Step], checks: Checks) -> dict[str, int]:
    positions: dict[str, int] = {}
    for position, step in enumerate(steps):
        if not step.name:
            continue
        first = positions.setdefault(step.name, position)
        if first != position:
            message = f'the name "{step.name}" is taken by {steps[first].at}; give it another name'
            checks.problem(f"{step.at}.name", "duplicate", message)
    return positions


def _named(step: Step, position: int, positions: dict[str, int], inside: str, checks: Checks) -> list[int]:
    found: list[int] = []
    for index, name in enumerate(step.needs or ()):
        need = positions.get(name)
        if need == position or name == step.name:
            checks.problem(child(f"{step.at}.needs", index), "self_need", f'"{name}" needs itself; remove it')
        elif need is None:
            where = f"in the group {inside}" if inside else "at the top"
            message = f'there is no step "{shown(name)}" {where}{suggestion(name, positions)}'
            checks.problem(child(f"{step.at}.needs", index), "unknown_step", message)
        else:
            found.append(need)
    return found


def _note_cycles(steps: Sequence[Step], needs: Sequence[Needs], left: list[int], checks: Checks) -> None:
    """Each step that is left waits for another one that is: going from one to the next ends in a cycle."""
    among = set(left)
    waits_for = {position: next(edge for edge in needs[position] if edge[0] in among) for position in left}
    walked: dict[int, int] = {}  # position -> the start of the walk that came by
    for start in left:
        position = start
        while position not in walked:
            walked[position] = start
            position = waits_for[position][0]
        if walked[position] == start:
            _note_cycle(steps, waits_for, position, checks)


def _note_cycle(steps: Sequence[Step], waits_for: dict[int, tuple[int, bool]], start: int, checks: Checks) -> None:
    cycle = [start]
    while (position := waits_for[cycle[-1]][0]) != start:
        cycle.append(position)
    links = [_link(steps, position, *waits_for[position]) for position in cycle]
    if len(links) > _SHOWN:
        links[_SHOWN - 1 : -1] = [f"… ({len(cycle)} steps in all)"]
    # Soft edges only go back in the file, so at least one step of a cycle has needs of its own.
    at = next(f"{steps[position].at}.needs" for position in cycle if steps[position].needs)
    checks.problem(at, "cycle", f"the steps wait for each other: {', '.join(links)}; remove one of these needs")


def _link(steps: Sequence[Step], position: int, need: int, soft: bool) -> str:
    return f"{steps[position].name} {'comes after' if soft else 'needs'} {steps[need].name}"
