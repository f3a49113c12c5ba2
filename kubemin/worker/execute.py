"""From a claim to its outcome: what kind of step it is, what it needs, how it ended. Never raises for what a step does.

`execute` is the hot path: a Python function of a single task costs about 10 µs here. What only workflow steps need (a
folder, an environment, usage, titles) is made only for them.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from kubemin import clock, faults
from kubemin.clock import SECOND, boottime
from kubemin.config import Settings
from kubemin.model.records import Claim, Outcome
from kubemin.model.references import ReferenceMissing, render_work
from kubemin.model.states import Cause, TaskState
from kubemin.scoreboard import SlotWriter
from kubemin.steps import environment
from kubemin.steps.base import KILL_GRACE, MESSAGE_CHARACTERS, Ended, StartFailed, Step, storable
from kubemin.steps.command import execute as execute_command
from kubemin.steps.containment.base import Containment
from kubemin.steps.hiding import hide_secrets
from kubemin.steps.output import encode_result, read_output
from kubemin.steps.python import Functions, ended_by, traceback_of
from kubemin.steps.scratch import Place, Scratch
from kubemin.task import end_current, set_current
from kubemin.telemetry import log
from kubemin.worker.current import Current
from kubemin.worker.emit import Emitter
from kubemin.worker.interrupts import Interrupts, StepInterrupted
from kubemin.worker.kept import Modules
from kubemin.worker.output import PythonOutput
from kubemin.worker.title import Title
from kubemin.worker.usage import Meter

# Seconds beyond a command's time-out at which the supervisor steps in: its worker ends it by itself well before.
ROOM: Final = KILL_GRACE + 5.0
_DRAINED: Final = Ended(None, Cause.DRAIN, "the worker was told to stop")
CLOSED_OURS: Final = "the step closed file descriptors that it had not opened; its worker's were among them"
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Executor:
    """The part of a worker that runs steps, one at a time."""

    def __init__(
        self,
        slot: int,
        settings: Settings,
        writer: SlotWriter,
        interrupts: Interrupts,
        output: PythonOutput,
        containment: Containment,
    ) -> None:
        self._pid = os.getpid()
        self._slot = slot
        self._settings = settings
        self._writer = writer
        self._interrupts = interrupts
        self._output = output
        self._containment = containment
        self.modules = Modules()
        self._functions = Functions(settings.python.allow, self.modules.note)
        self._current = Current(interrupts, writer)
        self._title = Title(slot)
        self._meter = Meter()
        self._marker = environment.instance_marker(settings.state_dir)
        self._base = {**environment.base_environment(settings.user), "KUBEMIN_INSTANCE": self._marker}
        self._place = Place(settings, slot, self._marker)
        self._place.clear()
        # Users' code is imported and called in the worker, unless that has rights which steps should not have.
        self._alone = bool(settings.user) and os.geteuid() == 0
        self._secrets: tuple[str, ...] = ()  # of the step that runs
        self.lost_descriptors = False  # a Python step closed what is the worker's
        self.left_children = False  # a Python step left processes behind, which are dead now

    @property
    def cannot_kill(self) -> bool:
        """A process of a step survived SIGKILL for long: whoever takes over from this worker has to go on."""
        return self._containment.unkillable

    def idle(self) -> None:
        self._title.idle()

    def execute(self, claim: Claim) -> Outcome:
        """Run it to its end."""
        started, self._secrets = clock.wall(), ()
        try:
            ended, output = self._dispatch(claim)
            ended.message = ended.message and storable(ended.message)
            ended, output = hide_secrets(self._secrets, ended, output)
            ended.message = ended.message[:MESSAGE_CHARACTERS]  # not before: half a secret would not be masked
        except StepInterrupted:
            ended, output = _DRAINED, None
        except Exception as error:
            ended, output = self._failed(claim, error), None
        self._interrupts.in_python = False
        self._interrupts.forget(claim.token)
        if ended.state is TaskState.CANCELLED and ended.cause is Cause.NODE_LOST:
            ended.state = None  # fenced: nobody cancelled the task. Is it ours after all, it goes back
        return self._outcome(claim, ended, output, started)

    def _failed(self, claim: Claim, error: Exception) -> Ended:
        """What the step raises is not seen here: it took our descriptors away, or this is a bug, which is told as a
        failure of this task, so that the worker lives."""
        if isinstance(error, OSError) and error.errno == errno.EBADF:
            self.lost_descriptors = True
            return Ended(TaskState.FAILED, Cause.EXCEPTION, CLOSED_OURS)
        log.exception("a step could not be executed", error, task=claim.task)
        return Ended(TaskState.FAILED, Cause.START, f"internal error: {error}")

    def _outcome(self, claim: Claim, ended: Ended, output: msgspec.Raw | None, started: int) -> Outcome:
        finished = clock.wall()
        seconds = (finished - started) / SECOND
        label = shown_label(claim)
        self._title.took(label, seconds)
        if not claim.quiet or ended.state is not TaskState.COMPLETED:
            _log_end(claim, ended, seconds)
        return Outcome(
            claim.run, claim.idx, claim.token, ended.state, ended.cause, ended.message, ended.exit_code, ended.signal,
            output, ended.stdout, ended.stderr, started, finished, ended.usage, ended.unenforced,
        )  # fmt: skip

    # --- what kind of step --------------------------------------------------------------------------------------------

    def _dispatch(self, claim: Claim) -> tuple[Ended, msgspec.Raw | None]:
        early = self._before(claim)
        if early is not None:
            return early, None
        try:
            work = _work_of(claim)
            path = work.get("python")
            if path is not None:
                return (
                    self._apart(claim, work) if self._alone or work.get("limits") else self._python(claim, path, work)
                )
            if "run" in work or "shell" in work:
                return self._command(claim, work)
        except StartFailed as error:
            return error.ended(), None
        kinds = ", ".join(sorted(work)) or "nothing"
        message = f"this version knows no such kind of step ({kinds}); was it submitted by a newer one?"
        return Ended(TaskState.FAILED, Cause.CORRUPT, message[:500]), None

    def _before(self, claim: Claim) -> Ended | None:
        """How a task ends that was cancelled, or whose worker was told to stop, before it could start. None: it
        starts."""
        if self._interrupts.draining:
            return _DRAINED
        cause = self._interrupts.known(claim.token)
        return None if cause is None else Ended(TaskState.CANCELLED, cause, "was stopped before it started")

    def _begin(self, claim: Claim, room: float, *, within: bool = False) -> None:
        """Tell what runs now: scoreboard, title, log."""
        label, now = shown_label(claim), boottime()
        deadline = now + claim.timeout
        self._writer.running(claim.run, claim.idx, claim.token, label, now, deadline + room, within)
        self._current.begin(claim, deadline)
        self._title.running(label, claim.quiet)
        if not claim.quiet:
            log.info(f"Worker {self._slot} executing task {claim.task}", **_fields(claim))
        elif log.enabled("debug"):
            log.debug(f"Worker {self._slot} executing task {claim.task}")
        faults.point("worker.started")

    # --- Python steps -------------------------------------------------------------------------------------------------

    def _python(self, claim: Claim, path: Any, work: dict[str, Any]) -> tuple[Ended, msgspec.Raw | None]:
        self._begin(claim, 0.0, within=True)
        if "env" in work:
            variables = environment.step_environment(work["env"], self._settings.secrets_dir)
            self._secrets = variables.masks
            with _Environ(variables.values):
                return self._call(claim, path, work, variables.masks)
        return self._call(claim, path, work, ())

    def _call(
        self, claim: Claim, path: Any, work: dict[str, Any], masks: tuple[str, ...]
    ) -> tuple[Ended, msgspec.Raw | None]:
        if not claim.quiet:
            self._meter.begin()
        output = self._output
        output.begin(Emitter(claim, self._slot), masks)
        set_current(self._current)
        result, ended = None, Ended(TaskState.COMPLETED)
        try:
            self._interrupts.in_python = True
            function = self._functions.find(path)
            result = msgspec.Raw(encode_result(function(*work.get("args", ()), **work.get("with", {}))))
        except BaseException as error:
            self._interrupts.in_python = False
            if os.getpid() == self._pid:
                ended = self._raised(error)
        self._interrupts.in_python = False
        if os.getpid() != self._pid:
            os._exit(0)  # a child that the function forked and let return: it must not go on as a second worker
        end_current()
        if self._containment.kill_leftovers():
            self.left_children = True
        ended.stdout, ended.stderr = output.end()
        if self._current.seen is not None and ended.state is not None:
            ended.state, ended.cause, ended.message = TaskState.CANCELLED, self._current.seen, "was stopped"
        if not claim.quiet:
            ended.usage = self._meter.read()
        self._current.claim = None
        return ended, result

    def _raised(self, error: BaseException) -> Ended:
        if self._interrupts.draining:  # the function may have wrapped our exception in its own
            return msgspec.structs.replace(_DRAINED)
        trace = traceback_of(error)
        if trace:
            self._output.write("stderr", trace.encode("utf-8", "backslashreplace"))
        return ended_by(error)

    def _apart(self, claim: Claim, work: dict[str, Any]) -> tuple[Ended, msgspec.Raw | None]:
        """In a child of its own, so that its limits hold it and not the worker, and it has the rights of `user`."""
        self._begin(claim, ROOM)

        def call() -> bytes:
            set_current(self._current)
            try:
                function = self._functions.find(work["python"])
                return b"+" + encode_result(function(*work.get("args", ()), **work.get("with", {})))
            except StartFailed as error:
                sys.stderr.write(traceback_of(error))
                return f"-{error.cause} {error}".encode("utf-8", "backslashreplace")

        with self._place.make() as scratch:
            ended, result = self._containment.call(call, self._step(claim, work, scratch))
        self._current.claim = None
        if result is None or result.startswith(b"+"):
            return ended, None if result is None else msgspec.Raw(result[1:])
        cause, _, message = result[1:].decode().partition(" ")
        ended.state, ended.cause, ended.message = TaskState.FAILED, Cause(cause), message
        return ended, None

    # --- commands -----------------------------------------------------------------------------------------------------

    def _command(self, claim: Claim, work: dict[str, Any]) -> tuple[Ended, msgspec.Raw | None]:
        self._begin(claim, ROOM)
        with self._place.make() as scratch:
            step = self._step(claim, work, scratch)
            ended = execute_command(step, self._containment)
            output = None
            try:
                output = read_output(scratch.output)
            except StartFailed as error:
                if ended.state is TaskState.COMPLETED:
                    ended.state, ended.cause, ended.message = TaskState.FAILED, error.cause, str(error)
        return ended, output

    def _step(self, claim: Claim, work: dict[str, Any], scratch: Scratch) -> Step:
        own = environment.step_environment(work.get("env") or {}, self._settings.secrets_dir)
        token, self._secrets = claim.token, own.masks
        return Step(
            claim=claim,
            work=work,
            directory=os.path.join(claim.directory or scratch.tmp, work.get("workdir") or ""),
            environ={
                **self._base,
                **own.values,
                **environment.task_variables(claim, self._marker),
                "KUBEMIN_OUTPUT": scratch.output,
                "KUBEMIN_TMP": scratch.tmp,
                "KUBEMIN_DEADLINE": str(int(clock.wall() / SECOND + claim.timeout)),
            },
            masks=own.masks,
            deadline=clock.monotonic() + claim.timeout,
            output_file=scratch.output,
            emit=Emitter(claim, self._slot)(),
            interrupt_fd=self._interrupts.fd,
            interrupted=lambda: self._interrupts.pending(token),
            tick=self._title.refresh,
            slot=self._slot,
            user=self._settings.user,
        )


def shown_label(claim: Claim) -> str:
    """What runs, for scoreboard and title: an item of a fan-out with its number."""
    return claim.step if claim.quiet else f"{claim.workflow}/{claim.step}"


def _work_of(claim: Claim) -> dict[str, Any]:
    """What to do, its references filled in. Raises StartFailed."""
    try:
        work = _decode(claim.work)
        if claim.inputs is None:
            return work
        return render_work(work, _decode(claim.inputs))
    except ReferenceMissing as error:
        raise StartFailed(str(error), Cause.REFERENCE) from None
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise StartFailed(f"the record of this task cannot be read: {error}"[:500], Cause.CORRUPT) from None


class _Environ:
    """`os.environ` with a step's own variables, for as long as it runs."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self._before: dict[str, str] = {}

    def __enter__(self) -> None:
        self._before = os.environ.copy()
        try:
            os.environ.update(self._values)
        except BaseException:  # one that cannot be set: those before it are not for the next task
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        os.environ.clear()
        os.environ.update(self._before)


def _fields(claim: Claim) -> dict[str, Any]:
    return {
        "workflow": claim.workflow or None,
        "run": claim.run,
        "step": claim.step,
        "task": claim.task,
        "attempt": claim.attempt,
    }


def _log_end(claim: Claim, ended: Ended, seconds: float) -> None:
    if ended.state is TaskState.COMPLETED:
        log.info("task finished", **_fields(claim), seconds=round(seconds, 3))
        return
    write = log.debug if claim.quiet else log.info if ended.state is None else log.warning
    message = "task put back" if ended.state is None else f"task {ended.state}"
    write(message, **_fields(claim), cause=ended.cause, seconds=round(seconds, 3), reason=ended.message or None)
