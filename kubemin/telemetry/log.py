"""The log: `log.info("task finished", task=…, seconds=…)` — a constant message and structured fields.

Every process of the daemon writes through this module; it never waits for a reader, never raises, holds no lock, and
needs no thread, so that it may be used in the supervisor's loop and across forks. What cannot be written is counted,
and the count is logged when writing works again. Not `logging` of the standard library: its locks do not survive a
fork, and its handlers wait.

`configure` opens descriptors of its own (`descriptors()`), which a sweep after a fork has to spare; a child calls it
again with its role.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from kubemin.telemetry import text
from kubemin.telemetry.events import message_id
from kubemin.telemetry.journal import SOCKET, Journal, encode, started_by_systemd
from kubemin.telemetry.streams import StandardError

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_PRIORITIES = {10: 7, 20: 6, 30: 4, 40: 3}  # syslog's, for journald
_CUT = "…"


class _State:
    """What `configure` set. One object, so that the hot path reads one global."""

    __slots__ = ("colour", "dropped", "error_stream", "format", "format_wanted", "journal", "level", "node", "role")

    def __init__(self) -> None:
        self.level = LEVELS["info"]
        self.format_wanted = "auto"
        self.format = ""  # journald, text or json; empty: nothing is open yet
        self.role = "kubemin"
        self.node = ""
        self.colour = False
        self.dropped = 0
        self.error_stream: StandardError | None = None
        self.journal: Journal | None = None


_state = _State()


def configure(
    *, level: str | None = None, format: str | None = None, role: str | None = None, node: str | None = None
) -> None:
    """Set what is given and open what it needs. A forked child calls it with its role (`worker 3`)."""
    if level is not None:
        set_level(level)
    _state.role = role or _state.role
    _state.node = _state.node if node is None else node
    if format and format != _state.format_wanted:
        _state.format_wanted, _state.format = format, ""
    _open()


def become(role: str) -> None:
    """For a forked child that has kept `descriptors()`: its role, and a socket of its own to the journal."""
    _state.role = role
    if _state.format == "journald":
        _open_journal()


def set_level(level: str) -> None:
    """One of debug, info, warning, error. Raises ValueError."""
    if level not in LEVELS:
        raise ValueError(f"{level!r} is not a log level; use one of {', '.join(LEVELS)}")
    _state.level = LEVELS[level]


def enabled(level: str) -> bool:
    """Whether records of this level are written: for callers whose fields cost something."""
    return LEVELS[level] >= _state.level


def descriptors() -> tuple[int, ...]:
    """Our own descriptors, to be spared by whoever closes what it does not know."""
    return tuple(sink.fd for sink in (_state.error_stream, _state.journal) if sink is not None)


def dropped() -> int:
    """Records that could not be written and of which the log does not tell yet."""
    return _state.dropped


def debug(message: str, **fields: Any) -> None:
    if _state.level <= 10:
        _emit(10, message, fields)


def info(message: str, **fields: Any) -> None:
    if _state.level <= 20:
        _emit(20, message, fields)


def warning(message: str, **fields: Any) -> None:
    if _state.level <= 30:
        _emit(30, message, fields)


def error(message: str, **fields: Any) -> None:
    _emit(40, message, fields)


def exception(message: str, exc: BaseException, **fields: Any) -> None:
    """An unexpected exception: one line for the operator; its traceback in the journal, or in the text log at debug."""
    import traceback

    trace = "".join(traceback.format_exception(exc))
    fields = {**fields, "error": f"{type(exc).__name__}: {exc}"}
    if _state.format == "journald":
        _emit(40, message, fields, {"KUBEMIN_TRACEBACK": trace})
        return
    _emit(40, message, fields)
    for line in trace.splitlines() if _state.level <= 10 else ():
        _emit(10, line, {})


def step_line(stream: str, line: str, **fields: Any) -> None:
    """One line of a step's output: as it is in journald's MESSAGE, after the step's name in the text log."""
    if _state.level > 20:
        return
    if not _state.format:
        _open()
    if _state.format == "journald":
        _write_journal(20, line, {**fields, "stream": stream})
    elif _state.format == "json":
        _write_json(20, line, {**fields, "stream": stream})
    else:
        source = "/".join(str(fields[name]) for name in ("workflow", "step") if fields.get(name))
        _write_text(20, text.printable(f"{source} {stream}| {line}"))


def _emit(level: int, message: str, fields: Mapping[str, Any], extra: Mapping[str, str] | None = None) -> None:
    if not _state.format:
        _open()
    if _state.format == "text":
        _write_text(level, text.with_fields(message, fields))
    elif _state.format == "json":
        _write_json(level, message, fields)
    else:
        _write_journal(level, text.with_fields(message, fields), fields, message_id(message, _state.node), extra)


# --- the three formats --------------------------------------------------------------------------------------------


