"""Users of this machine, by name or by number.

Name services may ask the network or hold locks, so nothing is looked up in a forked child.
"""

from __future__ import annotations

import pwd


def find(user: str) -> pwd.struct_passwd | None:
    """The user of this name, else of this number; None: there is no such user."""
    try:
        return pwd.getpwnam(user)
    except KeyError:
        return by_number(int(user)) if user.isdecimal() else None


def by_number(uid: int) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(uid)
    except (KeyError, OverflowError):
        return None


def name_of(uid: int) -> str:
    """For a message; a user without an entry (a container's bare number) is told by the number."""
    entry = by_number(uid)
    return entry.pw_name if entry is not None else f"user {uid}"
