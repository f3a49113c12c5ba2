"""Compiling: what graph a workflow becomes. Checked by shapes, and by Hypothesis on the rules every graph keeps."""

from __future__ import annotations

import sys
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubemin.errors import Invalid
from kubemin.files import load_workflow_text
from kubemin.files.compiler import compile_workflow
from kubemin.files.document import Document
from kubemin.model.graph import Graph, Node, Retry, Schedule
from kubemin.model.references import find, has_reference
from kubemin.model.states import Kind, When


def compiled(steps: str, head: str = "", directory: str = "/srv/wf") -> Graph:
    return load_workflow_text(f"name: test\n{head}\nsteps:\n{steps}", "x.yaml", directory).graph


def shape(graph: Graph) -> list[str]:
    """`publish/(gate) < load` lines: `<` hard, `~` soft."""
    lines = []
    for node in graph.nodes:
        kind = "" if node.kind is Kind.TASK else f"({node.kind})"
        edges = [f"{'~' if edge.soft else '<'} {graph.nodes[edge.node].step}" for edge in node.needs]
        lines.append(" ".join([node.step + kind, *edges]))
    return lines


def node(graph: Graph, step: str) -> Node:
    return next(node for node in graph.nodes if node.step == step)


A, B, C, D = (f"  - {{name: {name}, run: [x]}}\n" for name in "abcd")


def test_step_by_step() -> None:
    assert shape(compiled(A + B + C)) == ["a", "b ~ a", "c ~ b"]


def test_needs_replace_the_order() -> None:
    steps = A + B + "  - {name: c, run: [x], needs: [a]}\n  - {name: d, run: [x], needs: []}\n  - {name: e, run: [x]}\n"
    assert shape(compiled(steps)) == ["a", "b ~ a", "c < a", "d", "e ~ d"]


def test_dag_in_topological_order() -> None:
    steps = "  - {name: z, run: [x], needs: [m, a]}\n  - {name: m, run: [x], needs: [a]}\n" + A + B
    assert shape(compiled(steps, "mode: DAG")) == ["a", "m < a", "z < a < m", "b"]


def test_group() -> None:
    group = "  - name: g\n    when: failure\n    steps:\n      - {name: m, run: [x]}\n      - {name: n, run: [x]}\n"
    group += "      - {name: o, run: [x], needs: [m]}\n"
    graph = compiled(A + group + C)
    assert shape(graph) == [
        "a", "g/(gate) ~ a", "g/m < g/", "g/n < g/ ~ g/m", "g/o < g/m", "g(join) < g/ < g/m < g/n < g/o", "c ~ g"
    ]  # fmt: skip
    assert node(graph, "g/").when is node(graph, "g").when is When.FAILURE
    assert node(graph, "g/m").when is When.SUCCESS
    assert node(graph, "g/").work is node(graph, "g").work is None


def test_plain_members_of_an_always_group_start_in_a_stopped_run() -> None:
    steps = """
  - name: tidy
    when: always
    steps:
      - {name: plain, run: [x]}
      - {name: each, run: [x], forEach: [1]}
      - {name: own, run: [x], when: success}
      - {name: alert, run: [x], when: failure}
      - {name: inner, steps: [{name: deep, run: [x]}]}
      - {name: rest, when: success, steps: [{name: deep, run: [x]}]}
"""
    graph = compiled(steps)
    assert {node.step: node.when.value for node in graph.nodes} == {
        "tidy/": "always", "tidy": "always", "tidy/plain": "cleanup", "tidy/each": "cleanup", "tidy/own": "success",
        "tidy/alert": "failure", "tidy/inner/": "cleanup", "tidy/inner": "cleanup", "tidy/inner/deep": "cleanup",
        "tidy/rest/": "success", "tidy/rest": "success", "tidy/rest/deep": "success",
    }  # fmt: skip


def test_groups_in_groups() -> None:
    steps = "  - name: g\n    mode: DAG\n    steps:\n      - name: h\n        needs: [a]\n        steps:\n"
    steps += "          - {name: a, run: [x]}\n      - {name: a, run: [x]}\n  - {name: a, run: [x], needs: [g]}\n"
    assert shape(compiled(steps)) == [
        "g/(gate)", "g/a < g/", "g/h/(gate) < g/a", "g/h/a < g/h/", "g/h(join) < g/h/ < g/h/a",
        "g(join) < g/ < g/a < g/h", "a < g",
    ]  # fmt: skip


