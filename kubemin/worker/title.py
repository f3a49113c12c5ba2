"""What `ps` shows of a worker: `kubemin: worker 1 [nightly-report/extract 12s]`. Cheap where it would not be seen."""

from __future__ import annotations

from typing import Final

from kubemin import clock
from kubemin.proctitle import set_title

LONG_SECONDS: Final = 0.05  # a quiet task is shown only when the one before it with this label took longer


class Title:
    def __init__(self, slot: int) -> None:
        self._slot = slot
        self._shown = ""
        self._label = ""
        self._since = 0.0
        self._long: set[str] = set()  # labels of quiet tasks that are worth showing

    def idle(self) -> None:
        self._show("idle")

    def running(self, label: str, quiet: bool) -> None:
        if quiet and label not in self._long:
            return
        self._label = label
        self._since = clock.monotonic()
        self._show(f"{label} 0s")

    def refresh(self) -> None:
        """About once a second, while a command runs."""
        self._show(f"{self._label} {clock.monotonic() - self._since:.0f}s")

    def took(self, label: str, seconds: float) -> None:
        """Remember whether tasks like this one are long."""
        if seconds > LONG_SECONDS:
            if len(self._long) < 1000:
                self._long.add(label)
        elif self._long:
            self._long.discard(label)

    def _show(self, what: str) -> None:
        if what != self._shown:
            self._shown = what
            set_title(f"kubemin: worker {self._slot} [{what}]")
