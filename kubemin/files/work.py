"""What a step executes: argv, script, function, and the environment, folder and limits around it.

The result is `Node.work` (see `model/graph.py`): plain data that an executor takes, references still in it.
"""

from __future__ import annotations

import re
from typing import Any

from kubemin.files.checks import Checks, is_number, shown
from kubemin.files.document import child
from kubemin.files.plain import MAX_PATH
from kubemin.model.names import SECRET
from kubemin.model.references import as_text

_FUNCTION = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(SECRET)
_RESERVED = "KUBEMIN_"
_LIMITS = ("memory", "cpu", "pids", "bestEffort")
_CORES = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m?)")
_MAX_CORES = 4096.0
_MAX_PIDS = 4_194_304  # PID_MAX_LIMIT of a 64-bit kernel, proc(5)


def read_run(value: Any, at: str, checks: Checks) -> list[str]:
    if isinstance(value, str):
        checks.problem(at, "type", "it has to be a list, such as [./x.sh, --flag]; for a command line use shell")
        return []
    words = [_word(value, index, at, checks) for index in range(len(checks.items(value, at)))]
    if isinstance(value, list) and (not words or not words[0]):
        checks.problem(at, "empty", "there is no command in it; name one first")
    return words


def read_shell(value: Any, at: str, checks: Checks) -> str:
    script = checks.text(value, at)
    if "${{" in script:
        checks.problem(
            at, "reference", "a script takes no references; give the value as a variable in env, and use that"
        )
    return script


def read_python(value: Any, at: str, checks: Checks) -> str:
    function = checks.text(value, at)
    if function and not _FUNCTION.fullmatch(function):
        checks.problem(at, "value", f'"{shown(function)}" names no function; write it like package.module:function')
    return function


def read_with(value: Any, at: str, checks: Checks) -> dict[str, Any]:
    return checks.mapping(value, at)


def read_workdir(value: Any, at: str, checks: Checks) -> str:
    return checks.text(value, at, longest=MAX_PATH)


def read_env(value: Any, at: str, checks: Checks) -> dict[str, Any]:
    """Variables, each text or {"secret": NAME}."""
    env: dict[str, Any] = {}
    for name, item in checks.mapping(value, at).items():
        field = child(at, name)
        if not _VARIABLE.fullmatch(name):
            checks.problem(
                field, "name", f'"{shown(name)}" is not a variable\'s name; use letters, digits, underscores'
            )
        elif name.startswith(_RESERVED):
            checks.problem(field, "name", f"variables that begin with {_RESERVED} are set by kubemin; use another name")
        env[name] = _secret(item, field, checks) if isinstance(item, dict) else _word(value, name, at, checks)
    return env


def read_limits(value: Any, at: str, checks: Checks) -> dict[str, Any]:
    data = checks.mapping(value, at, _LIMITS)
    limits: dict[str, Any] = {}
    if "memory" in data:
        limits["memory"] = checks.size(data["memory"], f"{at}.memory")
    if "cpu" in data:
        limits["cpu"] = _cores(data["cpu"], f"{at}.cpu", checks)
    if "pids" in data:
        limits["pids"] = checks.integer(data["pids"], f"{at}.pids", 1, _MAX_PIDS)
    if "bestEffort" in data:
        limits["bestEffort"] = checks.flag(data["bestEffort"], f"{at}.bestEffort")
    return limits


def _word(container: Any, key: str | int, at: str, checks: Checks) -> str:
    """Text for a command or a variable; numbers as they were written, true and false as words."""
    value = container[key]
    if isinstance(value, str):
        if "\0" in value:
            checks.clean(value, child(at, key))
        return value
    if is_number(value):
        return checks.document.spelling(container, key) or as_text(value)
    if isinstance(value, bool):
        return as_text(value)
    if value is None:
        checks.problem(child(at, key), "type", "it has no value; write '' for an empty text")
    else:
        checks.wrong_type(child(at, key), value, "text")
    return ""


def _secret(value: dict[str, Any], at: str, checks: Checks) -> dict[str, Any]:
    checks.mapping(value, at, ("secret",))
    if "secret" not in value:
        checks.problem(at, "missing", "it names no secret; write {secret: NAME}, or a text")
        return {"secret": ""}
    name = checks.text(value["secret"], f"{at}.secret")
    if name and not _SECRET.fullmatch(name):
        checks.problem(
            f"{at}.secret", "name", f'"{shown(name)}" is not a secret\'s name; it is a file name, not a path'
        )
    return {"secret": name}


def _cores(value: Any, at: str, checks: Checks) -> float | None:
    """Cores of `1`, `"0.5"` or `500m`."""
    if is_number(value):
        cores = float(value)
    elif isinstance(value, str) and len(value) <= 64 and (match := _CORES.fullmatch(value)):
        cores = float(match[1]) / (1000 if match[2] else 1)
    else:
        checks.problem(at, "value", "it has to be a number of cores, such as 2, 0.5 or 500m")
        return None
    if not 0 < cores <= _MAX_CORES:
        checks.problem(at, "range", f"it has to be more than 0 and at most {_MAX_CORES:g} cores")
    return cores