def test_for_each() -> None:
    steps = A + '  - {name: f, run: [x, "${{ item.id }}"], forEach: "${{ steps.a.output.list }}", maxParallel: 3}\n'
    steps += "  - {name: l, python: 'm:f', with: {i: '${{ item }}'}, forEach: [1, {k: '${{ steps.a.output }}'}]}\n"
    graph = compiled(steps)
    assert shape(graph) == ["a", "f(fanout) ~ a", "l(fanout) ~ f"]
    fan = node(graph, "f")
    assert (fan.items, fan.max_parallel, fan.refs) == ("${{ steps.a.output.list }}", 3, (0,))
    assert (node(graph, "l").items, node(graph, "l").refs) == ([1, {"k": "${{ steps.a.output }}"}], (0,))


def test_references_become_full_paths() -> None:
    steps = """
  - {name: a, run: [x]}
  - name: g
    steps:
      - {name: a, run: [x]}
      - {name: b, run: [x, "${{ steps.a.output.r }} $${{ ${{ steps.g/a.output }}"], env: {E: "${{ params.p }}"}}
  - {name: b, run: [x, "${{ steps.a.output }}", "${{ steps.g/b.output.0 }}"], workdir: "${{ steps.a.output }}"}
"""
    graph = compiled(steps, "params: {p: 1}")
    inner, outer = node(graph, "g/b"), node(graph, "b")
    assert inner.work is not None
    assert outer.work is not None
    assert inner.work["run"][1] == "${{ steps.g/a.output.r }} $${{ ${{ steps.g/a.output }}"
    assert inner.refs == (2,)
    assert outer.work["run"][1:] == ["${{ steps.a.output }}", "${{ steps.g/b.output.0 }}"]
    assert outer.refs == (0, 3)


def test_work_of_a_command() -> None:
    graph = compiled("""
  - name: a
    run: [x, 5, 1.10, true, "${{ run.id }}"]
    workdir: ../sub
    env: {VERSION: 1.10, MODE: 010, ON: true, OFF: off, EMPTY: "", N: 5, S: {secret: db.pw}}
    timeout: 1m30s
    retry: {limit: 2, delay: 10m}
    limits: {memory: 1Gi, cpu: 500m, pids: 5, bestEffort: true}
    queue: etl
""")
    (a,) = graph.nodes
    assert a.work == {
        "run": ["x", "5", "1.10", "true", "${{ run.id }}"],
        "workdir": "/srv/sub",
        "env": {"VERSION": "1.10", "MODE": "010", "ON": "true", "OFF": "off", "EMPTY": "", "N": "5",
                "S": {"secret": "db.pw"}},
        "limits": {"memory": 2**30, "cpu": 0.5, "pids": 5, "bestEffort": True},
    }  # fmt: skip
    assert (a.timeout, a.queue, a.retry) == (90, "etl", Retry(limit=2, delay=600, max_delay=600))
    assert graph.directory == "/srv/wf"


def test_work_of_script_and_function() -> None:
    graph = compiled("  - {name: a, shell: 'echo $A'}\n  - {name: b, python: p.m:f.g, with: {n: 1, l: [1.5, null]}}\n")
    assert [node.work for node in graph.nodes] == [
        {"shell": "echo $A"}, {"python": "p.m:f.g", "with": {"n": 1, "l": [1.5, None]}}
    ]  # fmt: skip


def test_head() -> None:
    head = """
timeout: 2h
schedule: {cron: "*/5 0 3 * * *", missed: once, grace: 0}
concurrency: {key: "k-${{ params.a }}", policy: replace}
params:
  a: {default: x1, pattern: "[a-z0-9]+"}
  b: latest
  c: {default: null}
"""
    graph = compiled(A, head)
    assert graph.timeout == 7200
    assert graph.params == {
        "a": {"default": "x1", "pattern": "[a-z0-9]+"},
        "b": {"default": "latest"},
        "c": {"default": None},
    }
    assert graph.schedule == Schedule(cron="*/5 0 3 * * *", missed="once", grace=0.0)
    assert graph.concurrency is not None
    assert graph.concurrency.policy == "replace"


def test_the_hash_is_of_the_graph() -> None:
    def digest(text: str, directory: str = "/d") -> str:
        return load_workflow_text(text, "x.yaml", directory).hash

    one = digest("name: ab\nsteps: [{name: a, run: [x]}]\n")
    assert one == digest("# a comment\nsteps:\n- run: ['x']\n  name: a\nname: ab\n")
    assert one == digest('{"name": "ab", "steps": [{"name": "a", "run": ["x"]}]}')
    assert (
        len(
            {
                one,
                digest("name: ab\nsteps: [{name: a, run: [y]}]\n"),
                digest("name: ab\nsteps: [{name: a, run: [x]}]\n", "/e"),
            }
        )
        == 3
    )
    definition = load_workflow_text("name: ab\nsteps: [{name: a, run: [x]}]\n")
    assert msgspec.json.decode(definition.source) == {"name": "ab", "steps": [{"name": "a", "run": ["x"]}]}
    assert msgspec.json.decode(msgspec.json.encode(definition.graph), type=Graph) == definition.graph


