"""A run as Python code holds it. It knows its id and its client, and asks the store when it is looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kubemin.errors import KubeminError, NotFound, Refused
from kubemin.model.records import RunView
from kubemin.model.states import RUN_TERMINAL, TASK_FAILURES, RunState, TaskState

if TYPE_CHECKING:
    from kubemin.client import Client


class RunFailed(KubeminError):
    """The run whose result was asked for did not complete."""

    code = "run_failed"


class Run:
    """One execution of a workflow or of one Python task.

    `created` is False when the key given to `submit` was there already: then this is the earlier run.
    """

    __slots__ = ("client", "created", "id")

    def __init__(self, client: Client, id: str, created: bool = True) -> None:
        self.client = client
        self.id = id
        self.created = created

    def __repr__(self) -> str:
        return f"Run({self.id!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def status(self) -> str:
        """Its state now: waiting, running, completed, failed, timeout, cancelled. Raises NotFound."""
        state = self.client.states([self.id]).get(self.id)
        if state is None:
            raise NotFound(f"there is no run {self.id}; ended runs are kept for as long as `retention` says")
        return state

    @property
    def outputs(self) -> dict[str, Any]:
        """Step path -> JSON value, of the steps that completed. A single task is one step, `pkg.mod:func`."""
        return self.client.outputs([self.id]).get(self.id, {})

    @property
    def result(self) -> Any:
        """What the function of a single task returned; of a workflow, the output of its last step that completed.

        Raises Refused while the run goes on, RunFailed when it ended otherwise than completed.
        """
        view = self.view()
        if view.status not in RUN_TERMINAL:
            raise Refused(
                f"run {self.id} is {view.status.value} and has no result yet; wait() for it", code="not_ended"
            )
        if view.status is not RunState.COMPLETED:
            raise RunFailed(_story(view))
        return _last_output(view)

    def view(self) -> RunView:
        """Everything known about it, tasks, outputs and tails of output included. Raises NotFound."""
        return self.client.reader().run(self.id)

    def wait(self, timeout: float | None = None) -> str:
        """Its terminal state, once it has one. Raises TimeoutError after `timeout` seconds, NotFound."""
        return self.client.wait([self], timeout)[self.id]

    def cancel(self) -> bool:
        """Stop it; False when that was asked before. Raises Refused when it has ended."""
        return self.client.cancel(self.id)

    def retry(self, step: str | None = None) -> int:
        """Run what did not complete again; the new round. Raises Refused while it goes on."""
        return self.client.retry(self.id, step)


def _last_output(view: RunView) -> Any:
    """Of the last step in graph order, items of a forEach (`load[3]`) aside."""
    completed = [task for task in view.tasks if task.status is TaskState.COMPLETED and not task.step.endswith("]")]
    return completed[-1].output if completed else None


def _story(view: RunView) -> str:
    bad = next((task for task in view.tasks if task.status in TASK_FAILURES and task.cause != "group"), None)
    cause = f" ({view.cause})" if view.cause else ""
    if bad is None:
        return f"run {view.id} ended {view.status.value}{cause}"
    detail = f": {bad.message}" if bad.message else f" ({bad.cause})" if bad.cause else ""
    return f"run {view.id} ended {view.status.value}: step {bad.step} ended {bad.status.value}{detail}"
