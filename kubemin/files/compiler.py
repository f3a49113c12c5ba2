"""A workflow file to the flat graph that a store knows (engine rule 1, `model/graph.py`).

Groups become a gate and a join, the order of StepByStep becomes soft edges, `forEach` a fan-out. Deterministic: the
same file in the same folder gives the same graph, and so the same hash, on every node of a fleet.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec

from kubemin.errors import Invalid, Problem
from kubemin.files.checks import Checks, Enough
from kubemin.files.document import Document
from kubemin.files.order import arrange, read_needs
from kubemin.files.plain import shown_path
from kubemin.files.scope import Scope
from kubemin.files.steps import Step
from kubemin.files.workflow import Workflow, read_workflow
from kubemin.model.graph import Edge, Graph, Node
from kubemin.model.records import PAYLOAD_BYTES, Definition
from kubemin.model.states import STARTS_IN_STOPPED_RUN, Kind, When

_RESOLVED = ("run", "with", "env", "workdir")  # parts of `work` that take references


def compile_workflow(document: Document, directory: str = "") -> Definition:
    """Validate and compile. `directory`: the file's folder, empty without one. Raises Invalid with all problems."""
    checks = Checks(document)
    graph: Graph | None = None
    try:
        workflow = read_workflow(document.data, checks)
        graph = _Compiler(workflow, _storable(directory, checks), checks).graph()
    except Enough:
        pass
    if checks.problems or graph is None:
        raise Invalid(sorted(checks.problems, key=_position), source=document.source)
    source = msgspec.json.encode(document.data).decode()
    import hashlib  # OpenSSL is 2 MB; daemons read compiled graphs only

    return Definition(hash=hashlib.sha256(msgspec.json.encode(graph)).hexdigest(), graph=graph, source=source)


def _storable(directory: str, checks: Checks) -> str:
    """A graph is JSON, which has no form for a name in another encoding."""
    try:
        directory.encode()
    except UnicodeEncodeError:
        message = "the name of the file's folder is not UTF-8, so steps cannot be told to start there; rename it"
        checks.problem("", "encoding", message)
        return shown_path(directory)
    return directory


def _position(problem: Problem) -> tuple[bool, int]:
    return problem.line is None, problem.line or 0


def _when(step: Step, group: When) -> When:
    """The `when` of a step; of one that says none, by its group's: members of an `always` group start in a stopped run,
    too, for they do what the group is there for."""
    if step.when is not None:
        return step.when
    return When.CLEANUP if group in STARTS_IN_STOPPED_RUN else When.SUCCESS


class _Draft(msgspec.Struct):
    """A node while references may still change its work."""

    step: Step
    path: str
    kind: Kind
    prefix: str  # of its group
    needs: list[Edge]
    when: When


