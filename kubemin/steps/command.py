"""Steps that are commands (`run`, `shell`), and Python functions that need a process of their own.

A `shell` script runs under `/bin/sh -e`: that shell is on every machine, and a script means the same on all of
them. Who wants bash says so: `run: [bash, -euo, pipefail, -c, …]`. The step's path is `$0`, so that the shell's own
messages name it.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn, TextIO

import msgspec

from kubemin.model.records import PAYLOAD_BYTES
from kubemin.model.states import Cause, TaskState
from kubemin.steps.base import Ended, StartFailed, Step, start_failed
from kubemin.steps.identity import identity_of
from kubemin.steps.limits import parse_limits
from kubemin.steps.python import describe
from kubemin.steps.spawn import Child, Failure, Inherited, Setting, Work, spawn
from kubemin.steps.watch import Watch

if TYPE_CHECKING:
    from kubemin.steps.containment.base import Containment

SHELL: Final = ("/bin/sh", "-e", "-c")
RESULT_BYTES: Final = PAYLOAD_BYTES  # of a called function's encoded result
_DEFAULT_PATH: Final = "/usr/local/bin:/usr/bin:/bin"


class Program(msgspec.Struct, frozen=True):
    """What is executed, encoded before the fork so that a child has nothing left to refuse."""

    argv: tuple[bytes, ...]
    environ: dict[bytes, bytes]
    path: tuple[bytes, ...]  # folders where a name without slash is looked for

    def execute(self, _: Inherited) -> NoReturn:
        """Never returns. Raises the OSError that says most: a file that may not be executed beats one that is not
        there."""
        name = self.argv[0]
        if b"/" in name:
            os.execve(name, self.argv, self.environ)
        refused: OSError | None = None
        for folder in self.path:
            try:
                os.execve(os.path.join(folder, name), self.argv, self.environ)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as exc:
                refused = refused or exc
        raise refused or FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def execute(step: Step, containment: Containment) -> Ended:
    """Run a `run` or `shell` step to its end; nothing of it lives afterwards. Takes as long as the step, bounded by
    its deadline and `kill_grace`. Never raises for what the step or its definition does."""
    try:
        program = _program(step)
        ended, failure, _ = _supervise(program.execute, step, containment)
    except StartFailed as exc:
        return exc.ended()
    if failure is not None and ended.state is TaskState.FAILED:
        return _not_started(ended, _why_not_started(failure, step, program))
    return ended


def call(function: Callable[[], bytes], step: Step, containment: Containment) -> tuple[Ended, bytes | None]:
    """See `Containment.call`."""
    try:
        ended, failure, result = _supervise(_calling(function, step), step, containment, keeps_python=True)
    except StartFailed as exc:
        return exc.ended(), None
    if ended.state is TaskState.COMPLETED and result is None:
        message = f"the result is over {RESULT_BYTES // 1024} KiB"
        return msgspec.structs.replace(ended, state=TaskState.FAILED, cause=Cause.OUTPUT, message=message), None
    if failure is not None and ended.state is TaskState.FAILED and ended.cause in (Cause.EXIT, Cause.OOM):
        if failure.stage != "raised":
            return _not_started(ended, _why_not_prepared(failure, step)), None
        ended.cause, ended.message, ended.exit_code = Cause.EXCEPTION, failure.text, None
        if failure.kind == "MemoryError":
            ended.cause = Cause.OOM
    return ended, result if ended.state is TaskState.COMPLETED else None


def _supervise(
    work: Work, step: Step, containment: Containment, keeps_python: bool = False
) -> tuple[Ended, Failure | None, bytes | None]:
    identity = identity_of(step.user)
    cell = containment.open(parse_limits(step.work))
    try:
        child = _spawn(work, Setting(cell, identity, step.directory, keeps_python, _stdin(step)))
        try:
            watch = Watch(child, step, cell, containment)
            ended = watch.until_dead()
            return ended, watch.failure, _result(child.result)
        except BaseException:  # whatever goes wrong in this process, the step does not live on unwatched
            cell.kill(child.pid)
            cell.sweep()
            raise
        finally:
            child.close()
    finally:
        cell.close()


def _stdin(step: Step) -> bytes:
    given = step.work.get("stdin")
    return given.encode(errors="replace") if isinstance(given, str) else b""


def _spawn(work: Work, setting: Setting) -> Child:
    try:
        return spawn(work, setting)
    except OSError as exc:
        raise start_failed("cannot start a process", exc) from exc


def _result(fd: int) -> bytes | None:
    """What a called function left; None when it is too large, or nothing was called."""
    if fd < 0 or (size := os.fstat(fd).st_size) > RESULT_BYTES:
        return None
    return os.pread(fd, size, 0)


# --- what is executed -----------------------------------------------------------------------------------------------


def _program(step: Step) -> Program:
    argv = step.work.get("run")
    if argv is None:
        argv = [*SHELL, step.work["shell"], step.claim.step]
    if not argv or not all(isinstance(word, str) for word in argv):
        raise StartFailed("`run` needs a list of words, the program first")
    path = step.environ.get("PATH") or _DEFAULT_PATH
    return Program(
        tuple(_encoded(word, "an argument") for word in argv),
        {_variable(name): _encoded(value, f"env.{name}") for name, value in step.environ.items()},
        tuple(_encoded(folder or ".", "PATH") for folder in path.split(os.pathsep)),
    )


def _encoded(text: str, what: str) -> bytes:
    try:
        raw = os.fsencode(text)
    except UnicodeEncodeError:
        raise StartFailed(f"{what} holds a character that cannot be passed to a program") from None
    if b"\0" in raw:
        raise StartFailed(f"{what} holds a NUL character, which cannot be passed to a program")
    return raw


def _variable(name: str) -> bytes:
    if not name or "=" in name:
        raise StartFailed(f"env: {name!r} cannot be the name of an environment variable")
    return _encoded(name, f"the name env.{name}")


def _calling(function: Callable[[], bytes], step: Step) -> Work:
    """The child's side of a call; its return value is the exit code."""

    def work(inherited: Inherited) -> int:
        sys.stdout, sys.stderr = _stream(1), _stream(2)
        os.environ.clear()
        os.environ.update(step.environ)
        try:
            _write_all(inherited.result, function())
        except SystemExit as exc:
            return _exit_code(exc)
        except BaseException as exc:  # KeyboardInterrupt included: nothing may unwind into the worker's frames
            import traceback

            traceback.print_exc()
            inherited.tell(Failure("raised", 0, describe(exc), type(exc).__name__))
            return 1
        finally:
            _flush()
        return 0

    return work


