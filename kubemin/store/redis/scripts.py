"""The Lua scripts: one file an operation, joined with the fragments that its first lines name.

`--@ top:` names fragments before the operation. `--@ engine:` puts them into a function that is called only when they
are needed, and `--@ rare:` into one inside that, called when a name of theirs is first asked for: making a closure
costs more than many a command. `--@ then:` names files that go on from this one. `--@ fenced` lets the leader of the
moment only. Names in capitals become numbers, which costs less than looking them up.
"""

from __future__ import annotations

import os
import re
from functools import cache

from kubemin.store.redis import keys

try:
    from _sha1 import sha1  # type: ignore[import-not-found]  # hashlib brings OpenSSL, 2 MB for every worker
except ImportError:  # a Python that was built without its own
    from hashlib import sha1

_FOLDER = os.path.join(os.path.dirname(__file__), "lua")
_LAZY_PROLOGUE = "local P, REQ, call, NOW = ARGV[1], nil, redis.call, nil\n"  # the script unpacks its request itself
_PROLOGUE = """local P, REQ, call = ARGV[1], cmsgpack.unpack(ARGV[2]), redis.call
local NOW = REQ.now
"""


_NUMBERS = {
    name: number
    for number, name in enumerate(
        ("WAITING", "QUEUED", "RUNNING", "COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "SKIPPED")
    )
} | {
    "SETTLED": 512,
    "KEPT": 1024,
    "FRESH": 2048,
    "STOPPING": 4096,
    "ALWAYS": 8192,
    "BUILT": 1,
    "RELEASED": 2,
    "CHUNK": 200,
}
_NAMES = re.compile(r"\b(" + "|".join(_NUMBERS) + r")\b(?!')")


class Script:
    """`sha` is bytes, as it goes over the wire."""

    __slots__ = ("name", "sha", "text")

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text.encode()
        self.sha = sha1(self.text).hexdigest().encode()  # Redis names scripts so


def _read(name: str) -> str:
    with open(os.path.join(_FOLDER, f"{name}.lua"), encoding="utf-8") as file:
        return file.read()


def _join(names: str) -> str:
    return "".join(_whole(_read(name)) for name in names.split())


def _whole(text: str) -> str:
    """With the files that it names as going on from it."""
    more = re.search(r"^--@ then:(.*)$", text, re.MULTILINE)
    return _bare(text) + (_join(more[1]) if more else "")


def _bare(text: str) -> str:
    """Without comment lines, which the server would parse at each load, and with numbers for names."""
    lines = (line + "\n" for line in text.splitlines() if line.strip() and not line.lstrip().startswith("--"))
    return _NAMES.sub(lambda found: str(_NUMBERS[found[0]]), "".join(lines))


def _presized(text: str) -> str:
    """The table of functions is made at its size: growing it while it fills costs 10 µs."""
    names = sorted(set(re.findall(r"^function M\.(\w+)", text, re.MULTILINE)))
    return text.replace("local M = {", "local M = {" + "".join(f"{name}=false," for name in names), 1)


def _engine(given: dict[str, str]) -> str:
    rare = ""
    if "rare" in given:
        loading = "rare() return rawget(M, name)"
        rare = f"local function rare()\nsetmetatable(M, nil)\n{_join(given['rare'])}end\n"
        rare += f"setmetatable(M, {{ __index = function(_, name) {loading} end }})\n"
    return f"local function engine()\n{_presized(_join(given['engine']))}{rare}return M\nend\n"


def compose(name: str) -> str:
    text = _read(name)
    given = {}
    for line in text.splitlines():
        if not line.startswith("--@"):
            break
        what, _, names = line[3:].partition(":")
        given[what.strip()] = names
    joined = (_LAZY_PROLOGUE if "lazy" in given else _PROLOGUE) + (_join("token") if "fenced" in given else "")
    if "engine" in given:
        joined += _engine(given)
    return joined + _presized(_join(given.get("top", ""))) + _whole(text)


@cache
def script(name: str) -> Script:
    return Script(name, compose(name))


@cache
def guarded(plain: Script) -> Script:
    """The same for a cluster: it fails before anything was changed while our slot is on its way to another server.

    Key by key they leave, and a script would take one that has left for one that never was. Whatever is not there is
    refused by a server whose slot is leaving: so each script asks first for a key that nobody makes.
    """
    return Script(plain.name, f"redis.call('EXISTS', '{keys.ABSENT}')\n{plain.text.decode()}")
