"""Steps of the loop that the server refuses: each stands for itself, and is told once at its start and its end."""

from __future__ import annotations

from collections.abc import Callable

from kubemin.errors import StoreUnavailable
from kubemin.telemetry import log


class Refusals:
    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}  # by the step's name

    @property
    def reason(self) -> str:
        """Of one of them; empty: none is refused."""
        return next(iter(self._reasons.values()), "")

    def guard(self, step: Callable[[], None]) -> None:
        """An error of the server's own concerns this step alone: the others go on. Raises StoreUnavailable for an
        outage, which concerns all."""
        name = step.__name__.strip("_")
        try:
            step()
        except StoreUnavailable as exc:
            if exc.code != "redis_error":
                raise
            if name not in self._reasons:
                log.error("Redis refuses what this node asks", step=name, reason=str(exc))
            self._reasons[name] = str(exc)
        else:
            if self._reasons.pop(name, None) is not None:
                log.info("Redis does again what this node asks", step=name)
