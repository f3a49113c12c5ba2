"""The configuration, the workflow files, and values that contradict what the machine gives."""

from __future__ import annotations

import os
from collections.abc import Iterator

from kubemin.cli.checks.base import Finding, note, ok, wrong
from kubemin.cli.pool import live_pid
from kubemin.config import Settings

_FILES_EACH = 12  # descriptors that the supervisor keeps for one worker, with room
_FILES_OWN = 100


def workflows(settings: Settings) -> Iterator[Finding]:
    folder = settings.workflows_dir
    if not os.path.isdir(folder):
        yield note("workflows", f"there is no folder {folder}; make it and put workflow files there")
        return
    from kubemin.files import load_directory

    definitions, problems = load_directory(folder)
    for problem in problems:
        yield wrong("workflows", str(problem))
    yield ok("workflows", f"{len(definitions)} valid workflow(s) in {folder}")


def python_steps(settings: Settings) -> Iterator[Finding]:
    for folder in settings.python.path:
        if not os.path.isdir(folder):
            yield wrong("python", f"python.path names {folder}, which is no folder; make it or take it out")
    if not settings.python.allow:
        yield note("python", "python.allow is empty: no Python function may run; add patterns such as reports.*:*")


def limits(settings: Settings) -> Iterator[Finding]:
    """Time-outs and limits that contradict each other."""
    if settings.graceful_timeout > settings.task_timeout:
        yield note(
            "timeouts",
            f"gracefulTimeout, {settings.graceful_timeout:g} s, is more than taskTimeout, {settings.task_timeout:g} s: "
            "no step takes that long unless its own timeout says so",
        )
    soft = _open_files(live_pid(settings))
    needed = settings.max_workers * _FILES_EACH + _FILES_OWN
    if soft is not None and soft < needed:
        yield wrong("files", f"the daemon may open {soft} files and needs {needed}; set LimitNOFILE=65536 in its unit")
    else:
        yield ok(
            "timeouts", f"gracefulTimeout {settings.graceful_timeout:g} s, taskTimeout {settings.task_timeout:g} s"
        )


def _open_files(pid: int | None) -> int | None:
    try:
        with open(f"/proc/{pid or 'self'}/limits") as file:
            found = next(line for line in file if line.startswith("Max open files"))
    except (OSError, StopIteration):
        return None
    word = found.split()[3]
    return int(word) if word.isdigit() else None
