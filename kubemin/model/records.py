"""Records that pass between client, store, coordinator and workers. Plain data; JSON on every wire.

Instants are microseconds since the epoch (`clock.Micros`), durations are seconds.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kubemin.clock import LAST, Micros
from kubemin.model.graph import Graph, Seconds
from kubemin.model.states import Cause, RunState, TaskState

TAIL_BYTES = 64 * 1024  # kept of each output stream of a task
OUTPUT_BYTES = 64 * 1024  # of a step's JSON output
PAYLOAD_BYTES = 1024 * 1024  # of one task's work, references filled in


class Definition(msgspec.Struct, frozen=True):
    """A compiled workflow. `hash` is the SHA-256 (hex) of graph; `source` the document as a user wrote it, as JSON."""

    hash: str
    graph: Graph
    source: str = ""


ShownInstant = Annotated[Micros, Meta(ge=0, le=LAST)]


class Submission(msgspec.Struct, frozen=True, omit_defaults=True):
    """One run that a client wants. `id` is made by the client, so that a repeat after a lost reply is the same run.

    Either `workflow` names a definition (with `definition` its hash when the client sent one, else the published one
    is taken), or `work` is one Python task: {"python": …, "args": […], "with": {…}} with `retry`, `timeout`, `queue`.
    """

    id: str
    workflow: str = ""
    definition: str | None = None
    params: dict[str, Any] = {}
    key: str | None = None
    start_at: ShownInstant | None = None
    scheduled_at: ShownInstant | None = None
    work: dict[str, Any] | None = None
    queue: str = "default"
    timeout: Seconds | None = None
    retry: dict[str, Any] | None = None
    signature: str = ""  # of a fleet's client, where it travels in a staged batch


class Accepted(msgspec.Struct, frozen=True):
    """`id` differs from the submission's when the key was there already (`created` is False then)."""

    id: str
    created: bool


class Rejection(msgspec.Struct, frozen=True):
    """Why one submission of a batch was not accepted; the others were. `code` as in errors.Refused or NotFound."""

    code: str
    message: str
    exit_code: int = 5


class Owner(msgspec.Struct, frozen=True, array_like=True):
    """Who holds a claim: one life of one worker. `incarnation` is new at each fork and only rises."""

    instance: str
    slot: int
    incarnation: int


class Claim(msgspec.Struct, array_like=True):
    """A task handed to a worker: one packet. `work` still holds its references; `inputs` has what they need.

    `inputs`: {"params": {…}, "steps": {"extract": output, "publish/upload": output}, "item": …,
    "run": {"id", "name", "scheduledAt", "attempt"}} — absent when the work has no reference (`plain`).
    """

    run: str
    idx: int
    step: str
    workflow: str
    token: int
    attempt: int  # 1 for the first try
    timeout: float  # seconds
    work: msgspec.Raw
    inputs: msgspec.Raw | None = None
    directory: str = ""  # default workdir
    quiet: bool = False  # a single Python task enqueued from code: logged at debug

    @property
    def task(self) -> str:
        return f"{self.run}.{self.idx}"


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Resources of one attempt: CPU seconds, peak memory in bytes."""

    cpu: float = 0.0
    memory: int = 0


class Outcome(msgspec.Struct, array_like=True):
    """How one attempt ended, as its worker saw it: one packet. `state` None means: put it back (cause says why).

    `output` is JSON text. Tails are text, already decoded with errors replaced.
    """

    run: str
    idx: int
    token: int
    state: TaskState | None
    cause: Cause | None = None
    message: str = ""
    exit_code: int | None = None
    signal: int | None = None
    output: msgspec.Raw | None = None
    stdout: str = ""
    stderr: str = ""
    started: Micros = 0
    finished: Micros = 0
    usage: Usage | None = None
    unenforced: tuple[str, ...] = ()  # limits with bestEffort that this machine could not enforce
    signature: str = ""  # of the output, in a fleet that signs


class TaskView(msgspec.Struct, rename="camel"):
    """A task as the JSON contract shows it (design section 7). Times are RFC 3339 text or None."""

    id: str
    step: str
    status: TaskState
    cause: str | None = None
    message: str | None = None
    attempt: int = 0
    token: int = 0
    node: str | None = None
    worker: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    queued_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    due_at: str | None = None
    output: Any = None
    stdout_tail: str = ""
    stderr_tail: str = ""
    usage: dict[str, Any] | None = None
    unenforced: list[str] = []
    progress: float | None = None


class RunView(msgspec.Struct, rename="camel"):
    """A run as the JSON contract shows it. `tasks` is filled by `show`, empty in lists."""

    id: str
    workflow: str
    status: RunState
    cause: str | None = None
    params: dict[str, Any] = {}
    key: str | None = None
    round: int = 1  # run.attempt: rises with each retry of the run
    submitted_at: str | None = None
    start_at: str | None = None
    scheduled_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    tasks: list[TaskView] = []
