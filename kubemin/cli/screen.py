"""The live screen of `kubeminctl top`: keys without echo, and the picture that is drawn again each second."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kubemin import clock
from kubemin.cli import render
from kubemin.cli.commands.status import leader_words, percent, problem, reload_words, state_word
from kubemin.cli.pool import PoolState, Worker
from kubemin.store.base import QueueView

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_KEYS = {b"\x1b[A": "up", b"\x1bOA": "up", b"k": "up", b"\x1b[B": "down", b"\x1bOB": "down", b"j": "down"}
_RATE_SPAN = 10.0  # seconds over which a rate is taken
GAP = "  "  # between columns, and between the parts of a line
SHORTEST = 8  # characters of a step that are shown in any case
TASK_HEADERS = ("WORKER", "PID", "TASK", "STEP", "FOR", "PROGRESS")
OUTPUT_LINES = 10  # of a task, the last ones
ORDERS: dict[str, Callable[[Worker], tuple[object, ...]]] = {
    "worker": lambda worker: (worker.slot,),
    "time": lambda worker: (-(worker.seconds or 0.0), worker.slot),
    "step": lambda worker: (worker.label, worker.slot),
}


class Keyboard:
    """A context manager: keys come at once and are not shown; the terminal is as before afterwards."""

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno()
        self._before = termios.tcgetattr(self._fd)
        self._typed = b""

    def __enter__(self) -> Keyboard:
        tty.setcbreak(self._fd)
        return self

    def __exit__(self, *_: object) -> None:
        termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)

    def key(self, timeout: float) -> str | None:
        """The next key (`up`, `down`, or its letter), or None after `timeout` seconds. `q` at the end of the input."""
        if not self._typed:
            if not select.select([self._fd], [], [], timeout)[0]:
                return None
            self._typed = os.read(self._fd, 64) or b"q"
        length = 3 if self._typed.startswith((b"\x1b[", b"\x1bO")) else 1  # several keys may come in one read
        data, self._typed = self._typed[:length], self._typed[length:]
        return _KEYS.get(data, data.decode(errors="replace"))


@dataclass(slots=True)
class Rates:
    """Tasks a second, from the coordinator's counters."""

    _samples: list[tuple[float, int, int]] = field(default_factory=list)

    def take(self, pool: PoolState) -> None:
        now = clock.monotonic()
        if self._samples and pool.finished < self._samples[-1][1]:
            self._samples.clear()  # another daemon: its counters begin anew
        self._samples.append((now, pool.finished, pool.failed))
        while self._samples[0][0] < now - _RATE_SPAN:
            self._samples.pop(0)

    def finished(self) -> float:
        (start, before, _), (end, after, _) = self._samples[0], self._samples[-1]
        return (after - before) / (end - start) if end > start else 0.0


