"""References of steps: looked up, checked, and rewritten to full step paths, so that rendering needs no scope.

`steps.NAME` is looked up among the siblings first, then as a path from the top. What it names has to be an ancestor:
only then has it ended, whatever happens, when the reference is filled in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kubemin.files.checks import Checks, suggestion
from kubemin.files.document import child
from kubemin.model.references import Reference, has_reference, rewrite, whole
from kubemin.model.states import Kind

_BLOCK = 2048  # targets whose ancestry is followed at once, as bits of one number

Use = tuple[int, int, str, Reference]  # the node that reads, the node that is read, the path of the text, the reference


class Scope:
    """The steps of a workflow by their paths, and the uses of one's output by another."""

    def __init__(
        self, nodes: Mapping[str, int], kinds: Sequence[Kind], params: Mapping[str, Any], checks: Checks
    ) -> None:
        self._nodes = nodes
        self._kinds = kinds
        self._params = params
        self._checks = checks
        self.uses: list[Use] = []

    def resolve(self, value: Any, at: str, node: int, prefix: str, *, has_item: bool) -> Any:
        """A value of the step `node`, its references rewritten. `prefix`: the path of its group with "/", or empty."""
        if isinstance(value, str):
            return self._text(value, at, node, prefix, has_item) if "${{" in value else value
        if isinstance(value, dict):
            if has_reference(list(value)):
                self._checks.problem(at, "reference", "a reference cannot stand in a key; put it in the value")
            return {
                key: self.resolve(item, child(at, key), node, prefix, has_item=has_item) for key, item in value.items()
            }
        if isinstance(value, list):
            return [
                self.resolve(item, child(at, index), node, prefix, has_item=has_item)
                for index, item in enumerate(value)
            ]
        return value

    def resolve_items(self, value: Any, at: str, node: int, prefix: str) -> Any:
        """`forEach`: a list, which may hold references, or one whole reference."""
        if isinstance(value, list):
            return self.resolve(value, at, node, prefix, has_item=False)
        try:
            reference = whole(value)
        except ValueError as exc:
            self._checks.problem(at, "reference", str(exc))
            return value
        if reference is None:
            self._checks.problem(at, "type", "it has to be a list, or one reference such as ${{ steps.NAME.output }}")
            return value
        return self._text(value, at, node, prefix, False)

    def _text(self, text: str, at: str, node: int, prefix: str, has_item: bool) -> str:
        def change(reference: Reference) -> Reference:
            return self._reference(reference, at, node, prefix, has_item)

        try:
            return rewrite(text, change)
        except ValueError as exc:
            self._checks.problem(at, "reference", str(exc))
            return text

    def _reference(self, reference: Reference, at: str, node: int, prefix: str, has_item: bool) -> Reference:
        if reference.root == "steps":
            return self._step(reference, at, node, prefix)
        if reference.root == "params":
            check_param(reference, self._params, at, self._checks)
        elif reference.root == "item" and not has_item:
            self._checks.problem(at, "reference", f"{reference} has a meaning only in a step with forEach")
        return reference

    def _step(self, reference: Reference, at: str, node: int, prefix: str) -> Reference:
        path = next((path for path in (prefix + reference.name, reference.name) if path in self._nodes), None)
        if path is None:
            known = (step.removeprefix(prefix) for step in self._nodes)
            message = f'there is no step "{reference.name}"{suggestion(reference.name, known)}'
            self._checks.problem(at, "unknown_step", message)
            return reference
        target = self._nodes[path]
        if self._kinds[target] is Kind.JOIN:
            message = f"{path} is a group, which has no output; name one of its steps, such as steps.{path}/NAME.output"
            self._checks.problem(at, "reference", message)
        else:
            self.uses.append((node, target, at, reference))
        return Reference("steps", path, reference.path)

    def check_ancestors(self, needs: Sequence[Sequence[int]]) -> None:
        """Note each use of a step that the user does not come after. `needs`: of each node, with smaller numbers."""
        direct = {user: frozenset(needs[user]) for user, _, _, _ in self.uses}
        distant = [use for use in self.uses if use[1] not in direct[use[0]]]
        bad = set(_not_reached(needs, {(user, target) for user, target, _, _ in distant}))
        for user, target, at, reference in distant:
            if (user, target) in bad:
                itself = "the step itself" if user == target else "a step that this one does not come after"
                message = f"{reference} reads {itself}; it has to be needed, directly or not"
                self._checks.problem(at, "not_ancestor", message)


def check_param(reference: Reference, params: Mapping[str, Any], at: str, checks: Checks) -> None:
    if reference.name not in params:
        message = f'there is no parameter "{reference.name}"{suggestion(reference.name, params)}'
        checks.problem(at, "unknown_param", message)


def _not_reached(needs: Sequence[Sequence[int]], pairs: set[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Those (user, target) whose target is no ancestor of the user.

    One pass over the nodes for each block of targets, and only over those between the first target and the last user.
    A search from each user would be far too slow when 100,000 steps read each other.
    """
    users: dict[int, list[int]] = {}
    for user, target in pairs:
        users.setdefault(target, []).append(user)
    targets = sorted(users)
    for start in range(0, len(targets), _BLOCK):
        block = targets[start : start + _BLOCK]
        bits = {target: 1 << bit for bit, target in enumerate(block)}
        reached = _reach(needs, bits, block[0], max(max(users[target]) for target in block))
        for target in block:
            for user in users[target]:
                if user <= target or not reached[user - block[0]] & bits[target]:
                    yield user, target


def _reach(needs: Sequence[Sequence[int]], bits: Mapping[int, int], first: int, last: int) -> list[int]:
    """For the nodes `first` to `last`: the bits of all targets at or above them."""
    reached: list[int] = []
    for node in range(first, last + 1):
        mask = bits.get(node, 0)
        for need in needs[node]:
            if need >= first:
                mask |= reached[need - first]
        reached.append(mask)
    return reached
