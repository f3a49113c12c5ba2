"""Parameters of a workflow: their declaration in the file, and the values that a run is given.

`bind_params` is called by whoever accepts a run (client, schedule), so it loads nothing of YAML and costs nothing for a
workflow without parameters.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from kubemin.errors import Invalid, Problem
from kubemin.files.checks import Checks, shown, suggestion
from kubemin.files.document import child
from kubemin.files.limited import TooSlow, limited
from kubemin.files.plain import DocumentError, check_plain, one_line
from kubemin.model.graph import Graph
from kubemin.model.references import as_text, has_reference

MAX_PATTERN = 1024  # characters
MAX_MATCHED = 64 * 1024  # characters of a value that a pattern is held against
MATCH_SECONDS = 1.0  # of processor time: one bad file must not hold up all others
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,62}")
_KEYS = ("default", "pattern")


def read_params(value: Any, at: str, checks: Checks) -> dict[str, dict[str, Any]]:
    """The `params` section as the graph holds it: name -> {"default"?, "pattern"?}."""
    params: dict[str, dict[str, Any]] = {}
    for name, declared in checks.mapping(value, at).items():
        field = child(at, name)
        if not _NAME.fullmatch(name):
            rule = "use letters, digits, underscores and hyphens, a letter first, 63 at most"
            checks.problem(field, "name", f'"{shown(name)}" is not a parameter\'s name; {rule}')
        params[name] = _read_param(declared, field, checks)
    return params


def bind_params(graph: Graph, given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of one run: what was given, and defaults for the rest. Raises Invalid with all problems."""
    declared = graph.params
    if not declared and not given:
        return {}
    problems = [_unknown(name, declared) for name in given if name not in declared]
    bound: dict[str, Any] = {}
    for name, spec in declared.items():
        if name in given:
            bound[name] = given[name]
            problems += _value_problems(name, spec, given[name])
        elif "default" in spec:
            bound[name] = spec["default"]
        else:
            problems.append(_problem(name, "required", "it has no default; give it a value"))
    if problems:
        raise Invalid(problems)
    return bound


def _read_param(declared: Any, at: str, checks: Checks) -> dict[str, Any]:
    if declared is None:  # `day:` says that there is one, no more
        return {}
    if not isinstance(declared, dict):
        return {"default": _default(declared, at, checks)}
    checks.mapping(declared, at, _KEYS)
    spec: dict[str, Any] = {}
    if "default" in declared:
        spec["default"] = _default(declared["default"], child(at, "default"), checks)
    if "pattern" in declared:
        _read_pattern(declared["pattern"], child(at, "pattern"), checks, spec)
    if "pattern" in spec and "default" in spec and (fault := _mismatch(spec["pattern"], spec["default"])):
        checks.problem(child(at, "default"), "default", fault)
    return spec


def _default(value: Any, at: str, checks: Checks) -> Any:
    if has_reference(value):
        checks.problem(at, "reference", "a default takes no references; it is the same for every run")
    return value


def _read_pattern(value: Any, at: str, checks: Checks, spec: dict[str, Any]) -> None:
    pattern = checks.text(value, at, longest=MAX_PATTERN)
    if not pattern:
        return
    try:
        _compiled(pattern)
    except ValueError as exc:
        checks.problem(at, "pattern", f"it is not a regular expression: {exc}")
    else:
        spec["pattern"] = pattern


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    """Raises ValueError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return re.compile(pattern)
    except re.error as exc:
        raise ValueError(str(exc)) from None
    except (OverflowError, RecursionError):
        raise ValueError("it is too complex") from None


def _value_problems(name: str, spec: Mapping[str, Any], value: Any) -> list[Problem]:
    try:
        check_plain(value)
    except DocumentError as exc:
        return [_problem(name, exc.code, str(exc))]
    fault = _mismatch(spec["pattern"], value) if "pattern" in spec else None
    return [_problem(name, "pattern", fault)] if fault else []


def _mismatch(pattern: str, value: Any) -> str | None:
    """What is wrong with a value, as text, under a pattern that has to match all of it."""
    text = as_text(value)
    if len(text) > MAX_MATCHED:
        return f"it has {len(text)} characters; {MAX_MATCHED} are allowed with a pattern"
    try:
        with limited(MATCH_SECONDS):
            matches = _compiled(pattern).fullmatch(text)
    except TooSlow:
        return f"the pattern {pattern} takes too long on it; give it no repetition inside a repetition"
    return None if matches else f'"{shown(text)}" does not match the pattern {pattern}'


def _unknown(name: str, declared: Mapping[str, Any]) -> Problem:
    return _problem(name, "unknown_param", f'the workflow has no parameter "{shown(name)}"{suggestion(name, declared)}')


def _problem(name: str, code: str, message: str) -> Problem:
    return Problem(field=one_line(f"params.{name}", 200), code=code, message=one_line(message))
