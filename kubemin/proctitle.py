"""What `ps` shows of a process. `setproctitle` with its package left out.

The package's `__init__` imports `logging`, which imports `threading`, whose hook at each fork makes the child write to
a hundred pages that it would share with the others: half a megabyte for each worker. The extension needs none of it.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
from collections.abc import Callable
from typing import cast


def _load() -> Callable[[str], None]:
    package = importlib.util.find_spec("setproctitle")
    folders = package.submodule_search_locations if package else None
    spec = importlib.machinery.PathFinder.find_spec("_setproctitle", folders)
    if spec is None or spec.loader is None:
        return lambda _title: None  # built without its extension: there the package does nothing either
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return cast("Callable[[str], None]", module.setproctitle)


set_title = _load()