@pytest.mark.parametrize("mode", ["StepByStep", "DAG"])
def test_a_chain_of_ten_thousand_is_flat(mode: str) -> None:
    steps: list[dict[str, Any]] = [{"name": f"s{n}", "run": ["x"]} for n in range(10_000)]
    if mode == "DAG":
        for n in range(1, 10_000):
            steps[n] |= {"needs": [f"s{n - 1}"], "env": {"A": f"${{{{ steps.s{n // 2}.output }}}}"}}
        steps.reverse()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(200)
    try:
        started = time.process_time()
        graph = compile_workflow(Document({"name": "chain", "mode": mode, "steps": steps})).graph
        assert time.process_time() - started < 5
    finally:
        sys.setrecursionlimit(limit)
    assert [node.step for node in graph.nodes] == [f"s{n}" for n in range(10_000)]


def test_a_cycle_of_ten_thousand_is_named_in_short() -> None:
    steps = [{"name": f"s{n}", "run": ["x"], "needs": [f"s{(n + 1) % 10_000}"]} for n in range(10_000)]
    with pytest.raises(Invalid) as caught:
        compile_workflow(Document({"name": "ring", "mode": "DAG", "steps": steps}))
    (problem,) = caught.value.problems
    assert problem.code == "cycle"
    assert "10000 steps" in problem.message
    assert len(problem.message) < 300


names = st.integers(0, 7).map(lambda n: f"s{n}")
tasks = st.fixed_dictionaries(
    {"name": names, "run": st.just(["x"])},
    optional={
        "needs": st.lists(names, max_size=2, unique=True),
        "when": st.sampled_from(["success", "failure", "always"]),
        "forEach": st.sampled_from([[1, 2], "${{ params.p }}", "${{ steps.s0.output }}"]),
        "env": st.dictionaries(st.just("E"), names.map(lambda name: f"${{{{ steps.{name}.output }}}}"), max_size=1),
    },
)
modes = st.sampled_from(["StepByStep", "DAG"])
unique = {"unique_by": lambda step: step["name"], "min_size": 1}
steps_of = st.recursive(
    st.lists(tasks, max_size=5, **unique),  # type: ignore[arg-type]
    lambda inner: st.lists(
        tasks
        | st.fixed_dictionaries(
            {"name": names, "mode": modes, "steps": inner}, optional={"needs": st.lists(names, max_size=1)}
        ),
        max_size=4,
        **unique,  # type: ignore[arg-type]
    ),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None)
@given(steps_of, modes)
def test_rules_of_every_graph(steps: list[dict[str, Any]], mode: str) -> None:
    try:
        graph = compile_workflow(Document({"name": "any", "mode": mode, "params": {"p": [1]}, "steps": steps})).graph
    except Invalid as exc:
        assert {problem.code for problem in exc.problems} <= {
            "cycle",
            "unknown_step",
            "self_need",
            "not_ancestor",
            "reference",
        }
        return
    paths = [node.step for node in graph.nodes]
    assert len(set(paths)) == len(paths)
    ancestors: list[set[int]] = []
    for index, node in enumerate(graph.nodes):
        assert all(edge.node < index for edge in node.needs)
        assert [edge.node for edge in node.needs] == sorted({edge.node for edge in node.needs})
        ancestors.append(set().union(*({edge.node} | ancestors[edge.node] for edge in node.needs)))
        assert set(node.refs) <= ancestors[index]
        parent = node.step.rstrip("/").rpartition("/")[0]
        if parent:  # a member comes after its gate, by hard edges only, and before its join
            assert paths.index(parent + "/") in _hard_ancestors(graph, index)
            assert paths.index(parent) > index
        used = {ref.name for value in _texts([node.work, node.items]) for ref in find(value) if ref.root == "steps"}
        assert {graph.nodes[ref].step for ref in node.refs} == used
        assert (node.work is None) == (node.kind in (Kind.GATE, Kind.JOIN))


def _hard_ancestors(graph: Graph, index: int) -> set[int]:
    found: set[int] = set()
    pending = [index]
    while pending:
        for edge in graph.nodes[pending.pop()].needs:
            if not edge.soft and edge.node not in found:
                found.add(edge.node)
                pending.append(edge.node)
    return found


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict | list):
        return [text for item in (value.values() if isinstance(value, dict) else value) for text in _texts(item)]
    return [value] if isinstance(value, str) and has_reference(value) else []
