"""Python steps: which functions may be called, how they are found, and how what they raise is told.

The only module that imports users' code, and only a worker calls it, after its fork: supervisor and coordinator
never do (engine rule 28).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Any, Final

from kubemin.model.states import Cause, TaskState
from kubemin.steps.base import Ended, StartFailed, storable

TEXT_CHARACTERS: Final = 1024 * 1024  # of an exception; what is kept is cut when its secrets are masked
TRACEBACK_CHARACTERS: Final = 16 * 1024  # the end of it: where the exception is
INTERRUPTED_EXIT: Final = 130  # of KeyboardInterrupt, as shells have it

Function = Callable[..., Any]


def add_to_path(directories: Sequence[str]) -> None:
    """`python.path` of the configuration, before everything else, in its order."""
    sys.path[:0] = [directory for directory in directories if directory not in sys.path]


class Functions:
    """Functions by their path `package.module:function`, admitted by patterns of `python.allow`, found once."""

    def __init__(self, allow: Sequence[str], found: Callable[[Function], None] = lambda _: None) -> None:
        """`found` is told each, before its first call."""
        self._allow = tuple(allow)
        self._found = found
        self._known: dict[str, Function] = {}

    def find(self, path: Any) -> Function:
        """Raises StartFailed when it is not admitted, not there, or in a module that cannot be imported.

        A failure is not remembered: the file may be there next time.
        """
        known = self._known.get(path)
        if known is None:
            known = self._known[path] = self._find(path)
            self._found(known)
        return known

    def _find(self, path: Any) -> Function:
        if not isinstance(path, str) or path.count(":") != 1 or not all(path.split(":")):
            raise StartFailed(f"python: {path!r:.200} is not of the form package.module:function")
        if not any(fnmatchcase(path, pattern) for pattern in self._allow):
            raise StartFailed(
                f"python: {path} is not admitted; add it, or a pattern such as {path.split(':')[0]}:*, "
                "to python.allow in the configuration and reload"
            )
        module, _, name = path.partition(":")
        return _attribute(_import(module), module, name)


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        importlib.invalidate_caches()  # the file may be younger than the listing of its folder
    except Exception as error:
        raise _import_failed(module, error) from error
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise _import_failed(module, error) from error


def _import_failed(module: str, error: Exception) -> StartFailed:
    if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
        return StartFailed(f"python: there is no module {error.name}; install it, or add its folder to python.path")
    return StartFailed(f"python: cannot import {module}: {describe(error)}")


def _attribute(module: Any, where: str, name: str) -> Function:
    found = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise StartFailed(f"python: module {where} has no function {name}") from None
    if not callable(found):
        raise StartFailed(f"python: {where}:{name} is a {type(found).__name__}, not a function")
    function: Function = found
    return function


def describe(error: BaseException) -> str:
    """`Type: text` in one bounded line; users' `__str__` may raise."""
    try:
        text = storable(" ".join(str(error).split()))
    except Exception:
        text = "(its text cannot be shown)"
    name = type(error).__name__
    return (f"{name}: {text}" if text else name)[:TEXT_CHARACTERS]


def ended_by(error: BaseException) -> Ended:
    """How a step ended that raised."""
    match error:
        case StartFailed():
            return error.ended()
        case SystemExit():
            return _exited(error.code)
        case KeyboardInterrupt():
            return Ended(TaskState.FAILED, Cause.EXIT, "KeyboardInterrupt", exit_code=INTERRUPTED_EXIT)
        case MemoryError():
            return Ended(TaskState.FAILED, Cause.OOM, describe(error))
        case _:
            return Ended(TaskState.FAILED, Cause.EXCEPTION, describe(error))


def _exited(code: object) -> Ended:
    """As the interpreter has it: None is 0, a number is itself, anything else is printed and 1."""
    if code is None or isinstance(code, int):
        status = int(code or 0) & 0xFF
        return Ended(TaskState.FAILED, Cause.EXIT, f"sys.exit({status}) in a Python step", exit_code=status)
    return Ended(TaskState.FAILED, Cause.EXIT, str(code), exit_code=1)


def traceback_of(error: BaseException) -> str:
    """The end of the traceback, without our own frame at its head. Nothing for what speaks for itself."""
    if isinstance(error, SystemExit | StartFailed) and error.__cause__ is None:
        return ""
    import traceback

    shown = error.__cause__ if isinstance(error, StartFailed) and error.__cause__ is not None else error
    try:
        lines = traceback.format_exception(type(shown), shown, _users(shown.__traceback__))
    except Exception:
        return ""
    return _last_lines("".join(lines))


def _last_lines(text: str) -> str:
    """Cut between two lines: half a secret would not be masked."""
    return text if len(text) <= TRACEBACK_CHARACTERS else text[-TRACEBACK_CHARACTERS:].partition("\n")[2]


def _users(trace: TracebackType | None) -> TracebackType | None:
    """From the first frame that is not in this package (or importlib) on."""
    first = trace
    while first is not None and _is_ours(first):
        first = first.tb_next
    return first or trace


def _is_ours(trace: TracebackType) -> bool:
    name = str(trace.tb_frame.f_globals.get("__name__", ""))
    return name.startswith(("kubemin.steps.", "kubemin.worker.", "importlib"))
