"""Putting the sources together: flag beats environment beats file beats default; then the rules between the keys.

All problems are reported, not only the first. Nothing outside the configuration is checked here: whether directories
can be written is for the process that needs them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from kubemin.config import defaults, sources
from kubemin.config.settings import Settings
from kubemin.config.table import DEFAULTS, KEYS, Key
from kubemin.config.values import show
from kubemin.errors import Invalid, Problem

_SOCKET_PATH = 107  # sun_path of unix(7), without its end
_adopted: Settings | None = None
_RENEW_JITTER = 1.2  # a retry comes up to 20 % late (client-go's JitterFactor)


def config_path(config: str | None, environ: Mapping[str, str]) -> str:
    """The configuration file that is meant: `config`, else KUBEMIN_CONFIG, else the machine's place for it."""
    return os.path.abspath(config or environ.get("KUBEMIN_CONFIG") or defaults.config_file(environ))


def load_settings(
    config: str | None = None, flags: Mapping[str, str] = {}, environ: Mapping[str, str] = os.environ
) -> Settings:
    """The settings in force. A missing file is an error only when it was named. Raises Invalid with every problem."""
    settings, invalid = examine(config, flags, environ)
    if invalid:
        raise invalid
    return settings


def adopt(settings: Settings) -> None:
    """In a worker: its Python steps talk to the daemon that runs them, whatever flags that was started with."""
    global _adopted
    _adopted = settings


def settings_in_force(config: str | None = None) -> Settings:
    """Those of the daemon whose worker this is, else the ones `load_settings` finds. Raises Invalid."""
    return _adopted if _adopted is not None and config is None else load_settings(config)


def examine(
    config: str | None = None, flags: Mapping[str, str] = {}, environ: Mapping[str, str] = os.environ
) -> tuple[Settings, Invalid | None]:
    """The settings, with defaults in place of values that are wrong, and all that is wrong with them. For callers that
    have more to check before they raise it."""
    path = config_path(config, environ)
    named = bool(config or environ.get("KUBEMIN_CONFIG"))
    try:
        file = sources.from_file(path) if named or os.path.lexists(path) else sources.Source()
        unreadable: list[Problem] = []
    except Invalid as exc:
        file, unreadable = sources.salvage(path), list(exc.problems)
    others = [sources.from_environment(environ), sources.from_flags(flags)]
    stronger = others[0].values | others[1].values
    settings = _build(dict(defaults.machine(environ, path)) | file.values | stronger)
    in_file = {name: file.lines.get(name) for name in file.values if name not in stronger}
    elsewhere = [*others[0].problems, *others[1].problems]
    problems = [*unreadable, *file.problems]
    _sort_in(_rules(settings, {problem.field for problem in (*problems, *elsewhere)}), in_file, problems, elsewhere)
    return settings, _invalid(problems, elsewhere, path) if problems or elsewhere else None


def _sort_in(
    found: list[Problem], in_file: Mapping[str, int | None], problems: list[Problem], elsewhere: list[Problem]
) -> None:
    """Put each broken rule that was `found` where its value comes from: among the `problems` of the file, with its
    line, or `elsewhere`."""
    for problem in found:
        if problem.field in in_file:
            problems.append(msgspec.structs.replace(problem, line=in_file[problem.field]))
        else:
            elsewhere.append(problem)


def _build(values: Mapping[str, Any]) -> Settings:
    flat: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        *group, attribute = KEYS[name].attributes
        if group:
            nested.setdefault(group[0], {})[attribute] = value
        else:
            flat[attribute] = value
    for group_name, members in nested.items():
        flat[group_name] = msgspec.structs.replace(getattr(DEFAULTS, group_name), **members)
    return Settings(**flat)


def _invalid(in_file: list[Problem], elsewhere: list[Problem], path: str) -> Invalid:
    """The file is named once for all when every problem is its own, else with each of its problems."""
    in_file = sorted(in_file, key=lambda problem: problem.line or 0)
    if not elsewhere:
        return Invalid(in_file, source=path)
    return Invalid([*(name_file(problem, path) for problem in in_file), *elsewhere])


def name_file(problem: Problem, path: str) -> Problem:
    """The same problem with the file in its message: for a list whose problems come from several sources."""
    return msgspec.structs.replace(problem, message=f"{problem.message} (in {path})")


# --- rules between keys -------------------------------------------------------------------------------------------


def _rules(settings: Settings, wrong: set[str]) -> list[Problem]:
    """Contradictions. Keys that are wrong already are not judged again."""
    found = [*_order(settings, wrong), *_paths(settings)]
    return [problem for problem in found if problem.field not in wrong]


_MORE_THAN = (
    ("lock.ttl", 2.0, "lock.renew", "or a lock lapses between two renewals"),
    ("leaderElection.leaseDuration", 1.0, "leaderElection.renewDeadline", "or two nodes may lead at once"),
    ("leaderElection.renewDeadline", _RENEW_JITTER, "leaderElection.retryPeriod", "or one late try loses the lease"),
)


def _order(settings: Settings, wrong: set[str]) -> list[Problem]:
    """Pairs of durations that must not come too near to each other, or a healthy owner would lose what it holds."""
    return [
        Problem(long, "contradiction", _too_near(settings, KEYS[long], factor, KEYS[short], reason))
        for long, factor, short, reason in _MORE_THAN
        if short not in wrong and KEYS[long].of(settings) <= factor * KEYS[short].of(settings)
    ]


def _too_near(settings: Settings, long: Key, factor: float, short: Key, reason: str) -> str:
    times = "" if factor == 1 else f"{factor:g} times "
    values = show(long, long.of(settings)), show(short, short.of(settings))
    return f"{values[0]} is not enough: it must be more than {times}{short.name} ({values[1]}), {reason}"


def _paths(settings: Settings) -> list[Problem]:
    """The socket in the runtime directory needs a path that fits into sun_path (unix(7))."""
    socket = os.path.join(settings.runtime_dir, "kubemin.sock")
    if len(os.fsencode(socket)) <= _SOCKET_PATH:
        return []
    room = _SOCKET_PATH - len("/kubemin.sock")
    text = f"the path is too long for a socket; use at most {room} bytes"
    return [Problem("runtimeDir", "too_long", text)]