def _write_text(level: int, body: str) -> None:
    stream = _state.error_stream
    if stream is None:
        return
    if _state.dropped:
        _tell_dropped()
    head = text.head(level, _state.role, colour=_state.colour)
    line = f"{head}{body}\n".encode("utf-8", "replace")
    if len(line) <= stream.limit:
        _count(stream.write(line))
        return
    for part in _parts(body, stream.limit - len(head.encode()) - 1):
        _count(stream.write(f"{head}{part}\n".encode("utf-8", "replace")))


def _parts(body: str, room: int) -> list[str]:
    """`body` in parts of at most `room` bytes, no character cut in two; all but the last end in a mark."""
    data = body.encode("utf-8", "replace")
    parts: list[str] = []
    while len(data) > room:
        part = data[: room - len(_CUT.encode())].decode("utf-8", "ignore")
        parts.append(part + _CUT)
        data = data[len(part.encode()) :]
    return [*parts, data.decode()]


def _write_json(level: int, message: str, fields: Mapping[str, Any]) -> None:
    stream = _state.error_stream
    if stream is None:
        return
    if _state.dropped:
        _tell_dropped()
    record = {"time": text.stamp(time.time_ns()), "level": text.NAMES[level], "role": _state.role, "node": _state.node}
    record |= {"message": message, **_plain(fields)}
    line = _json_line(record)
    while len(line) > stream.limit:  # shorten the longest text until one atomic write takes it
        name = max(record, key=lambda key: len(record[key]) if isinstance(record[key], str) else 0)
        if not isinstance(record[name], str) or len(record[name]) < 8:
            break
        record[name] = record[name][: len(record[name]) // 2] + _CUT
        line = _json_line(record)
    _count(stream.write(line))


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    simple = (str, int, float, bool)
    return {
        name: value if isinstance(value, simple) else text.value_text(value)
        for name, value in fields.items()
        if value is not None
    }


def _json_line(record: dict[str, Any]) -> bytes:
    import msgspec

    try:
        return msgspec.json.encode(record) + b"\n"
    except Exception:  # lone surrogates, integers over 64 bits
        safe = {name: text.printable(text.value_text(value)) for name, value in record.items()}
        return msgspec.json.encode(safe) + b"\n"


def _write_journal(
    level: int,
    message: str,
    fields: Mapping[str, Any],
    event: str | None = None,
    extra: Mapping[str, str] | None = None,
) -> None:
    journal = _state.journal
    if journal is None:
        return
    if _state.dropped:
        _tell_dropped()
    record = [("MESSAGE", message), ("PRIORITY", str(_PRIORITIES[level])), ("SYSLOG_IDENTIFIER", "kubemin")]
    record += [("KUBEMIN_NODE", _state.node), ("KUBEMIN_ROLE", _state.role)]
    if event:
        record.append(("MESSAGE_ID", event))
    record += [(_journal_name(name), text.value_text(v)) for name, v in fields.items() if v is not None]
    _count(journal.write(encode([*record, *(extra or {}).items()])))


def _journal_name(name: str) -> str:
    return "KUBEMIN_" + name.upper()


# --- dropping -----------------------------------------------------------------------------------------------------


def _count(written: bool) -> None:
    if not written:
        _state.dropped += 1


def _tell_dropped() -> None:
    """Say how many records are missing, if that can be written by now; else go on counting."""
    count, _state.dropped = _state.dropped, 0
    _emit(30, "log records dropped: standard error or the journal did not take them", {"count": count})
    if _state.dropped:
        _state.dropped = count


# --- opening ------------------------------------------------------------------------------------------------------


def _open() -> None:
    first = not _state.format
    if first or (_state.format == "journald" and _state.journal is None):
        _state.format = _available_format()  # decided once: a child has what its parent has
    if _state.format == "journald":
        _open_journal()
    else:
        _open_stream()
    if first and _state.format_wanted not in ("auto", _state.format):
        warning("there is no journal on this machine; the log goes to standard error", socket=SOCKET)


def _available_format() -> str:
    """What is wanted, or text where that cannot be had. A process whose parent had the journal has it too."""
    wanted = _state.format_wanted
    if wanted in ("auto", "journald") and _state.journal is None:
        there = os.path.exists(SOCKET) and (wanted == "journald" or started_by_systemd())
        return "journald" if there else "text"
    return "journald" if wanted == "auto" else wanted


def _open_journal() -> None:
    """A socket for each process: its send buffer is its own, so a flooding worker does not use up the supervisor's."""
    old = _state.journal
    if old is not None:
        old.close()
    try:
        _state.journal = Journal(SOCKET)
    except OSError:  # no descriptor is left
        _state.journal = None


def _open_stream() -> None:
    if _state.error_stream is None or not _state.error_stream.alive():
        try:
            _state.error_stream = StandardError()
        except OSError:  # standard error is closed: there is nobody to tell
            _state.error_stream = None
    stream = _state.error_stream
    _state.colour = bool(stream and stream.is_terminal and _colour_wanted())


def _colour_wanted() -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
