"""The configuration, the workflow files, and values that contradict what the machine gives."""

from __future__ import annotations

import os
from collections.abc import Iterator

from kubemin.cli.checks.base import Finding, note, ok, wrong
from kubemin.cli.pool import live_pid
from kubemin.config import Settings
from kubemin.config.host import untrusted
from kubemin.errors import StoreUnavailable
from kubemin.model.graph import Graph
from kubemin.model.states import Kind
from kubemin.modes import in_fleet

_FILES_EACH = 12  # descriptors that the supervisor keeps for one worker, with room
_FILES_OWN = 100


def workflows(settings: Settings) -> Iterator[Finding]:
    folder = settings.workflows_dir
    if not os.path.isdir(folder):
        yield note("workflows", f"there is no folder {folder}; make it and put workflow files there")
        return
    from kubemin.files import load_directory

    definitions, problems = load_directory(folder, untrusted)
    for problem in problems:
        yield wrong("workflows", str(problem))
    for definition in definitions:
        yield from _time_outs(definition.graph)
        yield from _unserved(definition.graph, settings)
    yield ok("workflows", f"{len(definitions)} valid workflow(s) in {folder}")


def _time_outs(graph: Graph) -> Iterator[Finding]:
    """A run that ends before one of its steps may."""
    if graph.timeout is None:
        return
    for node in graph.nodes:
        if node.timeout is not None and node.timeout > graph.timeout:
            yield note(
                "timeouts",
                f"{graph.workflow}: step {node.step} may take {node.timeout:g} s, the whole run {graph.timeout:g} s; "
                "make the run's timeout longer or the step's shorter",
            )


def _unserved(graph: Graph, settings: Settings) -> Iterator[Finding]:
    """Alone on a machine nobody else takes such a step."""
    if in_fleet(settings):
        return
    asked = {node.queue for node in graph.nodes if node.kind in (Kind.TASK, Kind.FANOUT)}
    for queue in sorted(asked - set(settings.queues)):
        yield wrong("queues", f"{graph.workflow}: no worker serves queue {queue}; add it to `queues`")


def queues(settings: Settings) -> Iterator[Finding]:
    """Work that waits for something which does not come by itself."""
    from kubemin.client import Client

    try:
        with Client.from_settings(settings) as client:
            found = client.queues()
    except StoreUnavailable:
        return  # told by the check of the store
    for view in found:
        if view.paused and view.length:
            yield note(
                "queues", f"queue {view.name} is paused and holds {view.length} task(s): `queue resume` opens it"
            )
        elif view.length and view.name not in settings.queues and not in_fleet(settings):
            yield wrong("queues", f"{view.length} task(s) wait in queue {view.name}, which no worker serves: `queues`")


def python_steps(settings: Settings) -> Iterator[Finding]:
    for folder in settings.python.path:
        if not os.path.isdir(folder):
            yield wrong("python", f"python.path names {folder}, which is no folder; make it or take it out")
    if not settings.python.allow:
        yield note("python", "python.allow is empty: no Python function may run; add patterns such as reports.*:*")


def timeouts(settings: Settings) -> Iterator[Finding]:
    """Settings that contradict each other."""
    if settings.graceful_timeout > settings.task_timeout:
        yield note(
            "timeouts",
            f"gracefulTimeout, {settings.graceful_timeout:g} s, is more than taskTimeout, {settings.task_timeout:g} s: "
            "no step takes that long unless its own timeout says so",
        )
    else:
        yield ok(
            "timeouts", f"gracefulTimeout {settings.graceful_timeout:g} s, taskTimeout {settings.task_timeout:g} s"
        )


def descriptors(settings: Settings) -> Iterator[Finding]:
    """Whether the daemon may open as many files as its pool needs."""
    soft = _open_files(live_pid(settings))
    needed = settings.max_workers * _FILES_EACH + _FILES_OWN
    if soft is not None and soft < needed:
        yield wrong("files", f"the daemon may open {soft} files and needs {needed}; set LimitNOFILE=65536 in its unit")


def _open_files(pid: int | None) -> int | None:
    try:
        with open(f"/proc/{pid or 'self'}/limits") as file:
            found = next(line for line in file if line.startswith("Max open files"))
    except (OSError, StopIteration):
        return None
    word = found.split()[3]
    return int(word) if word.isdigit() else None
