"""A workflow file's own keys, and by `steps.py` those of its steps: types, names, ranges; not yet how steps relate."""

from __future__ import annotations

from typing import Any

import msgspec

from kubemin.files.checks import Checks
from kubemin.files.params import read_params
from kubemin.files.steps import MODES, Step, read_steps
from kubemin.model.graph import Concurrency, Schedule
from kubemin.model.references import find

_KEYS = ("name", "mode", "params", "timeout", "schedule", "concurrency", "steps")
_APPLICATION = ("components", "component")
_SCHEDULE = ("cron", "timezone", "missed", "grace")
_CONCURRENCY = ("key", "policy")
_MAX_KEY = 1024


class Workflow(msgspec.Struct):
    """A workflow as the file says it."""

    name: str = ""
    mode: str = MODES[0]
    params: dict[str, dict[str, Any]] = {}
    timeout: float | None = None
    schedule: Schedule | None = None
    concurrency: Concurrency | None = None
    steps: list[Step] = []


def read_workflow(data: Any, checks: Checks) -> Workflow:
    """Note all problems of single values. Whether steps fit together is not looked at."""
    workflow = Workflow()
    if not isinstance(data, dict):
        checks.problem("", "type", "it is not a workflow; a workflow is a mapping with name and steps")
        return workflow
    for key in _APPLICATION:
        if key in data:
            checks.problem(
                key, "unsupported", "KubeMin applications are not in this version; write a workflow with steps"
            )
            return workflow
    checks.mapping(data, "", _KEYS)
    _read_head(data, workflow, checks)
    if "steps" in data:
        workflow.steps = read_steps(data["steps"], "steps", checks)
    else:
        checks.problem("", "missing", "the workflow has no steps; give it a list of steps")
    return workflow


def _read_head(data: dict[str, Any], workflow: Workflow, checks: Checks) -> None:
    if "name" in data:
        workflow.name = checks.name(data["name"], "name", shortest=2)
    else:
        checks.problem("", "missing", "the workflow has no name; give it one")
    if "mode" in data:
        workflow.mode = checks.choice(data["mode"], "mode", MODES)
    if "params" in data:
        workflow.params = read_params(data["params"], "params", checks)
    if "timeout" in data:
        workflow.timeout = checks.duration(data["timeout"], "timeout")
    if "schedule" in data:
        workflow.schedule = _read_schedule(data["schedule"], workflow.params, checks)
    if "concurrency" in data:
        workflow.concurrency = _read_concurrency(data["concurrency"], workflow.params, checks)


def _read_schedule(value: Any, params: dict[str, dict[str, Any]], checks: Checks) -> Schedule | None:
    from kubemin.model import schedule  # cron and time zones: not for those that have none

    data = checks.mapping(value, "schedule", _SCHEDULE)
    if not isinstance(value, dict):
        return None
    if "cron" not in data:
        checks.problem("schedule", "missing", 'it has no cron; say when it runs, such as cron: "0 3 * * *"')
    for name, spec in params.items():
        if "default" not in spec:
            message = f"a schedule gives no parameters; give {name} a default, or remove the schedule"
            checks.problem(f"params.{name}", "required", message)
    cron = checks.text(data["cron"], "schedule.cron") if "cron" in data else ""
    _try(schedule.check_cron, cron, "schedule.cron", "cron", checks)
    timezone = checks.text(data["timezone"], "schedule.timezone") if "timezone" in data else ""
    _try(schedule.check_timezone, timezone, "schedule.timezone", "timezone", checks)
    grace = checks.duration(data["grace"], "schedule.grace", zero=True) if "grace" in data else None
    standard = Schedule(cron=cron)
    missed = checks.choice(data.get("missed", standard.missed), "schedule.missed", ("skip", "once", "all"))
    return Schedule(
        cron=cron,
        timezone=timezone or standard.timezone,
        missed=missed,
        grace=standard.grace if grace is None else grace,
    )


def _try(check: Any, value: str, at: str, code: str, checks: Checks) -> None:
    if not value:  # noted already, or not there
        return
    try:
        check(value)
    except ValueError as exc:
        checks.problem(at, code, str(exc))


def _read_concurrency(value: Any, params: dict[str, dict[str, Any]], checks: Checks) -> Concurrency | None:
    data = checks.mapping(value, "concurrency", _CONCURRENCY)
    if not isinstance(value, dict):
        return None
    if "key" not in data:
        checks.problem("concurrency", "missing", "it has no key; runs with the same key do not run at once")
        return None
    key = checks.text(data["key"], "concurrency.key", longest=_MAX_KEY)
    _check_key(key, params, checks)
    policy = checks.choice(data.get("policy", "queue"), "concurrency.policy", ("queue", "reject", "replace"))
    return Concurrency(key=key, policy=policy)


def _check_key(key: str, params: dict[str, dict[str, Any]], checks: Checks) -> None:
    from kubemin.files.scope import check_param

    try:
        references = find(key)
    except ValueError as exc:
        checks.problem("concurrency.key", "reference", str(exc))
        return
    for reference in references:
        if reference.root == "params":
            check_param(reference, params, "concurrency.key", checks)
        else:
            checks.problem("concurrency.key", "reference", f"{reference} is not known before the run; use params.NAME")
