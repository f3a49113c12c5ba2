"""Printing: the only module of the command line that writes to a terminal.

Text from users and workflows is shown with its control characters made visible, so that no output can forge a line or
steer a terminal. Colours only on a terminal, and not with NO_COLOR (no-color.org). With `-o json` a command prints one
document.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from kubemin.errors import Invalid, KubeminError, Problem

PROGRAM = "kubeminctl"

_COLOURS = {"red": 31, "green": 32, "yellow": 33, "blue": 34, "cyan": 36, "dim": 2, "bold": 1}
_STATE_COLOURS = {
    "completed": "green",
    "failed": "red",
    "timeout": "red",
    "cancelled": "yellow",
    "skipped": "dim",
    "running": "cyan",
    "queued": "blue",
    "waiting": "dim",
    "idle": "dim",
    "dead": "red",
}
_SHOWN = {n: f"\\x{n:02x}" for n in (*range(32), *range(127, 160))} | {
    n: f"\\u{n:04x}" for n in (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A), 0xFEFF)
}
_SHOWN_OF_STEPS = {n: shown for n, shown in _SHOWN.items() if n != ord("\t")}


def prepare() -> None:
    """Once, before anything is printed: a terminal in another encoding shows what it can, and is no error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def readable(text: str) -> str:
    """A text of the command line, whose bytes may be no UTF-8, as text that JSON can hold."""
    return text.encode("utf-8", "backslashreplace").decode()


def clean(text: str) -> str:
    """One line that cannot steer a terminal."""
    return text.translate(_SHOWN)


def output(line: str) -> str:
    """The same of a line that a step printed: its tabs are its own."""
    return line.translate(_SHOWN_OF_STEPS)


def is_terminal() -> bool:
    return sys.stdout.isatty()


def coloured() -> bool:
    return is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str | None) -> str:
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if colour and coloured() else text


def state(word: str) -> str:
    return paint(word, _STATE_COLOURS.get(word))


def state_colour(word: str) -> str | None:
    return _STATE_COLOURS.get(word)


def line(text: str = "") -> None:
    """One line on stdout. What the text holds of users' data has to be `clean` already."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """One line on stderr, beside the result."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def raw(text: str, stream: str = "stdout") -> None:
    """Output of a step as it was kept (the capture has made it harmless)."""
    target = sys.stderr if stream == "stderr" else sys.stdout
    target.write(text if not text or text.endswith("\n") else text + "\n")


def document(value: Any) -> None:
    """The one JSON document of `-o json`."""
    try:
        body = msgspec.json.encode(value)
    except UnicodeEncodeError:  # the name of a file
        body = msgspec.json.encode(_readable(msgspec.to_builtins(value)))
    sys.stdout.write(msgspec.json.format(body, indent=2).decode() + "\n")


def _readable(value: Any) -> Any:
    if isinstance(value, str):
        return readable(value)
    if isinstance(value, dict):
        return {readable(key): _readable(item) for key, item in value.items()}
    return [_readable(item) for item in value] if isinstance(value, list) else value


def flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def columns() -> int:
    """Of the terminal."""
    return shutil.get_terminal_size().columns


def end_of(text: str, width: int) -> str:
    """The last characters: the end of a step's path says more than its beginning."""
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]], empty: str) -> None:
    """Columns as wide as need be, the STATUS column coloured; on a terminal that is too narrow steps give way. No rows:
    the sentence `empty` on stderr."""
    cells = [[_cell(value) for value in row] for row in rows]
    if not cells:
        note(empty)
        return
    widths = [max(len(row[n]) for row in [list(headers), *cells]) for n in range(len(headers))]
    if is_terminal():
        _fit(headers, cells, widths)
    line(paint(_columns(headers, widths), "bold"))
    for row in cells:
        line(_painted(row, headers, widths))


def _fit(headers: Sequence[str], cells: list[list[str]], widths: list[int]) -> None:
    """Shorten steps until a row fits into a line. The message, the last, may need several."""
    if "STEP" not in headers:
        return
    n = headers.index("STEP")
    needed = sum(widths) + 2 * (len(widths) - 1) - (widths[-1] if headers[-1] == "MESSAGE" else 0)
    widths[n] = min(widths[n], max(_NARROWEST, widths[n] - (needed - columns())))
    for row in cells:
        row[n] = end_of(row[n], widths[n])


_NARROWEST = 12  # characters of a step that are shown in any case


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "-" if value is None or value == "" else clean(str(value))


def _columns(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def _painted(row: Sequence[str], headers: Sequence[str], widths: Sequence[int]) -> str:
    shown = _columns(row, widths)
    if coloured() and "STATUS" in headers:
        word = row[headers.index("STATUS")]
        return shown.replace(word, state(word), 1) if word in _STATE_COLOURS else shown
    return shown


def fields(pairs: Iterable[tuple[str, Any]]) -> None:
    """`name  value` lines; those without a value are left out."""
    shown = [(name, _cell(value)) for name, value in pairs if value not in (None, "")]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        line(f"{name.ljust(width)}  {state(value)}")


def local_time(at: str | None) -> str | None:
    """RFC 3339 in UTC as this machine's local time, to the second."""
    return None if at is None else datetime.fromisoformat(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def seconds_between(start: str | None, end: str | None) -> float | None:
    if start is None:
        return None
    until = datetime.now().astimezone() if end is None else datetime.fromisoformat(end)
    return max(0.0, (until - datetime.fromisoformat(start)).total_seconds())


def duration(seconds: float | None) -> str | None:
    """`0.42s`, `12s`, `3m04s`, `2h05m`, `3d04h`."""
    if seconds is None:
        return None
    if seconds < 10:
        return f"{seconds:.2f}s"
    whole = int(seconds)
    for size, small, letter in ((86400, 3600, "dh"), (3600, 60, "hm"), (60, 1, "ms")):
        if whole >= size:
            return f"{whole // size}{letter[0]}{whole % size // small:02d}{letter[1]}"
    return f"{whole}s"


# --- errors -----------------------------------------------------------------------------------------------------------


def error(exc: KubeminError, *, as_json: bool) -> None:
    """One line each on stderr, or the contract's document on stdout."""
    if as_json:
        document({"errors": [problem_view(problem) for problem in exc.problems]})
        return
    source = f"{exc.source}: " if isinstance(exc, Invalid) and exc.source else ""
    for problem in exc.problems:
        note(f"{PROGRAM}: {clean(f'{source}{problem}')}")


def problem_view(problem: Problem) -> dict[str, Any]:
    return {"field": problem.field, "line": problem.line, "code": problem.code, "message": problem.message}
