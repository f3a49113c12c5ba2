"""The fork of a step: a child of the worker's main thread that starts with nothing but 0, 1 and 2.

Not `subprocess`: the child has to join its control group with the daemon's rights, then give up those rights, then
ask for the parent-death signal (a change of credentials clears it, and it follows the spawning thread: prctl(2)),
then check that its parent still lives. Whatever goes wrong before the step's own code runs is told to the parent
through a close-on-exec pipe.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Final, NoReturn

import msgspec

from kubemin import kernel
from kubemin.steps.containment.base import Cell
from kubemin.steps.identity import Identity

UMASK: Final = 0o022
PIPE_BYTES: Final = 256 * 1024  # room for a burst while the worker is busy; fewer where the user's share is used up
_F_SETPIPE_SZ: Final = 1031
NOT_STARTED: Final = 127


class Failure(msgspec.Struct, array_like=True):
    """What a child could not do. `stage`: prepare, workdir, exec, or raised (by a called function)."""

    stage: str
    errno: int = 0
    text: str = ""
    kind: str = ""  # the exception's type


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Failure).decode


class Child(msgspec.Struct):
    """A started step. The descriptors are the parent's; `close` is called by whoever waits for it."""

    pid: int
    pidfd: int
    failure: int
    stdout: int
    stderr: int
    result: int = -1

    def close(self) -> None:
        for fd in (self.pidfd, self.failure, self.stdout, self.stderr, self.result):
            if fd >= 0:
                os.close(fd)


def read_failure(raw: bytes) -> Failure | None:
    """None: nothing went wrong. A child that was killed while it wrote has told nothing."""
    try:
        return _decode(raw) if raw else None
    except msgspec.DecodeError:
        return None


Work = Callable[["Inherited"], int]
Streams = tuple[int, int, int]  # what becomes 0, 1 and 2


class Inherited(msgspec.Struct, frozen=True):
    """What a child has besides 0, 1 and 2: where it tells a failure, and where a called function's result goes."""

    failure: int
    result: int = -1

    def tell(self, failure: Failure) -> None:
        with suppress(OSError):
            os.write(self.failure, _encode(failure))


class Setting(msgspec.Struct, frozen=True):
    """In what a step runs. `keeps_python`: the child goes on as this program, to call a function, so descriptor
    numbers that the worker's objects believe to own stay taken. `stdin`: what it reads; nothing: the end at once."""

    cell: Cell
    identity: Identity | None
    directory: str
    keeps_python: bool = False
    stdin: bytes = b""


def spawn(work: Work, setting: Setting) -> Child:
    """Fork a child that becomes a step and does `work`: an exec, or a call whose return value is the exit code.

    Raises OSError when there are no more processes or descriptors.
    """
    with ExitStack() as ours, ExitStack() as theirs:
        failure, failed = _pipe(ours, theirs)
        stdout, out = _pipe(ours, theirs)
        stderr, err = _pipe(ours, theirs)
        result = os.memfd_create("kubemin-result") if setting.keeps_python else -1
        if result >= 0:
            ours.callback(os.close, result)
        for fd in (out, err):
            _prepare_output(fd, setting.identity)
        streams = (_input(setting.stdin, theirs), out, err)
        pid = _fork(lambda parent: _become(parent, work, setting, streams, Inherited(failed, result)))
        pidfd = _open_pidfd(pid)
        for fd in (failure, stdout, stderr):
            os.set_blocking(fd, False)
        ours.pop_all()
    return Child(pid, pidfd, failure, stdout, stderr, result)


def _pipe(ours: ExitStack, theirs: ExitStack) -> tuple[int, int]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    ours.callback(os.close, reader)
    theirs.callback(os.close, writer)
    return reader, writer


def _input(body: bytes, theirs: ExitStack) -> int:
    """A file in memory, and no pipe: whoever does not read it holds up nobody."""
    if not body:
        source = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        theirs.callback(os.close, source)
        return source
    source = os.memfd_create("kubemin-stdin")
    theirs.callback(os.close, source)
    with open(source, "wb", closefd=False) as file:
        file.write(body)
    os.lseek(source, 0, os.SEEK_SET)
    return source


def _prepare_output(fd: int, identity: Identity | None) -> None:
    with suppress(OSError):
        fcntl.fcntl(fd, _F_SETPIPE_SZ, PIPE_BYTES)
    if identity is not None:
        os.fchown(fd, identity.uid, identity.gid)  # so that the step may open /dev/stderr


def _open_pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _fork(child: Callable[[int], NoReturn]) -> int:
    """No signal reaches the child before it has dropped the worker's handlers and wake-up descriptor."""
    parent = os.getpid()
    before = kernel.set_mask(kernel.EVERY_SIGNAL)
    try:
        pid = os.fork()
        if pid == 0:
            child(parent)
    finally:
        kernel.set_mask(before)
    return pid


def _become(parent: int, work: Work, setting: Setting, streams: Streams, inherited: Inherited) -> NoReturn:
    """The child's life. Ends in exec or _exit, never in the worker's code."""
    code, stage = NOT_STARTED, "prepare"
    try:
        setting.cell.join()
        inherited = _take_descriptors(streams, inherited, setting.keeps_python)
        _default_signals()
        os.setsid()
        os.umask(UMASK)
        if setting.identity is not None:
            setting.identity.assume()
        kernel.die_with_parent(parent, code=NOT_STARTED)
        stage = "workdir"
        os.chdir(setting.directory)
        stage = "exec"
        kernel.set_mask(kernel.NO_SIGNAL)
        code = work(inherited)
    except OSError as exc:
        inherited.tell(Failure(stage, exc.errno or 0, exc.strerror or str(exc)))
    except BaseException as exc:  # whatever it is, the child must not run on into the worker's code
        inherited.tell(Failure(stage, 0, f"{type(exc).__name__}: {exc}"))
    finally:
        os._exit(code)


def _take_descriptors(streams: Streams, inherited: Inherited, keeps_python: bool) -> Inherited:
    for fd, source in enumerate(streams):
        os.dup2(source, fd)
    if keeps_python:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        _blank_others(null, {0, 1, 2, null, inherited.failure, inherited.result})
        return inherited
    os.dup2(inherited.failure, 3, inheritable=False)
    os.closerange(4, max(_open_descriptors()) + 1)
    return Inherited(3)


def _open_descriptors() -> list[int]:
    return [int(name) for name in os.listdir("/proc/self/fd")]


def _blank_others(null: int, keep: set[int]) -> None:
    """Let go of the worker's sockets and files, but keep their numbers taken: objects here may yet close them."""
    for fd in _open_descriptors():
        if fd not in keep:
            os.dup2(null, fd, inheritable=False)


def _default_signals() -> None:
    """Ignored signals would stay ignored over an exec (Python ignores SIGPIPE); a called function must run no handler
    of the worker."""
    signal.set_wakeup_fd(-1)
    kernel.default_signals()