@dataclass(slots=True)
class Screen:
    """What is shown. `selected`: a place among the running tasks. `asking`: the run that `y` would cancel."""

    rates: Rates = field(default_factory=Rates)
    selected: int = 0
    asking: str | None = None
    message: str = ""
    order: str = "worker"
    output: list[str] | None = None  # of the chosen task, while it is shown

    def running(self, pool: PoolState) -> list[Worker]:
        return sorted((worker for worker in pool.workers if worker.run), key=ORDERS[self.order])

    def sort(self) -> None:
        """By the next order."""
        names = list(ORDERS)
        self.order = names[(names.index(self.order) + 1) % len(names)]

    def move(self, pool: PoolState, by: int) -> None:
        self.selected = max(0, min(self.selected + by, len(self.running(pool)) - 1))

    def chosen(self, pool: PoolState) -> Worker | None:
        running = self.running(pool)
        return running[min(self.selected, len(running) - 1)] if running else None

    def draw(self, pool: PoolState, queues: list[QueueView], rows: int, columns: int) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        head, counts, foot = (
            folded(parts, columns) for parts in (self._head(pool), self._counts(pool, queues), self._foot())
        )
        parts: list[RenderableType] = [Text(head, style="bold"), Text(counts), Text()]
        shown = [] if self.output is None else [Text(), *map(Text, self.output[-OUTPUT_LINES:] or ["no output yet"])]
        lines = sum(text.count("\n") + 1 for text in (head, counts, foot)) + len(queues) + len(shown)
        parts.append(self._tasks(pool, max(3, rows - 5 - lines), columns))
        parts += shown
        if queues:
            parts += [Text(), _queues(queues)]
        return Group(*parts, Text(), Text(foot, style="reverse"))

    def _head(self, pool: PoolState) -> list[str]:
        if not pool.alive:
            return ["no daemon is running"]
        words = [f"kubemin {pool.version}", f"node {pool.node}", pool.mode, state_word(pool)]
        words.append(f"up {render.duration(pool.uptime)}")
        words += [f"leader {leader_words(pool) or 'none'}", f"redis {pool.redis}"] if pool.redis else []
        words += [f"last reload {reload}"] if (reload := reload_words(pool)) else []
        return [*words, problem(pool)]

    def _counts(self, pool: PoolState, queues: list[QueueView]) -> list[str]:
        busy = len(self.running(pool))
        waiting = sum(view.length for view in queues)
        return [
            f"{busy} of {len(pool.workers)} workers busy",
            f"{_counted(waiting, 'task')} queued",
            f"{self.rates.finished():.1f} tasks/s",
            f"{_counted(pool.finished, 'run')} ended",
            f"{pool.failed} failed",
            f"{pool.recoveries} recovered",
        ]

    def _tasks(self, pool: PoolState, rows: int, columns: int) -> Table:
        chosen = self.chosen(pool)
        table = _table(*TASK_HEADERS)
        running = self.running(pool)
        first = max(0, min(self.selected - rows // 2, len(running) - rows))
        shown = running[first : first + rows]
        for worker, cells in zip(shown, _fitting([_cells(worker) for worker in shown], columns), strict=True):
            table.add_row(*cells, style="reverse" if worker is chosen else "")
        return table

    def _foot(self) -> list[str]:
        if self.asking:
            return [f"cancel run {self.asking}? y, or any other key to keep it"]
        if self.message:
            return [self.message]
        order = f"s: sort (by {self.order})"
        return ["up/down: choose a task", "o: its output", "c: cancel its run", order, "q: quit"]


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def folded(parts: list[str], columns: int) -> str:
    """Parts side by side, and as many lines as that takes; a part is not broken."""
    lines = [""]
    for part in filter(None, parts):
        if lines[-1] and len(lines[-1]) + len(GAP) + len(part) > columns:
            lines.append(part)
        else:
            lines[-1] += (GAP if lines[-1] else "") + part
    return "\n".join(lines)


def _cells(worker: Worker) -> list[str]:
    values = (
        worker.slot,
        worker.pid,
        worker.task,
        render.clean(worker.label),
        render.duration(worker.seconds),
        percent(worker.progress),
    )
    return ["" if value is None else str(value) for value in values]


def _fitting(rows: list[list[str]], columns: int) -> list[list[str]]:
    """STEP gives way where a row is too long."""
    step = TASK_HEADERS.index("STEP")
    widths = [max(map(len, column)) for column in zip(TASK_HEADERS, *rows, strict=True)]
    left = columns - len(GAP) * (len(widths) - 1) - sum(widths) + widths[step]
    return [[*row[:step], render.end_of(row[step], max(left, SHORTEST)), *row[step + 1 :]] for row in rows]


def _queues(queues: list[QueueView]) -> Table:
    table = _table("QUEUE", "LENGTH", "STATE", "OLDEST")
    for view in queues:
        oldest = render.duration(view.oldest_seconds) or ""
        table.add_row(view.name, str(view.length), "paused" if view.paused else "open", oldest)
    return table


def _table(*headers: str) -> Table:
    from rich.table import Table

    return Table(*headers, box=None, pad_edge=False, header_style="bold")
