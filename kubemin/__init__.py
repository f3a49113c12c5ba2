"""kubemin: durable workflows on plain Linux machines, run by a supervised pool of OS processes.

    import kubemin
    client = kubemin.Client.from_config()
    run = client.submit("nightly-report", params={"day": "2026-11-24"})
    run.wait(timeout=60)

    @kubemin.task(retry=3, timeout="5m", queue="etl")
    def load(rows): kubemin.current_task().progress(0.5)

Names are loaded when they are first used: `import kubemin` itself costs nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # known to type checkers by its name; `typing` itself would be the costliest thing here
if TYPE_CHECKING:
    from typing import Any

    from kubemin.api.run import Run as Run
    from kubemin.api.run import RunFailed as RunFailed
    from kubemin.client import Client as Client
    from kubemin.errors import Invalid as Invalid
    from kubemin.errors import KubeminError as KubeminError
    from kubemin.errors import NotFound as NotFound
    from kubemin.errors import Refused as Refused
    from kubemin.errors import StoreUnavailable as StoreUnavailable
    from kubemin.errors import Unreachable as Unreachable
    from kubemin.task import current_task as current_task
    from kubemin.task import task as task

__version__ = "0.1.0"

_HOMES = {
    "Client": "kubemin.client",
    "Run": "kubemin.api.run",
    "RunFailed": "kubemin.api.run",
    "Invalid": "kubemin.errors",
    "KubeminError": "kubemin.errors",
    "NotFound": "kubemin.errors",
    "Refused": "kubemin.errors",
    "StoreUnavailable": "kubemin.errors",
    "Unreachable": "kubemin.errors",
    "current_task": "kubemin.task",
    "task": "kubemin.task",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'kubemin' has no attribute {name!r}")
    import importlib

    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
