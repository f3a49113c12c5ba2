"""What a function that runs as a task sees of kubemin: the `@kubemin.task` decorator and `kubemin.current_task()`.

Imported by users' modules, in clients and in workers alike, so it is light and knows no store: what `enqueue` does is
filled in by `kubemin.client` (`set_enqueuer`), and what the running task is by the worker (`set_current`).

`kubemin.task` is this module *and* the decorator: importing a module binds its name in the package, so the module
itself can be called.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast, overload

from kubemin.errors import KubeminError

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
Enqueuer = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class Task(Protocol, Generic[P, R_co]):
    """A decorated function: called as before, or enqueued to be run by a worker."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Submit one task that calls the function; returns its Run."""


@overload
def task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(
    *, retry: Any = None, timeout: float | str | None = None, queue: str | None = None
) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def task(
    function: Callable[..., Any] | None = None,
    /,
    *,
    retry: Any = None,
    timeout: float | str | None = None,
    queue: str | None = None,
) -> Any:
    """Say how a function is to be run as a task; the function itself stays what it is.

    `retry`: attempts after the first, or {"limit": …, "delay": "5s", …}. `timeout`: seconds or "5m".
    """
    said = {"retry": retry, "timeout": timeout, "queue": queue}

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        def enqueue(*args: P.args, **kwargs: P.kwargs) -> Any:
            return _enqueuer()(function, args, kwargs)

        decorated = cast(Any, function)
        decorated.__kubemin__ = {name: value for name, value in said.items() if value is not None}
        decorated.enqueue = enqueue
        return cast("Task[P, R]", decorated)

    return decorate if function is None else decorate(function)


_set_enqueuer: Enqueuer | None = None


def set_enqueuer(enqueuer: Enqueuer) -> None:
    """`enqueuer(function, args, kwargs) -> Run`: called by `kubemin.client` when it is imported, and by tests."""
    global _set_enqueuer
    _set_enqueuer = enqueuer


def _enqueuer() -> Enqueuer:
    if _set_enqueuer is None:
        client = importlib.import_module("kubemin.client")  # not above: a worker that enqueues nothing never loads it
        if _set_enqueuer is None:
            return _default_client(client)
    return _set_enqueuer


def _default_client(module: Any) -> Enqueuer:
    """One client of the default configuration for the whole process."""
    client = module.Client.from_config()
    set_enqueuer(lambda function, args, kwargs: client.enqueue(function, *args, **kwargs))
    return _enqueuer()


class CurrentTask(Protocol):
    """The task that the calling function is. The worker provides it; see `current_task`."""

    @property
    def id(self) -> str:
        """RUN.INDEX: the same for every attempt, and so a good idempotency key."""

    @property
    def run(self) -> str: ...

    @property
    def step(self) -> str: ...

    @property
    def token(self) -> int:
        """The fencing token: rises with every attempt. What you write elsewhere should refuse a lower one."""

    @property
    def attempt(self) -> int:
        """1 for the first try."""

    @property
    def cancelled(self) -> bool:
        """Whether the run was cancelled, replaced or timed out. A step that sees it should clean up and return soon."""

    @property
    def deadline_seconds(self) -> float:
        """Seconds left until the step's time-out."""

    def progress(self, fraction: float) -> None:
        """Show how far the step is, 0 to 1."""


_current: CurrentTask | None = None
_at_end: list[Callable[[], None]] = []


def current_task() -> CurrentTask:
    """The task that is running in this process. Raises KubeminError outside of one."""
    if _current is None:
        raise KubeminError(
            "current_task() is for functions that a kubemin worker runs; there is no task here", code="no_task"
        )
    return _current


def set_current(current: CurrentTask | None) -> None:
    """For the worker: what `current_task` returns from now on."""
    global _current
    _current = current


def end_current() -> None:
    """For the worker: the task's function has returned."""
    set_current(None)
    for function in _at_end:
        function()


def at_end(function: Callable[[], None]) -> None:
    """For the client: called in a worker when a task's function has returned."""
    _at_end.append(function)


class _CallableModule(types.ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return task(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
