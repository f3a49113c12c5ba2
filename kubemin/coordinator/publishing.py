"""Taking over what the checker found: settings, and the compiled workflow files (`kubemin/config/reload.py`).

The checker is a child of the supervisor; user YAML is never read in this process.
"""

from __future__ import annotations

import os

from kubemin.config import Settings
from kubemin.config.reload import RESULT_FILE, read_definitions, read_result
from kubemin.coordinator.control import Control
from kubemin.errors import KubeminError
from kubemin.model.records import Definition
from kubemin.signing import Unsigned
from kubemin.store.base import Store
from kubemin.telemetry import log


def was_checked(settings: Settings) -> bool:
    """The daemon's files have been read; else `reload` follows when they have."""
    return os.path.exists(os.path.join(settings.runtime_dir, RESULT_FILE))


def take_over(store: Store, settings: Settings, control: Control) -> Settings:
    """Publish the workflows of the last check, say so, and return its settings. Raises StoreUnavailable."""
    settings = _publish(store, settings)
    control.send(type="published")
    store.task_timeout = settings.task_timeout
    log.set_level(settings.log.level)
    return settings


def _publish(store: Store, settings: Settings) -> Settings:
    """The settings that were there where the check failed."""
    try:
        result = read_result(settings.runtime_dir)
        definitions = read_definitions(result.definitions) if result.definitions else None
    except KubeminError as exc:
        log.error("the outcome of a reload cannot be read; the old workflows stay", reason=str(exc))
        return settings
    if definitions is not None:
        if not result.complete:  # a broken file at a start does not retire what it published before
            names = {definition.graph.workflow for definition in definitions}
            kept = (_published(store, view.name) for view in store.workflows() if view.name not in names)
            definitions += [definition for definition in kept if definition is not None]
        changed = {what: " ".join(names) for what, names in store.publish(definitions).items() if names}
        if changed:
            log.info("workflows published", **changed)
    return result.settings or settings


def _published(store: Store, name: str) -> Definition | None:
    """Not what nobody vouches for: publishing it again would."""
    try:
        return store.definition(name)
    except Unsigned as exc:
        log.error("a workflow is not published again", workflow=name, reason=str(exc))
        return None
