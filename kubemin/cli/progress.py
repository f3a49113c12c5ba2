"""How `kubeminctl run` shows what goes on: a live tree on a terminal, lines elsewhere, a summary at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from kubemin.cli import render
from kubemin.model.records import RunView, TaskView
from kubemin.model.states import TASK_FAILURES, TASK_LIVE, TaskState

if TYPE_CHECKING:
    from rich.console import RenderableType

    from kubemin.model.graph import Graph

FAILED_SHOWN = 5  # failed steps whose output the summary shows
OUTPUT_LINES = 100  # of a step's JSON output
TAIL_LINES = 20  # of each of several failed steps in the summary


class Progress(Protocol):
    def __enter__(self) -> Progress: ...

    def __exit__(self, *_: object) -> None: ...

    def update(self, view: RunView) -> None: ...


def make_progress(quiet: bool) -> Progress:
    if quiet:
        return Silent()
    return Live() if render.is_terminal() else Lines()


class Silent:
    """For `-o json`."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, view: RunView) -> None:
        pass


class Lines(Silent):
    """One line on stderr for each change of a step."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, int]] = {}

    def update(self, view: RunView) -> None:
        for task in view.tasks:
            now = (task.status.value, task.attempt)
            started = task.status not in (TaskState.WAITING, TaskState.QUEUED) or task.attempt > 0
            if self._seen.get(task.id) != now and started:
                render.note(_line(task))
            self._seen[task.id] = now


def _line(task: TaskView) -> str:
    words = [render.clean(task.step), task.status.value]
    if task.attempt > 1:
        words.append(f"attempt {task.attempt}")
    if task.finished_at:
        words.append(render.duration(render.seconds_between(task.started_at, task.finished_at)) or "")
    if task.status in TASK_FAILURES and task.message:
        words.append(render.clean(task.message.partition("\n")[0]))
    return "  ".join(word for word in words if word)


class Live:
    """A tree of steps that is drawn again ten times a second. Finished steps give way when the screen is too small."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._console = Console(no_color=not render.coloured(), highlight=False)
        self._live = RichLive(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> Live:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def update(self, view: RunView) -> None:
        self._live.update(tree(view, max(5, self._console.height - 3)), refresh=True)


def tree(view: RunView, rows: int) -> RenderableType:
    """The run with its steps, groups and forEach steps as branches; at most `rows` lines."""
    from rich.text import Text
    from rich.tree import Tree

    root = Tree(Text.assemble((view.workflow, "bold"), f"  {view.id}  ", _styled(view.status.value)))
    branches: dict[str, Tree] = {}
    shown = _fitting(view.tasks, rows)
    for task in sorted(shown, key=lambda task: (task.step.count("/"), "[" in task.step)):
        parent = branches.get(_parent(task.step), root)
        branches[task.step] = parent.add(_text(task))
    if len(shown) < len(view.tasks):
        root.add(Text(f"… and {len(view.tasks) - len(shown)} more", style="dim"))
    return root


def _fitting(tasks: list[TaskView], rows: int) -> list[TaskView]:
    if len(tasks) <= rows:
        return tasks
    order = {TaskState.RUNNING: 0, TaskState.FAILED: 1, TaskState.TIMEOUT: 1, TaskState.QUEUED: 2, TaskState.WAITING: 3}
    chosen = {task.id for task in sorted(tasks, key=lambda task: order.get(task.status, 4))[:rows]}
    return [task for task in tasks if task.id in chosen]


def _parent(step: str) -> str:
    return step.rpartition("[")[0] if step.endswith("]") else step.rpartition("/")[0]


def _text(task: TaskView) -> Any:
    from rich.text import Text

    took = render.duration(render.seconds_between(task.started_at, task.finished_at)) or ""
    attempt = f"attempt {task.attempt}" if task.attempt > 1 else ""
    name = task.step.rpartition("/")[2]
    parts = [
        (render.clean(name), ""),
        ("  ", ""),
        _styled(task.status.value),
        (f"  {took}", ""),
        (f"  {attempt}", "dim"),
    ]
    message = "" if task.status is TaskState.COMPLETED else (task.message or "").partition("\n")[0]
    return Text.assemble(*parts, (f"  {render.clean(message)}", "dim"), no_wrap=True, overflow="ellipsis")


def _styled(word: str) -> tuple[str, str]:
    return word, render.state_colour(word) or ""


# --- the end ----------------------------------------------------------------------------------------------------------


def summary(view: RunView, graph: Graph) -> None:
    """Each step's end, then what an operator wants to see next: the failed steps' output, or else the last steps'."""
    from kubemin.cli.commands.show import task_row

    headers = ("STEP", "STATUS", "ATTEMPT", "WORKER", "TOOK", "CAUSE", "MESSAGE")
    render.table(headers, [task_row(task) for task in view.tasks], "the run has no steps")
    shown = telling(view, graph)
    for task in shown:
        _output(task, None if task.status is TaskState.COMPLETED or len(shown) == 1 else TAIL_LINES)
    took = render.duration(render.seconds_between(view.started_at, view.finished_at)) or "0s"
    cause = f" ({view.cause})" if view.cause else ""
    render.line()
    render.line(f"run {view.id} {render.state(view.status.value)}{cause} in {took}")


def telling(view: RunView, graph: Graph) -> list[TaskView]:
    """The steps whose output tells how the run went: those that failed, or else those after which nothing was said."""
    failed = [task for task in view.tasks if task.status in TASK_FAILURES and task.cause != "group"]
    if failed:
        return failed[:FAILED_SHOWN]
    if any(task.status in TASK_LIVE for task in view.tasks):
        return []
    said = {task.step: task for task in view.tasks if not task.step.endswith("]") and _said_something(task)}
    return [said[step] for step in last_of(set(said), graph)]


def last_of(steps: set[str], graph: Graph) -> list[str]:
    """Those of `steps` that no other of them comes after, in the graph's order."""
    followed: set[int] = set()  # nodes that some step comes after, directly or not
    last = []
    for index in range(len(graph.nodes) - 1, -1, -1):  # needs have smaller indexes
        node = graph.nodes[index]
        if node.step in steps and index not in followed:
            last.append(node.step)
        if node.step in steps or index in followed:
            followed.update(edge.node for edge in node.needs)
    return last[::-1]


def _said_something(task: TaskView) -> bool:
    return task.output is not None or bool(task.stdout_tail or task.stderr_tail)


def _output(task: TaskView, most: int | None) -> None:
    """What it wrote, as far as it was kept; at most the last `most` lines of each stream."""
    for name, text in (("stdout", task.stdout_tail), ("stderr", task.stderr_tail)):
        lines = text.splitlines()
        if lines:
            shown = lines if most is None else lines[-most:]
            left = f", last {len(shown)} of {len(lines)} lines" if len(shown) < len(lines) else ""
            render.line()
            render.line(render.paint(f"{name} of {render.clean(task.step)}{left}:", "bold"))
            for line in shown:
                render.line(f"  {line}")
    if task.output is not None:
        render.line()
        render.line(render.paint(f"output of {render.clean(task.step)}:", "bold"))
        text = msgspec.json.format(msgspec.json.encode(task.output), indent=2).decode()
        lines = text.splitlines()
        for line in lines[:OUTPUT_LINES]:
            render.line(f"  {render.output(line)}")
        if len(lines) > OUTPUT_LINES:
            render.line(f"  … and {len(lines) - OUTPUT_LINES} lines more; -o json has all of it")
