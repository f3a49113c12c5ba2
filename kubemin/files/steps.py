"""One step of a workflow file: its keys, by its kind. How steps relate is looked at when all are known."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from kubemin.files.checks import Checks, suggestion
from kubemin.files.document import child
from kubemin.files.work import read_env, read_limits, read_python, read_run, read_shell, read_with, read_workdir
from kubemin.model.graph import Retry
from kubemin.model.names import QUEUE, QUEUE_SHAPE
from kubemin.model.states import WRITTEN_WHENS, When

MODES = ("StepByStep", "DAG")
_KINDS = ("run", "shell", "python", "steps", "components", "kubernetes")
_UNSUPPORTED = ("components", "kubernetes")
_ANY = ("name", "needs", "when")
_TASK = (*_ANY, "env", "timeout", "retry", "limits", "queue", "forEach", "maxParallel")
_KEYS = {
    "run": frozenset((*_TASK, "run", "workdir")),
    "shell": frozenset((*_TASK, "shell", "workdir")),
    "python": frozenset((*_TASK, "python", "with")),
    "steps": frozenset((*_ANY, "steps", "mode")),
}
_ALL = frozenset().union(*_KEYS.values())
_CALLED = {"run": "a step with run", "shell": "a step with shell", "python": "a Python step", "steps": "a group"}
_QUEUE = re.compile(QUEUE)
_RETRY = ("limit", "delay", "factor", "maxDelay", "causes")
_CAUSES = ("failed", "timeout")
_MAX_RETRIES = 10_000
_MAX_PARALLEL = 100_000


class Step(msgspec.Struct):
    """A step as the file says it. `at` is its path in the file; `needs` None: it has no `needs` of its own."""

    at: str
    name: str = ""
    kind: str = ""  # run, shell, python, steps; empty when it could not be told
    needs: tuple[str, ...] | None = None
    when: When | None = None  # None: it says nothing
    queue: str = "default"
    timeout: float | None = None
    retry: Retry | None = None
    work: dict[str, Any] = {}
    items: Any = None
    max_parallel: int | None = None
    mode: str = MODES[0]
    steps: list[Step] = []


def read_steps(value: Any, at: str, checks: Checks) -> list[Step]:
    """A list of steps, those of groups included (groups nest no deeper than a document may)."""
    items = checks.items(value, at, "a list of steps")
    if isinstance(value, list) and not value:
        checks.problem(at, "empty", "there are no steps; give it at least one")
    return [_read_step(item, child(at, index), checks) for index, item in enumerate(items)]


def _read_step(value: Any, at: str, checks: Checks) -> Step:
    step = Step(at=at)
    data = checks.mapping(value, at)
    if not data:
        if isinstance(value, dict):
            checks.problem(at, "empty", "the step is empty; give it a name and one of run, shell, python or steps")
        return step
    if "name" in data:
        checks.name(data["name"], f"{at}.name")
        step.name = str(data["name"])  # also a bad one: the steps that need it are not wrong, too
    else:
        checks.problem(at, "missing", "the step has no name; give it one")
    _read_common(data, step, checks)
    step.kind = _kind(data, at, checks)
    if step.kind:
        _check_keys(data, step.kind, at, checks)
        _READERS[step.kind](data, step, checks)
    return step


def _kind(data: dict[str, Any], at: str, checks: Checks) -> str:
    kinds = [kind for kind in _KINDS if kind in data]
    if len(kinds) == 1 and kinds[0] not in _UNSUPPORTED:
        return kinds[0]
    if len(kinds) > 1:
        checks.problem(at, "kind", f"the step has {' and '.join(kinds)}; keep one of them")
    elif kinds:
        message = f"steps with {kinds[0]} are not in this version; use run, shell or python"
        checks.problem(child(at, kinds[0]), "unsupported", message)
    else:
        for key in data:
            if key not in _ALL:
                checks.unknown_key(child(at, key), key, _ALL)
        checks.problem(at, "kind", "the step does nothing; give it one of run, shell, python or steps")
    return ""


def _check_keys(data: dict[str, Any], kind: str, at: str, checks: Checks) -> None:
    allowed = _KEYS[kind]
    for key in data:
        if key in allowed:
            continue
        if key in _ALL:
            advice = "; give it to the steps inside" if kind == "steps" and key in _TASK else "; remove it"
            checks.problem(child(at, key), "not_here", f"{key} makes no sense on {_CALLED[kind]}{advice}")
        else:
            checks.unknown_key(child(at, key), key, allowed)


def _read_common(data: dict[str, Any], step: Step, checks: Checks) -> None:
    if "needs" in data:
        step.needs = _needs(data["needs"], f"{step.at}.needs", checks)
    if "when" in data:
        step.when = When(checks.choice(data["when"], f"{step.at}.when", WRITTEN_WHENS))


def _needs(value: Any, at: str, checks: Checks) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for index, item in enumerate(checks.items(value, at, "a list of step names")):
        if not isinstance(item, str):
            checks.wrong_type(child(at, index), item, "a step's name")
        elif item in names:
            checks.problem(child(at, index), "duplicate", f'"{item}" is there twice; keep one')
        else:
            names[item] = None
    return tuple(names)


def _read_group(data: dict[str, Any], step: Step, checks: Checks) -> None:
    if "mode" in data:
        step.mode = checks.choice(data["mode"], f"{step.at}.mode", MODES)
    step.steps = read_steps(data["steps"], f"{step.at}.steps", checks)


def _read_command(data: dict[str, Any], step: Step, checks: Checks) -> None:
    if step.kind == "run":
        step.work["run"] = read_run(data["run"], f"{step.at}.run", checks)
    else:
        step.work["shell"] = read_shell(data["shell"], f"{step.at}.shell", checks)
    if "workdir" in data:
        step.work["workdir"] = read_workdir(data["workdir"], f"{step.at}.workdir", checks)
    _read_task(data, step, checks)


def _read_python(data: dict[str, Any], step: Step, checks: Checks) -> None:
    step.work["python"] = read_python(data["python"], f"{step.at}.python", checks)
    if "with" in data:
        step.work["with"] = read_with(data["with"], f"{step.at}.with", checks)
    _read_task(data, step, checks)


def _read_task(data: dict[str, Any], step: Step, checks: Checks) -> None:
    at = step.at
    if "env" in data:
        step.work["env"] = read_env(data["env"], f"{at}.env", checks)
    if "limits" in data:
        step.work["limits"] = read_limits(data["limits"], f"{at}.limits", checks)
    if "timeout" in data:
        step.timeout = checks.duration(data["timeout"], f"{at}.timeout")
    if "retry" in data:
        step.retry = _read_retry(data["retry"], f"{at}.retry", checks)
    if "queue" in data:
        step.queue = _read_queue(data["queue"], f"{at}.queue", checks)
    _read_for_each(data, step, checks)


def _read_for_each(data: dict[str, Any], step: Step, checks: Checks) -> None:
    if "forEach" in data:
        step.items = data["forEach"]
        if not isinstance(step.items, str | list):
            checks.wrong_type(f"{step.at}.forEach", step.items, "a list, or one reference")
    if "maxParallel" in data:
        at = f"{step.at}.maxParallel"
        step.max_parallel = checks.integer(data["maxParallel"], at, 1, _MAX_PARALLEL)
        if "forEach" not in data:
            checks.problem(at, "not_here", "maxParallel makes no sense without forEach; remove it")


def _read_retry(value: Any, at: str, checks: Checks) -> Retry | None:
    data = checks.mapping(value, at, _RETRY)
    if not isinstance(value, dict):
        return None
    if "limit" not in data:
        checks.problem(at, "missing", "it has no limit; say how many attempts follow the first, such as limit: 3")
    limit = checks.integer(data["limit"], f"{at}.limit", 0, _MAX_RETRIES) if "limit" in data else None
    delay = checks.duration(data["delay"], f"{at}.delay", zero=True) if "delay" in data else None
    factor = checks.number(data["factor"], f"{at}.factor", 1, 1000) if "factor" in data else None
    longest = checks.duration(data["maxDelay"], f"{at}.maxDelay", zero=True) if "maxDelay" in data else None
    causes = _read_causes(data["causes"], f"{at}.causes", checks) if "causes" in data else ()
    standard = Retry(limit=limit or 0)
    delay = standard.delay if delay is None else delay
    if longest is not None and longest < delay:
        checks.problem(f"{at}.maxDelay", "range", "it is shorter than the delay; make it longer, or the delay shorter")
    return Retry(
        limit=standard.limit,
        delay=delay,
        factor=standard.factor if factor is None else factor,
        # A delay of ten minutes is not cut to five by a default that the user never wrote.
        max_delay=max(standard.max_delay, delay) if longest is None else longest,
        causes=causes or standard.causes,
    )


def _read_causes(value: Any, at: str, checks: Checks) -> tuple[str, ...]:
    items = checks.items(value, at)
    if isinstance(value, list) and not value:
        checks.problem(at, "empty", "it is empty; name failed, timeout or both, or remove it")
    return tuple(dict.fromkeys(checks.choice(item, child(at, index), _CAUSES) for index, item in enumerate(items)))


def _read_queue(value: Any, at: str, checks: Checks) -> str:
    queue = checks.text(value, at)
    if queue and not _QUEUE.fullmatch(queue):
        hint = suggestion(queue, ("default",))
        checks.problem(at, "name", f"it is not a queue's name; use {QUEUE_SHAPE}{hint}")
    return queue or "default"


_READERS = {"run": _read_command, "shell": _read_command, "python": _read_python, "steps": _read_group}
