"""Whose rights a step runs with: looked up before the fork, taken on after it."""

from __future__ import annotations

import os

import msgspec

from kubemin import clock, users
from kubemin.steps.base import StartFailed

_REMEMBERED_SECONDS = 60.0  # group membership changes now and then; a lookup may cost a network round trip
_known: dict[str, tuple[float, Identity]] = {}


class Identity(msgspec.Struct, frozen=True):
    uid: int
    gid: int
    groups: tuple[int, ...]

    def assume(self) -> None:
        """For good: real, effective and saved ids. Groups first, while that is still allowed."""
        os.setgroups(self.groups)
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)


def identity_of(user: str | None) -> Identity | None:
    """None: the step keeps the daemon's identity. Raises StartFailed when there is no such user or no right to
    become it."""
    if not user:
        return None
    at, known = _known.get(user, (0.0, None))
    if known is None or clock.monotonic() - at > _REMEMBERED_SECONDS:
        known = _look_up(user)
        _known[user] = clock.monotonic(), known
    if os.geteuid() == 0:
        return known
    if known.uid == os.geteuid():
        return None
    raise StartFailed(f"cannot run as user {user!r}: the daemon is not root; leave `user` empty or start it as root")


def _look_up(user: str) -> Identity:
    entry = users.find(user)
    if entry is None:
        raise StartFailed(f"cannot run as user {user!r}: there is no such user")
    return Identity(entry.pw_uid, entry.pw_gid, tuple(os.getgrouplist(entry.pw_name, entry.pw_gid)))