class _Compiler:
    def __init__(self, workflow: Workflow, directory: str, checks: Checks) -> None:
        self._workflow = workflow
        self._directory = directory
        self._checks = checks
        self._drafts: list[_Draft] = []

    def graph(self) -> Graph:
        workflow = self._workflow
        self._level(workflow.steps, workflow.mode, "", None, When.SUCCESS)
        scope = self._scope()
        nodes = tuple([self._node(index, draft, scope) for index, draft in enumerate(self._drafts)])
        if not any(problem.code == "cycle" for problem in self._checks.problems):
            scope.check_ancestors([[edge.node for edge in node.needs] for node in nodes])
        return Graph(
            workflow=workflow.name,
            nodes=nodes,
            timeout=workflow.timeout,
            schedule=workflow.schedule,
            concurrency=workflow.concurrency,
            params=workflow.params,
            directory=self._directory,
        )

    def _level(self, steps: list[Step], mode: str, prefix: str, gate: int | None, group: When) -> list[int]:
        """Draft the steps of one level; returns, by position, the node that ends each. `group`: its `when`."""
        needs = read_needs(steps, mode, prefix.rstrip("/"), self._checks)
        ends = [0] * len(steps)
        for position in arrange(steps, needs, self._checks):
            step = steps[position]
            edges = [Edge(ends[need], soft) for need, soft in needs[position]]
            if gate is not None and not step.needs:
                # Also where a soft edge is there: it alone would let the step start in a group that is skipped.
                edges.append(Edge(gate))
            edges.sort(key=lambda edge: edge.node)
            ends[position] = self._draft(step, prefix, edges, _when(step, group))
        return ends

    def _draft(self, step: Step, prefix: str, edges: list[Edge], when: When) -> int:
        path = prefix + step.name
        if step.kind == "steps":
            gate = self._add(step, path + "/", Kind.GATE, prefix, edges, when)
            members = self._level(step.steps, step.mode, path + "/", gate, when)
            return self._add(step, path, Kind.JOIN, prefix, [Edge(node) for node in (gate, *sorted(members))], when)
        return self._add(step, path, Kind.TASK if step.items is None else Kind.FANOUT, prefix, edges, when)

    def _add(self, step: Step, path: str, kind: Kind, prefix: str, edges: list[Edge], when: When) -> int:
        self._drafts.append(_Draft(step, path, kind, prefix, edges, when))
        return len(self._drafts) - 1

    def _scope(self) -> Scope:
        nodes = {draft.path: index for index, draft in enumerate(self._drafts) if draft.kind is not Kind.GATE}
        kinds = [draft.kind for draft in self._drafts]
        return Scope(nodes, kinds, self._workflow.params, self._checks)

    def _node(self, index: int, draft: _Draft, scope: Scope) -> Node:
        step = draft.step
        if draft.kind in (Kind.GATE, Kind.JOIN):  # a join asks only whether a stop of the run is to end it
            return Node(step=draft.path, kind=draft.kind, needs=tuple(draft.needs), when=draft.when)
        first = len(scope.uses)
        work = self._work(index, draft, scope)
        items = None if step.items is None else self._items(index, draft, scope)
        return Node(
            step=draft.path,
            kind=draft.kind,
            needs=tuple(draft.needs),
            when=draft.when,
            queue=step.queue,
            timeout=step.timeout,
            retry=step.retry,
            work=work,
            refs=tuple(sorted({target for _, target, _, _ in scope.uses[first:]})),
            items=items,
            max_parallel=step.max_parallel,
        )

    def _items(self, index: int, draft: _Draft, scope: Scope) -> Any:
        if not isinstance(draft.step.items, str | list):  # noted already
            return None
        return scope.resolve_items(draft.step.items, f"{draft.step.at}.forEach", index, draft.prefix)

    def _work(self, index: int, draft: _Draft, scope: Scope) -> dict[str, Any]:
        step, work = draft.step, draft.step.work
        if work.get("workdir"):
            work["workdir"] = self._workdir(work["workdir"], step)
        encoded = msgspec.json.encode(work)
        if len(encoded) > PAYLOAD_BYTES:
            message = f"the step has {len(encoded)} bytes; {PAYLOAD_BYTES} are allowed"
            self._checks.problem(step.at, "too_large", message)
        if b"${{" in encoded:
            for part in [part for part in _RESOLVED if part in work]:
                has_item = draft.kind is Kind.FANOUT
                work[part] = scope.resolve(work[part], f"{step.at}.{part}", index, draft.prefix, has_item=has_item)
        return work

    def _workdir(self, workdir: str, step: Step) -> str:
        if os.path.isabs(workdir) or workdir.startswith("${{"):  # the executor joins what a reference gives
            return workdir
        if not self._directory:
            message = "it is relative, and a workflow without a file has no folder; give the whole path"
            self._checks.problem(f"{step.at}.workdir", "value", message)
        directory = self._directory.replace("${{", "$${{")  # a folder may be called so; it is no reference
        return os.path.normpath(os.path.join(directory, workdir))
