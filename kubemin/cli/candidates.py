"""What the shell offers for an argument: run ids (the newest first), workflows, queues, as the engine knows them now.

Never an error: a shell that completes has nowhere to show one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from click.shell_completion import CompletionItem

from kubemin.cli.session import Session
from kubemin.errors import KubeminError
from kubemin.model.states import RUN_TERMINAL

if TYPE_CHECKING:
    import click

    from kubemin.model.records import RunView

LOOKED_AT = 500  # runs
OFFERED = 100

Candidates = Callable[["click.Context", "click.Parameter", str], list[CompletionItem]]


def runs(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _runs(ctx, incomplete, lambda _run: True)


def live_runs(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _runs(ctx, incomplete, lambda run: run.status not in RUN_TERMINAL)


def ended_runs(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Those that did not complete."""
    return _runs(ctx, incomplete, lambda run: run.status in RUN_TERMINAL and run.status != "completed")


def workflows(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _offer(ctx, incomplete, lambda session: ((one.name, "") for one in session.client.workflows()))


def queues(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    def names(session: Session) -> Iterable[tuple[str, str]]:
        known = {*session.settings.queues, *(view.name for view in session.client.queues())}
        return ((name, "") for name in sorted(known))

    return _offer(ctx, incomplete, names)


def _runs(ctx: click.Context, incomplete: str, wanted: Callable[[RunView], bool]) -> list[CompletionItem]:
    def found(session: Session) -> Iterable[tuple[str, str]]:
        views = session.client.runs(limit=LOOKED_AT)
        return ((view.id, f"{view.workflow} {view.status}") for view in views if wanted(view))

    return _offer(ctx, incomplete, found)


def _offer(
    ctx: click.Context, incomplete: str, ask: Callable[[Session], Iterable[tuple[str, str]]]
) -> list[CompletionItem]:
    try:
        pairs = [pair for pair in ask(_session(ctx)) if pair[0].startswith(incomplete)]
    except (KubeminError, OSError):
        return []
    return [CompletionItem(name, help=words or None) for name, words in pairs[:OFFERED]]


def _session(ctx: click.Context) -> Session:
    """While a shell completes, no command runs and makes one."""
    given = ctx.find_root().params
    session = Session()
    session.config = given.get("config")
    flags = {"stateDir": given.get("state_dir"), "runtimeDir": given.get("runtime_dir")}
    session.flags = {name: value for name, value in flags.items() if value is not None}
    return session