def _stream(fd: int) -> TextIO:
    return open(fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed by the function
            stream.flush()


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _exit_code(exc: SystemExit) -> int:
    if exc.code is None or isinstance(exc.code, int):
        return (exc.code or 0) & 0xFF
    print(exc.code, file=sys.stderr)
    return 1


# --- what went wrong before it ran ----------------------------------------------------------------------------------


def _not_started(ended: Ended, message: str) -> Ended:
    return Ended(TaskState.FAILED, Cause.START, message, usage=ended.usage, unenforced=ended.unenforced)


def _why_not_started(failure: Failure, step: Step, program: Program) -> str:
    if failure.stage != "exec":
        return _why_not_prepared(failure, step)
    name = os.fsdecode(program.argv[0])
    return f"cannot start {name!r}: {_why_not_executed(failure, step.directory, name, step.environ.get('PATH', ''))}"


def _why_not_executed(failure: Failure, directory: str, name: str, path: str) -> str:
    match failure.errno:
        case errno.ENOENT if "/" not in name:
            return f"not found in PATH ({path or _DEFAULT_PATH})"
        case errno.ENOENT if os.path.exists(os.path.join(directory, name)):
            return "the interpreter that its first line (#!) names does not exist"
        case errno.ENOENT | errno.ENOTDIR:
            return "no such file" if name.startswith("/") else f"no such file in {directory}"
        case errno.EACCES:
            return "permission denied; it must be a file that the step's user may execute (chmod +x)"
        case errno.ENOEXEC:
            return "it is neither a program for this machine nor a script whose first line is #!interpreter"
        case errno.E2BIG:
            return "its arguments and environment are too large (128 KiB each); put a long script into a file"
        case _:
            return failure.text or os.strerror(failure.errno)


def _why_not_prepared(failure: Failure, step: Step) -> str:
    reason = failure.text or os.strerror(failure.errno)
    if failure.stage == "workdir":
        reason = {errno.ENOENT: "there is no such folder", errno.EACCES: "permission denied"}.get(failure.errno, reason)
        return f"cannot start in workdir {step.directory}: {reason}"
    return f"cannot prepare the step's process: {reason}"
