"""The control group that the daemon was given, found and made ready once, before the first fork.

A control group that has processes of its own can give no controllers to groups below it (cgroups(7), "no internal
processes"), so the daemon first moves into a leaf, `daemon`; each worker's steps get `step-SLOT` beside it. Only a
delegated group is touched: one that systemd marks so (Delegate=yes), or one that belongs to our user inside a group
that does not. Touches /sys/fs/cgroup only; safe to call in the supervisor.
"""

from __future__ import annotations

import os
from contextlib import suppress

import msgspec

from kubemin.steps.containment.groups import ControlGroup

DAEMON = "daemon"
STEP = "step-"
CONTROLLERS = ("memory", "cpu", "pids")


class Delegation(msgspec.Struct, frozen=True):
    root: ControlGroup
    controllers: frozenset[str]  # those of CONTROLLERS that steps can be held to


_prepared: Delegation | None = None  # inherited by the forks


def delegation() -> Delegation | None:
    """What `prepare_delegation` found in this process or the one it was forked from."""
    return _prepared


def prepare_delegation() -> Delegation | None:
    """Make the delegated control group ready: move into a leaf, kill what a predecessor left, enable controllers.

    Once, by the supervisor, before it forks. Idempotent; does nothing and returns None where there is nothing
    delegated.
    """
    global _prepared
    if _prepared is None:
        root, _ = find_delegated()
        if root is not None:
            with suppress(OSError):
                _prepared = _take(root)
    return _prepared


def kill_slot(slot: int) -> None:
    """Kill what the step of a dead worker left in its control group. For the supervisor: one write, waits for nothing.

    Without a delegated control group it does nothing; then the orphans are found by parentage.
    """
    if _prepared is not None:
        with suppress(OSError):
            _prepared.root.child(f"{STEP}{slot}").kill_all()


def find_delegated() -> tuple[ControlGroup | None, str]:
    """The delegated control group, or None with one line that says why there is none. Changes nothing."""
    own = _own_group()
    if own is None:
        return None, "this process is in no control group (cgroup v2) below the root"
    for group in (own, own.parent):
        if group is not None and _is_delegated(group):
            return group, f"{group.path} is delegated"
    return None, f"{own.path} is not delegated to this user (systemd: Delegate=yes)"


def _own_group() -> ControlGroup | None:
    """None also for the root of all, which nobody can delegate."""
    mount = _mount_point()
    if mount is None:
        return None
    with suppress(OSError), open("/proc/self/cgroup") as file:
        for line in file:
            if line.startswith("0::/"):
                group = ControlGroup(mount, line[3:].rstrip("\n"))
                return group if os.path.exists(group.file("cgroup.type")) else None
    return None


def _mount_point() -> str | None:
    """Where cgroup v2 is mounted. On a hybrid machine that is a place without controllers, which are then not found."""
    with suppress(OSError), open("/proc/self/mountinfo") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            if after.startswith("cgroup2 "):
                return before.split()[4].encode().decode("unicode_escape")
    return None


def _is_delegated(group: ControlGroup) -> bool:
    if not os.access(group.file("cgroup.procs"), os.W_OK) or not os.access(group.directory, os.W_OK):
        return False
    return _marked(group) or _is_border(group)


def _marked(group: ControlGroup) -> bool:
    """systemd's own mark; `trusted.` is what versions before 251 set, readable by root only."""
    for name in ("user.delegate", "trusted.delegate"):
        with suppress(OSError):
            if os.getxattr(group.directory, name) == b"1":
                return True
    return False


def _is_border(group: ControlGroup) -> bool:
    """Ours, inside one that is not: so somebody gave it to us. Root may write everywhere, so for root this says
    nothing."""
    parent = group.parent
    return os.geteuid() != 0 and parent is not None and not os.access(parent.file("cgroup.procs"), os.W_OK)


def _take(root: ControlGroup) -> Delegation | None:
    for name in root.children():
        if name.startswith(STEP):
            root.child(name).destroy()
    leaf = root.child(DAEMON)
    leaf.make()
    leaf.add_self()
    try:
        return Delegation(root, _enable(root))
    except OSError:  # others live in the group, and were not ours to move
        root.add_self()
        leaf.remove()
        return None


def _enable(root: ControlGroup) -> frozenset[str]:
    """Those that could be enabled. Raises OSError when some are there and none could."""
    available = root.read("cgroup.controllers").split()
    enabled: set[str] = set()
    failure: OSError | None = None
    for name in CONTROLLERS:
        if name in available:
            try:
                root.write("cgroup.subtree_control", f"+{name}")
                enabled.add(name)
            except OSError as exc:
                failure = exc
    if failure is not None and not enabled:
        raise failure
    return frozenset(enabled)
