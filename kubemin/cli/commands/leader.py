"""Who leads the fleet, and how to make it hand over."""

from __future__ import annotations

import time

import click

from kubemin import clock
from kubemin.cli import options, render, views
from kubemin.cli.fleet import LeaderLine, the_leader
from kubemin.cli.session import Session
from kubemin.errors import KubeminError, Refused

HAND_OVER_SECONDS = 10.0  # that --step-down waits for another holder
LOOK_SECONDS = 0.1


class NoLeader(KubeminError):
    exit_code = 1
    code = "no_leader"


@options.command(
    "leader",
    """
    kubeminctl leader
    kubeminctl leader --step-down
    kubeminctl leader -o json
    """,
)
@click.option("--step-down", is_flag=True, help="Let the leader hand over; wait until another node leads.")
def command(session: Session, step_down: bool) -> None:
    """Show which node leads, since when and under which term. Exit 1 when none does."""
    if not session.client.in_fleet:
        raise Refused("this machine works alone: it has no leader but itself", code="local")
    leader = the_leader(session)
    if leader is None:
        raise NoLeader("no node leads now; see `kubeminctl nodes` and the log of each")
    if step_down:
        leader = _hand_over(session, leader)
    if session.json:
        render.document(views.leader(leader))
    else:
        _show(leader)


def _hand_over(session: Session, before: LeaderLine) -> LeaderLine:
    session.client.fleet_store().handover.ask(before.holder)
    deadline = clock.monotonic() + HAND_OVER_SECONDS
    while clock.monotonic() < deadline:
        now = the_leader(session)
        if now is not None and now.epoch > before.epoch:
            return now
        time.sleep(LOOK_SECONDS)
    raise NoLeader(f"{before.node} was asked to hand over, and no other node leads after {HAND_OVER_SECONDS:g} s")


def _show(leader: LeaderLine) -> None:
    render.fields(
        [
            ("leader", leader.node),
            ("holder", leader.holder),
            ("term", leader.epoch),
            ("since", render.local_time(clock.rfc3339(leader.since))),
            ("for", render.duration(leader.age_seconds)),
            ("transitions", leader.transitions),
            ("lease", leader.lease),
        ]
    )
