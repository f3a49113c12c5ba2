"""The table in words: the settings part of `kubemind --help`, the table of the guide, and what a reload changed."""

from __future__ import annotations

import re

from kubemin.config.table import DEFAULTS, KEYS, TABLE, Applies, Change, Key, Kind
from kubemin.config.values import limits, show

_PLACEHOLDERS = {
    Kind.TEXT: "TEXT",
    Kind.PATH: "PATH",
    Kind.BOOL: "true|false",
    Kind.INT: "N",
    Kind.NUMBER: "N",
    Kind.DURATION: "DURATION",
    Kind.SIZE: "SIZE",
    Kind.LIST: "A,B",
    Kind.PATHS: "PATH:PATH",
    Kind.ARGV: "COMMAND",
}
_WHEN = {
    Applies.LIVE: "reload, at once",
    Applies.ROLLING: "reload, as workers are replaced",
    Applies.RESTART: "restart",
}


def placeholder(key: Key) -> str:
    return "|".join(key.choices) if key.choices else _PLACEHOLDERS[key.kind]


def default_text(key: Key) -> str:
    """The default as a user would write it, or in words where the machine decides."""
    value = key.of(DEFAULTS)
    return key.default or ("empty" if value == "" else show(key, value))


def bounds(key: Key) -> str:
    """`1 to 1024`, or empty."""
    return limits(key) if key.minimum is not None or key.maximum is not None else ""


def shown(change: Change) -> tuple[str, str]:
    """The old and the new value as a user would write them; a password inside an address is nobody's business."""
    old, new = (show(KEYS[change.key], value) for value in (change.old, change.new))
    return without_password(old), without_password(new)


def without_password(text: str) -> str:
    return re.sub(r"://[^@/]*@", "://***@", text)


def flags_help(width: int = 100) -> str:
    """One entry a setting: flag, help, default, environment names."""
    import textwrap

    lines: list[str] = []
    for key in TABLE:
        lines.append(f"  {key.flag} {placeholder(key)}")
        lines += textwrap.wrap(_sentence(key), width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _sentence(key: Key) -> str:
    facts = [bounds(key), f"default: {default_text(key)}", ", ".join(key.variables)]
    return f"{key.help} ({'; '.join(fact for fact in facts if fact)})."


def markdown() -> str:
    """The table of the guide: key, default, range, when a change is in force, environment, help."""
    rows = ["| key | default | range | changed by | environment | |", "|---|---|---|---|---|---|"]
    for key in TABLE:
        names = ", ".join(f"`{name}`" for name in key.variables)
        allowed = ", ".join(key.choices) or bounds(key)
        rows.append(f"| `{key.name}` | {default_text(key)} | {allowed} | {_WHEN[key.applies]} | {names} | {key.help} |")
    return "\n".join(rows) + "\n"
