"""Containment of a step's processes: the strongest kind that the machine allows (promise P8).

`prepare_delegation` is for the supervisor, once, before it forks, and `kill_slot` when a worker has died;
`make_containment` is for a worker. Light to import: the kinds themselves are imported when one is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubemin.steps.containment.delegation import delegation, find_delegated, kill_slot, prepare_delegation

if TYPE_CHECKING:
    from kubemin.config import Settings
    from kubemin.steps.containment.base import Containment

__all__ = ["delegation", "find_delegated", "kill_slot", "make_containment", "prepare_delegation"]


def make_containment(settings: Settings, slot: int) -> Containment:
    """The containment of one worker's steps. The worker has to be a child subreaper (PR_SET_CHILD_SUBREAPER)."""
    given = delegation()
    rate = int(settings.output.lines_per_second)
    if given is not None:
        from kubemin.steps.containment.cgroup import CgroupContainment

        return CgroupContainment(slot, rate, given)
    from kubemin.steps.containment.group import GroupContainment

    return GroupContainment(slot, rate)
