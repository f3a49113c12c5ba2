"""Parts of the views that do not depend on how an engine keeps them. Pure."""

from __future__ import annotations

from typing import Any

from kubemin import clock
from kubemin.clock import Micros, rfc3339
from kubemin.model.graph import Graph
from kubemin.model.records import RunView
from kubemin.model.references import as_text
from kubemin.model.states import Kind
from kubemin.store.base import WorkflowView
from kubemin.store.codec import Detail


def workflow_view(name: str, digest: str, graph: Graph, published: Micros, mark: Micros) -> WorkflowView:
    """`mark`: the last slot of its schedule, or the instant of publication."""
    schedule = graph.schedule
    return WorkflowView(
        name=name,
        hash=digest,
        steps=sum(node.kind in (Kind.TASK, Kind.FANOUT) for node in graph.nodes),
        schedule=schedule.cron if schedule else None,
        timezone=schedule.timezone if schedule else None,
        next_at=_next_at(graph, mark),
        last_at=rfc3339(mark) if schedule and mark != published else None,
        published_at=rfc3339(published),
    )


def _next_at(graph: Graph, mark: Micros) -> str | None:
    if graph.schedule is None:
        return None
    from kubemin.model.schedule import next_slot  # time zones, which most readers never need

    return rfc3339(next_slot(graph.schedule, max(mark, clock.wall())))


def usage_view(detail: Detail) -> dict[str, Any] | None:
    usage = detail.usage
    return None if usage is None else {"cpu": usage.cpu, "memory": usage.memory}


def has_params(view: RunView, wanted: dict[str, str]) -> bool:
    return all(name in view.params and as_text(view.params[name]) == value for name, value in wanted.items())
