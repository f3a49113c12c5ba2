"""What Redis says, as `StoreUnavailable` with a stable code: what it means, whether it passes, what to do.

Driver errors stop here. No message ever holds a password: addresses are shown without credentials, and what the server
answers to AUTH is replaced.
"""

from __future__ import annotations

import re

from kubemin.errors import Refused, StoreUnavailable


class Fenced(Refused):
    """A duty of an old term: somebody else leads. Nothing was written."""

    code = "fenced"


# The first word of an error reply (AUTH, which is no such word: it refuses a password) -> (code, fatal, what to do).
_REPLIES: dict[str, tuple[str, bool, str]] = {
    "READONLY": ("readonly", False, "it is a replica now; waiting for the new master"),
    "LOADING": ("loading", False, "it is loading its data; waiting"),
    "MISCONF": ("misconf", False, "it cannot save to its disk; see its log and free space"),
    "OOM": ("oom", False, "its maxmemory is used up; raise it or shorten the retention"),
    "NOAUTH": ("noauth", True, "it wants a password; set it in redisAddr or redisPasswordFile"),
    "AUTH": ("noauth", True, "it has no password; take the one in redisAddr or redisPasswordFile away"),
    "WRONGPASS": ("noauth", True, "user or password is wrong; set them in redisAddr or redisPasswordFile"),
    "NOPERM": ("noperm", True, "the ACL of this user lacks a right; `kubeminctl doctor` lists those needed"),
    "CLUSTERDOWN": ("clusterdown", False, "the cluster does not serve all its slots; waiting"),
    "MASTERDOWN": ("masterdown", False, "the replica has lost its master; waiting"),
    "TRYAGAIN": ("clusterdown", False, "the cluster moves our slot; waiting until it has"),
    "ASK": ("clusterdown", False, "the cluster moves our slot; waiting until it has"),
    "MOVED": ("moved", False, "another server of the cluster holds our slot; asking that one"),
    "BUSY": ("busy", False, "a script runs too long there; waiting"),
    "NOREPLICAS": ("noreplicas", False, "too few replicas are in reach; waiting"),
    "UNKILLABLE": ("busy", False, "a script runs too long there; waiting"),
    "CROSSSLOT": ("crossslot", True, "keys do not share a slot; this is a defect of kubemin"),
    "EXECABORT": ("aborted", False, "it refused a transaction"),
}

_newer = re.compile(r"KUBEMIN_NEWER run (\w+) has a record of version (\d+)").search


def translate(error: BaseException, where: str) -> Exception:
    """A driver's error, or an OSError, as one of ours. `where`: the server, without credentials."""
    if isinstance(error, StoreUnavailable | Refused):
        return error
    text = str(error)
    if text.startswith("FENCED"):
        return Fenced(f"another node leads now: {text[7:].strip()}")
    if newer := _newer(text):
        return Refused(
            f"run {newer[1]} is kept in records of version {newer[2]}, newer than this kubemin knows: "
            "use an upgraded node, or upgrade this one",
            code="newer_record",
        )
    if word := _code_of(text):
        code, fatal, advice = _REPLIES[word]
        return StoreUnavailable(f"Redis at {where}: {word}: {advice}", fatal=fatal, code=code)
    if "max number of clients" in text:
        return StoreUnavailable(f"Redis at {where} has no room for more clients; raise maxclients", code="maxclients")
    if isinstance(error, TimeoutError):
        return StoreUnavailable(f"Redis at {where} did not answer in time", code="timeout")
    if isinstance(error, OSError):
        return StoreUnavailable(f"Redis at {where} {_network(text)}", code="connection")
    return StoreUnavailable(f"Redis at {where}: {text[:200]}", code="redis_error")


def _code_of(text: str) -> str:
    """The key of what we know of an error reply, which a script may have wrapped into its own; "": nothing."""
    word = text.partition(" ")[0]
    if word in _REPLIES:
        return word
    if "without any password configured" in text:
        return "AUTH"
    if "non local key" in text:
        return "TRYAGAIN"
    return next((known for known in _REPLIES if f"-{known} " in text or f": {known} " in text), "")


def _network(text: str) -> str:
    lowered = text.lower()
    for sign, words in (
        ("refused", "refused the connection"), ("no such file", "has no socket there"),
        ("permission denied", "may not be used by this user"),
        ("certificate", "has a certificate that is not trusted"),
        ("name or service", "has a name that does not resolve"),
        ("unreachable", "cannot be reached"), ("closed", "closed the connection"), ("reset", "closed the connection"),
        ("ssl", "does not speak TLS as expected"),
    ):  # fmt: skip
        if sign in lowered:
            return words
    return "cannot be reached"
