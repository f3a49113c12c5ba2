"""Every error that kubemin shows to a user, each with its exit code and its JSON form.

Driver errors (sqlite3, OSError, …) stop at the edge of the layer that talks to the driver: they are
re-raised there as one of these, with the cause kept. Exit codes are the contract of design section 7:
1 the run or check asked about failed, 2 usage or validation, 3 not reachable, 4 no such thing,
5 refused in this state.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

import msgspec


class Problem(msgspec.Struct, frozen=True, omit_defaults=False):
    """One thing wrong with a document a user wrote.

    `field` is the path (`steps[2].retry.limit`), `line` the 1-based line in the YAML file or None,
    `code` a stable word for tools, `message` one sentence that says what to do.
    """

    field: str
    code: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        line = "" if self.line is None else f"line {self.line}: "
        return line + (f"{self.field}: " if self.field else "") + self.message


class KubeminError(Exception):
    """Base of all errors with a message for a user. `code` is stable, `exit_code` is the process's."""

    exit_code = 1
    code = "error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code

    @property
    def problems(self) -> tuple[Problem, ...]:
        return (Problem(field="", code=self.code, message=str(self)),)


class Invalid(KubeminError):
    """A workflow, configuration, parameter or argument is wrong; carries *all* problems found."""

    exit_code = 2
    code = "invalid"

    def __init__(self, problems: Sequence[Problem] | str, *, source: str = "") -> None:
        if isinstance(problems, str):
            problems = (Problem(field="", code=self.code, message=problems),)
        self._problems = tuple(problems)
        self.source = source
        lines = [str(p) for p in self._problems]
        super().__init__("\n".join(f"{source}: {line}" if source else line for line in lines))

    @property
    def problems(self) -> tuple[Problem, ...]:
        return self._problems


def of_system(exc: OSError) -> KubeminError:
    """What no layer has foreseen, in one line. A system call that names no file and misses one is getcwd(2)."""
    if exc.errno == errno.ENOENT and exc.filename is None:
        return KubeminError("the working directory is gone; change to one that is there")
    return KubeminError(f"{exc.filename or 'the system'}: {exc.strerror or exc}")


class Unreachable(KubeminError):
    """The daemon or the store does not answer, or cannot be written. Nothing was accepted."""

    exit_code = 3
    code = "unreachable"


class StoreUnavailable(Unreachable):
    """The store failed (disk full, read-only, corrupt, newer schema). Transient unless `fatal`."""

    code = "store_unavailable"

    def __init__(self, message: str, *, fatal: bool = False, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.fatal = fatal


class NoRoom(StoreUnavailable):
    """The disk is full. Passes when somebody makes room: a daemon waits for that, also at its start."""

    code = "disk_full"


def unwritable(message: str, cause: OSError) -> StoreUnavailable:
    """For what a daemon cannot do without: fatal, but for a disk (or a quota) that is full."""
    if cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoRoom(f"{message}: no space left on the device; free some, and work goes on by itself")
    return StoreUnavailable(f"{message}: {cause.strerror}", fatal=True)


class NotDurable(StoreUnavailable):
    """The runs were accepted, and are not as safe as `durability` asks: nobody need submit them again, unless the
    store fails before it has caught up. `runs`: their ids."""

    code = "not_durable"
    runs: tuple[str, ...] = ()


class NotFound(KubeminError):
    """No such run, step, workflow, queue."""

    exit_code = 4
    code = "not_found"


class Refused(KubeminError):
    """Not possible in this state: the same key with other parameters, retry while running, …"""

    exit_code = 5
    code = "refused"
