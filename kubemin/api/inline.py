"""The small workflow behind `Client.map`: one task an item, then one with the list of results. Pure.

The items are a parameter, so that all maps of the same functions share one stored definition.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec

from kubemin.api.payload import Template
from kubemin.model.graph import Edge, Graph, Node, Retry
from kubemin.model.records import Definition
from kubemin.model.states import Kind

EACH = "each"  # the forEach step
THEN = "then"  # the step with the list of its results
ITEMS = "items"  # the parameter


def map_definition(each: Template, then: Template | None) -> Definition:
    nodes = [_node(EACH, each, Kind.FANOUT, "${{ item }}")]
    if then is not None:
        nodes.append(_node(THEN, then, Kind.TASK, f"${{{{ steps.{EACH}.output }}}}"))
    graph = Graph(workflow=_name(each.python), nodes=tuple(nodes), params={ITEMS: {}})
    return Definition(hash=hashlib.sha256(msgspec.json.encode(graph)).hexdigest(), graph=graph)


def _node(step: str, template: Template, kind: Kind, argument: str) -> Node:
    fanout = kind is Kind.FANOUT
    return Node(
        step=step,
        kind=kind,
        needs=() if fanout else (Edge(0),),
        refs=() if fanout else (0,),
        queue=template.queue,
        timeout=template.timeout,
        retry=_retry(template.retry),
        work={"python": template.python, "args": [argument]},
        items=f"${{{{ params.{ITEMS} }}}}" if fanout else None,
    )


def _retry(retry: dict[str, Any] | None) -> Retry | None:
    return None if retry is None else msgspec.convert(retry, Retry)


def _name(path: str) -> str:
    """`map-` and the function's name as a workflow name (DNS-1123)."""
    word = re.sub(r"[^a-z0-9]+", "-", path.rpartition(":")[2].lower()).strip("-")
    return f"map-{word or 'function'}"[:63].rstrip("-")
