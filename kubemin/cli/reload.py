"""The checker: reads and checks configuration and workflow files, and leaves the outcome in the runtime directory.

The supervisor never reads what users write. It forks a child that calls this: at the start (beside the forks of the
workers), and at each reload. `kubemind --check` and `kubeminctl reload --dry-run` look at the same things.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import msgspec

from kubemin.config import defaults, host
from kubemin.config.load import config_path, examine, name_file
from kubemin.config.reload import (
    Origin,
    ReloadResult,
    read_result,
    write_definitions,
    write_result,
)
from kubemin.config.settings import Settings
from kubemin.config.table import TABLE, diff, until_restart
from kubemin.errors import Invalid, KubeminError, Problem
from kubemin.model.records import Definition

_DIRECTORY_VARIABLES = (
    "STATE_DIRECTORY",
    "RUNTIME_DIRECTORY",
    "CONFIGURATION_DIRECTORY",
    "CREDENTIALS_DIRECTORY",
    "XDG_CONFIG_HOME",
    "XDG_STATE_HOME",
    "XDG_RUNTIME_DIR",
    "HOME",
)


class Checked(msgspec.Struct, frozen=True):
    """What was found. `settings` are as far as they are right; `failures` say what is wrong, one a file."""

    settings: Settings
    definitions: list[Definition]
    failures: list[Invalid]

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All of them, each with its file in the message."""
        return flat(self.failures)


def flat(failures: Sequence[Invalid]) -> tuple[Problem, ...]:
    return tuple(
        name_file(problem, failure.source) if failure.source else problem
        for failure in failures
        for problem in failure.problems
    )


def origin(config: str | None, flags: Mapping[str, str], environ: Mapping[str, str]) -> Origin:
    """Where settings come from, kept for later checks of the same; without the rest of the environment."""
    names = {variable for key in TABLE for variable in key.variables} | {*_DIRECTORY_VARIABLES, "KUBEMIN_CONFIG"}
    kept = {name: environ[name] for name in sorted(names) if name in environ}
    return Origin(os.path.abspath(config) if config else None, dict(flags), kept)


def check(source: Origin) -> Checked:
    """Read everything and change nothing. Never raises for what a user wrote."""
    settings, invalid = examine(source.config, source.flags, source.environ)
    definitions, failures = compile_workflows(settings, source)
    unfit = host.problems(settings, config_path(source.config, source.environ))
    configuration = [failure for failure in (invalid, Invalid(unfit) if unfit else None) if failure]
    return Checked(settings, definitions, [*configuration, *failures])


def compile_workflows(settings: Settings, source: Origin) -> tuple[list[Definition], list[Invalid]]:
    """The workflow files of the node. The folder may be missing only where nobody named it."""
    folder = settings.workflows_dir
    if not os.path.isdir(folder):
        path = config_path(source.config, source.environ)
        if not os.path.lexists(folder) and folder == defaults.machine(source.environ, path)["workflowsDir"]:
            return [], []
        text = f"there is no folder {folder}; make it, or name another"
        return [], [Invalid([Problem("workflowsDir", "not_found", text)])]
    from kubemin.files import load_directory

    definitions, found = load_directory(folder, host.untrusted)
    by_file: dict[str, list[Problem]] = {}
    for entry in found:
        by_file.setdefault(entry.file, []).append(entry.problem)
    return definitions, [Invalid(problems, source=path) for path, problems in by_file.items()]


# --- what the supervisor calls in a child ---------------------------------------------------------------------------


class Checker:
    """`run_supervisor`'s `reload`: called in a forked child; the outcome is in `runtimeDir/settings.json`.

    Called with the settings in force; without, the last outcome's are taken, or those of the start.
    """

    def __init__(self, started: Settings, source: Origin) -> None:
        self.started = started
        self.source = source

    def __call__(self, current: Settings | None = None) -> ReloadResult:
        """A reload: all or nothing. Raises Unreachable when the outcome cannot be written."""
        result, definitions = self._outcome(current or self._last())
        if result.ok:
            result = msgspec.structs.replace(result, definitions=self._write(definitions))
        write_result(self.started.runtime_dir, result)
        return result

    def dry_run(self, current: Settings) -> ReloadResult:
        """What a reload would come to; nothing is written. Changes include those that wait for a restart."""
        return self._outcome(current)[0]

    def _outcome(self, current: Settings) -> tuple[ReloadResult, list[Definition]]:
        checked = check(self.source)
        if checked.failures:
            return ReloadResult(False, current, checked.problems, origin=self.source), []
        changes = tuple(diff(current, checked.settings))
        in_force = until_restart(current, checked.settings)
        return ReloadResult(True, in_force, (), changes, origin=self.source), checked.definitions

    def prepare(self) -> ReloadResult:
        """At the start: the settings are in force already, and a wrong workflow file does not stop the others."""
        definitions, failures = compile_workflows(self.started, self.source)
        path = self._write(definitions)
        result = ReloadResult(
            not failures, self.started, flat(failures), (), path, complete=not failures, origin=self.source
        )
        write_result(self.started.runtime_dir, result)
        return result

    def _last(self) -> Settings:
        try:
            return read_result(self.started.runtime_dir).settings or self.started
        except KubeminError:
            return self.started

    def _write(self, definitions: list[Definition]) -> str:
        return write_definitions(self.started.runtime_dir, definitions)
