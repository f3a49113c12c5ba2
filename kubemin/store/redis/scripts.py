"""The Lua scripts: one file an operation, joined with the fragments that its first lines name.

`--@ top: …` puts fragments before the operation, `--@ engine: …` puts them into a function that is called only when
they
are needed (making fifty closures costs more than a short call), `--@ outer:` before that and `--@ then:` after the
body;
`--@ fenced` lets the leader of the moment only.
"""

from __future__ import annotations

import hashlib
import os
from functools import cache

_FOLDER = os.path.join(os.path.dirname(__file__), "lua")
_LAZY_PROLOGUE = "local P, REQ, call, NOW = ARGV[1], nil, redis.call, nil\n"  # the script unpacks its request itself
_PROLOGUE = """local P, REQ, call = ARGV[1], cmsgpack.unpack(ARGV[2]), redis.call
local NOW = REQ.now
"""


class Script:
    """`sha` is bytes, as it goes over the wire."""

    __slots__ = ("name", "sha", "text")

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text.encode()
        self.sha = hashlib.sha1(self.text).hexdigest().encode()  # Redis names scripts so


def _read(name: str) -> str:
    with open(os.path.join(_FOLDER, f"{name}.lua"), encoding="utf-8") as file:
        return file.read()


def _join(names: str) -> str:
    return "".join(_bare(_read(name)) for name in names.split())


def _bare(text: str) -> str:
    """Without comment lines: the server parses them at each load."""
    return "".join(line + "\n" for line in text.splitlines() if line.strip() and not line.lstrip().startswith("--"))


def compose(name: str) -> str:
    text = _read(name)
    given = {}
    for line in text.splitlines():
        if not line.startswith("--@"):
            break
        what, _, names = line[3:].partition(":")
        given[what.strip()] = names
    joined = (
        (_LAZY_PROLOGUE if "lazy" in given else _PROLOGUE)
        + (_join("token") if "fenced" in given else "")
        + _join(given.get("outer", ""))
    )
    if "engine" in given:
        joined += f"local function engine()\n{_join(given['engine'])}return M\nend\n"
    return joined + _join(given.get("top", "")) + _bare(text) + _join(given.get("then", ""))


@cache
def script(name: str) -> Script:
    return Script(name, compose(name))
