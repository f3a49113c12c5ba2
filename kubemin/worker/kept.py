"""Descriptors that a module keeps: a function opened a file or a connection, and put it into a variable of its module.

That is the module's own state, as its caches are, and its next call is to find it: no worker is replaced for it. A
leak is nobody's, and a worker is (engine rule 28; docs/design.md says why this is no exception to it). May touch:
users' modules, which it only reads.
"""

from __future__ import annotations

import io
import socket
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

_WRAPPERS: Final = 10  # around a function, that are looked behind


class Modules:
    """Those whose functions were called in this worker, and the numbers that stood in them before."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[dict[str, Any], dict[str, int]]] = {}  # by id

    def note(self, function: Callable[..., Any]) -> None:
        """It was found, and will be called. A number that is in its module by now is no descriptor that it opens."""
        for variables in _variables_of(function):
            if id(variables) not in self._known:
                numbers = {name: value for name, value in variables.items() if type(value) is int}
                self._known[id(variables)] = variables, numbers

    def holding(self, opened: Iterable[int]) -> set[int]:
        """Which of these descriptors a module holds, by its number or by the file or socket itself."""
        held = set()
        for variables, before in self._known.values():
            for name, value in list(variables.items()):
                if type(value) is int and before.get(name) != value:
                    held.add(value)
                elif isinstance(value, io.IOBase | socket.socket):
                    with suppress(Exception):  # closed, or none of the system's
                        held.add(value.fileno())
        return held.intersection(opened)


def _variables_of(function: Any) -> list[dict[str, Any]]:
    """Of the module that it is found in, and of those in which it and what it wraps are written."""
    found = []
    for _ in range(_WRAPPERS):
        module = sys.modules.get(getattr(function, "__module__", None) or "")
        found += [
            variables
            for variables in (getattr(function, "__globals__", None), getattr(module, "__dict__", None))
            if isinstance(variables, dict)
        ]
        function = getattr(function, "__wrapped__", None)
        if function is None:
            break
    return found
