"""Every rule for workflow files: what breaks it is refused with path, line and code."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kubemin.errors import Invalid, Problem
from kubemin.files import load_workflow_text
from kubemin.files.compiler import compile_workflow
from kubemin.files.document import Document


def problems(text: str, source: str = "x.yaml") -> list[Problem]:
    with pytest.raises(Invalid) as caught:
        load_workflow_text(text, source, "/srv")
    assert all("\n" not in problem.message and len(problem.message) < 1200 for problem in caught.value.problems)
    return list(caught.value.problems)


def found(text: str) -> set[tuple[str, str]]:
    return {(problem.field, problem.code) for problem in problems(text)}


A = "  - {name: a, run: [x]}\n"


@pytest.mark.parametrize(
    ("head", "field", "code"),
    [
        ("nmae: x", "nmae", "unknown_key"), ("<<: {a: b}", "<<", "unknown_key"), ("mode: dag", "mode", "value"),
        ("mode: 5", "mode", "type"), ("mode:", "mode", "type"), ("timeout: 30", "timeout", "duration"),
        ("timeout: 0s", "timeout", "duration"), ("timeout: 0", "timeout", "duration"),
        ("timeout: [1]", "timeout", "type"),
        ("timeout: true", "timeout", "type"), ("timeout: false", "timeout", "type"),
        ("timeout: -1", "timeout", "duration"),
        ("timeout: soon", "timeout", "duration"),
        ("schedule: daily", "schedule", "type"), ("schedule: {}", "schedule", "missing"),
        ("schedule: {cron: '* * * *'}", "schedule.cron", "cron"),
        ("schedule: {cron: '0 0 30 2 *'}", "schedule.cron", "cron"),
        ("schedule: {cron: 5}", "schedule.cron", "type"),
        ("schedule: {cron: '0 3 * * *', timezone: Mars/X}", "schedule.timezone", "timezone"),
        ("schedule: {cron: '0 3 * * *', missed: never}", "schedule.missed", "value"),
        ("schedule: {cron: '0 3 * * *', grace: 5}", "schedule.grace", "duration"),
        ("schedule: {cron: '0 3 * * *', zone: UTC}", "schedule.zone", "unknown_key"),
        ("params: {p: {}}\nschedule: {cron: '0 3 * * *'}", "params.p", "required"),
        ("concurrency: x", "concurrency", "type"), ("concurrency: {policy: queue}", "concurrency", "missing"),
        ("concurrency: {key: ''}", "concurrency.key", "empty"),
        ("concurrency: {key: k, policy: drop}", "concurrency.policy", "value"),
        ("concurrency: {key: '${{ params.q }}'}", "concurrency.key", "unknown_param"),
        ("concurrency: {key: '${{ steps.a.output }}'}", "concurrency.key", "reference"),
        ("concurrency: {key: '${{ nope }}'}", "concurrency.key", "reference"),
        ("params: [a]", "params", "type"), ("params: {1a: x}", "params.1a", "name"),
        ("params: {a: {defualt: x}}", "params.a.defualt", "unknown_key"),
        ("params: {a: {pattern: '('}}", "params.a.pattern", "pattern"),
        ("params: {a: {pattern: 5}}", "params.a.pattern", "type"),
        ("params: {a: {pattern: '" + "(a)" * 400 + "'}}", "params.a.pattern", "too_large"),
        ("params: {a: {pattern: '[0-9]+', default: x}}", "params.a.default", "default"),
        ("params: {a: {pattern: 'a{99999999999}'}}", "params.a.pattern", "pattern"),
        ("params: {a: '${{ run.id }}'}", "params.a", "reference"),
    ],
)  # fmt: skip
def test_head(head: str, field: str, code: str) -> None:
    assert found(f"name: test\n{head}\nsteps:\n{A}") == {(field, code)}


@pytest.mark.parametrize(
    ("name", "code"),
    [("a", "name"), ("A-b", "name"), ("-ab", "name"), ("ab-", "name"), ("a_b", "name"), ("a" * 64, "name"),
    ("5", "type"),
     ("a.b", "name"), ("'a b'", "name"), ("", "type")],
)  # fmt: skip
def test_workflow_names(name: str, code: str) -> None:
    assert found(f"name: {name}\nsteps:\n{A}") == {("name", code)}


@pytest.mark.parametrize(
    ("step", "field", "code"),
    [
        ("run: [x]", "", "missing"), ("name: A, run: [x]", ".name", "name"), ("name: a", "", "kind"),
        ("name: a, run: [x], shell: y", "", "kind"), ("name: a, rnu: [x]", ".rnu", "unknown_key"),
        ("name: a, components: [x]", ".components", "unsupported"),
        ("name: a, kubernetes: {}", ".kubernetes", "unsupported"),
        ("name: a, run: ./x", ".run", "type"), ("name: a, run: []", ".run", "empty"),
        ("name: a, run: ['']", ".run", "empty"),
        ("name: a, run: [x, [y]]", ".run[1]", "type"), ("name: a, run: [x, null]", ".run[1]", "type"),
        ('name: a, run: ["x\\0"]', ".run[0]", "value"), ("name: a, run: {x: y}", ".run", "type"),
        ("name: a, shell: ''", ".shell", "empty"), ("name: a, shell: [x]", ".shell", "type"),
        ("name: a, shell: 'echo ${{ run.id }}'", ".shell", "reference"), ("name: a, python: f", ".python", "value"),
        ("name: a, python: 'm:f', args: [1]", ".args", "unknown_key"),
        ("name: a, python: 'm:f', with: [1]", ".with", "type"),
        ("name: a, python: 'm:f', workdir: /x", ".workdir", "not_here"),
        ("name: a, python: '${{ run.id }}:f'", ".python", "value"),
        ("name: a, run: [x], with: {a: b}", ".with", "not_here"),
        ("name: a, run: [x], mode: DAG", ".mode", "not_here"),
        ("name: a, run: [x], workdir: ''", ".workdir", "empty"), ("name: a, run: [x], when: never", ".when", "value"),
        ("name: a, run: [x], needs: b", ".needs", "type"), ("name: a, run: [x], needs: [5]", ".needs[0]", "type"),
        ("name: a, run: [x], needs: [a]", ".needs[0]", "self_need"),
        ("name: a, run: [x], needs: [bb]", ".needs[0]", "unknown_step"),
        ("name: a, run: [x], queue: 'A b'", ".queue", "name"), ("name: a, run: [x], queue: 5", ".queue", "type"),
        ("name: a, run: [x], queue: '${{ params.q }}'", ".queue", "name"),
        ("name: a, run: [x], timeout: 5", ".timeout", "duration"),
        ("name: a, run: [x], env: [A]", ".env", "type"), ("name: a, run: [x], env: {1A: x}", ".env.1A", "name"),
        ("name: a, run: [x], env: {A: null}", ".env.A", "type"),
        ("name: a, run: [x], env: {A: [x]}", ".env.A", "type"),
        ("name: a, run: [x], env: {A: {secrte: x}}", ".env.A.secrte", "unknown_key"),
        ("name: a, run: [x], env: {A: {secret: ../x}}", ".env.A.secret", "name"),
        ("name: a, run: [x], env: {KUBEMIN_TOKEN: x}", ".env.KUBEMIN_TOKEN", "name"),
        ("name: a, run: [x], limits: {memory: 5X}", ".limits.memory", "size"),
        ("name: a, run: [x], limits: {memory: 0}", ".limits.memory", "size"),
        ("name: a, run: [x], limits: {cpu: 0}", ".limits.cpu", "range"),
        ("name: a, run: [x], limits: {cpu: two}", ".limits.cpu", "value"),
        ("name: a, run: [x], limits: {cpu: true}", ".limits.cpu", "value"),
        ("name: a, run: [x], limits: {pids: 0}", ".limits.pids", "range"),
        ("name: a, run: [x], limits: {pids: '5'}", ".limits.pids", "type"),
        ("name: a, run: [x], limits: {bestEffort: yes}", ".limits.bestEffort", "type"),
        ("name: a, run: [x], limits: {mem: 5}", ".limits.mem", "unknown_key"),
        ("name: a, run: [x], limits: {pids: 1.5}", ".limits.pids", "type"),
        ("name: a, run: [x], retry: 3", ".retry", "type"), ("name: a, run: [x], retry: {}", ".retry", "missing"),
        ("name: a, run: [x], retry: {limit: -1}", ".retry.limit", "range"),
        ("name: a, run: [x], retry: {limit: true}", ".retry.limit", "type"),
        ("name: a, run: [x], retry: {limit: 1, factor: 0.5}", ".retry.factor", "range"),
        ("name: a, run: [x], retry: {limit: 1, delay: 1m, maxDelay: 1s}", ".retry.maxDelay", "range"),
        ("name: a, run: [x], retry: {limit: 1, causes: [crash]}", ".retry.causes[0]", "value"),
        ("name: a, run: [x], retry: {limit: 1, causes: []}", ".retry.causes", "empty"),
        ("name: a, run: [x], retry: {limit: 1, max_delay: 5s}", ".retry.max_delay", "unknown_key"),
        ("name: a, run: [x], forEach: 5", ".forEach", "type"),
        ("name: a, run: [x], forEach: abc", ".forEach", "type"),
        ("name: a, run: [x], forEach: null", ".forEach", "type"),
        ("name: a, run: [x], forEach: {a: b}", ".forEach", "type"),
        ("name: a, run: [x], forEach: [b, '${{ item }}']", ".forEach[1]", "reference"),
        ("name: a, run: [x], forEach: 'x${{ run.id }}'", ".forEach", "type"),
        ("name: a, run: [x], forEach: '${{ item }}'", ".forEach", "reference"),
        ("name: a, run: [x], maxParallel: 5", ".maxParallel", "not_here"),
        ("name: a, run: [x], forEach: [1], maxParallel: 0", ".maxParallel", "range"),
        ("name: a, run: ['${{ item }}']", ".run[0]", "reference"),
        ("name: a, run: ['${{ params.q }}']", ".run[0]", "unknown_param"),
        ("name: a, run: ['${{ steps.b.output }}']", ".run[0]", "unknown_step"),
        ("name: a, run: ['${{ steps.a.output }}']", ".run[0]", "not_ancestor"),
        ("name: a, run: ['${{ a b }}']", ".run[0]", "reference"),
        ("name: a, run: ['${{ run.id']", ".run[0]", "reference"),
        ("name: a, python: 'm:f', with: {x: [{y: '${{ params.q }}'}]}", ".with.x[0].y", "unknown_param"),
        ("name: a, python: 'm:f', with: {'${{ run.id }}': '${{ run.id }}'}", ".with", "reference"),
        ("name: g, steps: []", ".steps", "empty"), ("name: g, steps: x", ".steps", "type"),
        ("name: g, steps: [{name: b, run: [x]}], retry: {limit: 1}", ".retry", "not_here"),
        ("name: g, steps: [{name: b, run: [x]}], forEach: [1]", ".forEach", "not_here"),
        ("name: g, steps: [{name: b, run: [x]}], env: {A: x}", ".env", "not_here"),
        ("name: g, steps: [{name: b, run: [x]}], limits: {pids: 1}", ".limits", "not_here"),
        ("name: g, steps: [{name: b, run: [x]}], queue: x", ".queue", "not_here"),
        ("name: g, steps: [{name: b, run: [x]}], timeout: 5s", ".timeout", "not_here"),
        ("name: g, steps: [{name: b, run: [x], needs: [z]}]", ".steps[0].needs[0]", "unknown_step"),
        ("name: g, steps: [{name: b, run: []}]", ".steps[0].run", "empty"),
    ],
)  # fmt: skip
def test_steps(step: str, field: str, code: str) -> None:
    expected = {("steps[1]" + field, code)}
    if "rnu" in step:
        expected.add(("steps[1]", "kind"))
    if "secrte" in step:
        expected.add(("steps[1].env.A", "missing"))
    assert found(f"name: test\nmode: DAG\nsteps:\n  - {{name: z, run: [x]}}\n  - {{{step}}}\n") == expected


@pytest.mark.parametrize("text", ["a", "[1]", "5", "null"])
def test_not_a_workflow(text: str) -> None:
    assert found(text) == {("", "type")}


@pytest.mark.parametrize(
    ("steps", "field", "code"),
    [("", "steps", "type"), (" []", "steps", "empty"), (" {a: b}", "steps", "type"), (" [5]", "steps[0]", "type"),
    (" [{}]", "steps[0]", "empty"),
     (" [null]", "steps[0]", "type")],
)  # fmt: skip
def test_no_steps(steps: str, field: str, code: str) -> None:
    assert found(f"name: test\nsteps:{steps}\n") == {(field, code)}
    assert found("{}") == {("", "missing")}


def test_applications_are_for_later() -> None:
    assert found("name: app\nversion: 1\ncomponents: [{type: webservice}]\nworkflow: []\n") == {
        ("components", "unsupported")
    }
    assert found('{"name": "app", "component": []}') == {("component", "unsupported")}


def test_a_step_need_not_be_known_to_all() -> None:
    """A member of a group needs siblings only, and a step at the top nothing inside a group."""
    text = "name: test\nmode: DAG\nsteps:\n" + A
    text += "  - {name: g, steps: [{name: m, run: [x], needs: [a]}]}\n  - {name: z, run: [x], needs: [m]}\n"
    assert found(text) == {("steps[1].steps[0].needs[0]", "unknown_step"), ("steps[2].needs[0]", "unknown_step")}


def test_a_group_has_no_output() -> None:
    text = "name: test\nsteps:\n  - {name: g, steps: [{name: m, run: [x]}]}\n"
    text += "  - {name: z, run: ['${{ steps.g.output }}']}\n"
    assert found(text) == {("steps[1].run[0]", "reference")}


def test_ancestors_over_groups() -> None:
    text = """
name: test
mode: DAG
steps:
  - {name: a, run: [x]}
  - name: g
    needs: [a]
    mode: DAG
    steps:
      - {name: m, run: ["${{ steps.a.output }}"]}
      - {name: n, run: ["${{ steps.m.output }}"]}
  - {name: z, run: ["${{ steps.g/m.output }}", "${{ steps.a.output }}"], needs: [g]}
  - {name: y, run: ["${{ steps.g/m.output }}"], needs: [a]}
"""
    assert [(p.field, p.code, p.line) for p in problems(text)] == [
        ("steps[1].steps[1].run[0]", "not_ancestor", 11), ("steps[3].run[0]", "not_ancestor", 13)
    ]  # fmt: skip


def test_cycles_are_named() -> None:
    text = "name: test\nmode: DAG\nsteps:\n"
    text += "".join(f"  - {{name: {a}, run: [x], needs: [{b}]}}\n" for a, b in ["ab", "bc", "cb", "de", "ed"])
    first, second = problems(text)
    assert (first.field, first.code, first.line) == ("steps[1].needs", "cycle", 5)
    assert "b needs c, c needs b" in first.message
    assert "d needs e, e needs d" in second.message
    (soft,) = problems(
        "name: test\nsteps:\n  - {name: a, run: [x], needs: [c]}\n  - {name: b, run: [x]}\n  - {name: c, run: [x]}\n"
    )
    assert "a needs c, c comes after b, b comes after a" in soft.message


def test_duplicate_names() -> None:
    (problem,) = problems(f"name: test\nsteps:\n{A}{A}")
    assert (problem.field, problem.code, problem.line) == ("steps[1].name", "duplicate", 4)
    assert "steps[0]" in problem.message


def test_suggestions() -> None:
    (problem,) = problems("name: test\nsteps:\n  - {name: a, run: [x], timeOut: 5s}\n")
    assert 'did you mean "timeout"?' in problem.message
    (problem,) = problems(
        "name: test\nmode: DAG\nsteps:\n  - {name: extract, run: [x]}\n  - {name: b, run: [x], needs: [extrakt]}\n"
    )
    assert 'did you mean "extract"?' in problem.message
    (problem,) = problems("name: test\nmode: dag\nsteps:\n" + A)
    assert 'did you mean "DAG"?' in problem.message


def test_all_problems_are_listed_by_line() -> None:
    text = """
nam: test
mode: Dag
params: {p: {pattern: "("}}
steps:
  - name: A
    run: x
    retry: {limit: x, dealy: 5s}
  - shell: 5
    nedds: [a]
"""
    assert [(p.line, p.code) for p in problems(text)] == [
        (1, "missing"), (2, "unknown_key"), (3, "value"), (4, "pattern"), (6, "name"), (7, "type"),
        (8, "unknown_key"),
        (8, "type"), (9, "missing"), (9, "type"), (10, "unknown_key"),
    ]  # fmt: skip
    with pytest.raises(Invalid, match=re.escape("x.yaml: line 4: params.p.pattern: ")):
        load_workflow_text(text, "x.yaml")


def test_thousands_of_problems_are_cut() -> None:
    listed = problems("name: test\nsteps: [" + "1," * 50_000 + "]\n")
    assert len(listed) == 1001
    assert listed[-1].code == "too_many"


def test_work_that_is_too_large() -> None:
    assert found(f"name: test\nsteps:\n  - {{name: a, shell: {'x' * (1024 * 1024)}}}\n") == {("steps[0]", "too_large")}


def test_a_relative_workdir_wants_a_folder() -> None:
    with pytest.raises(Invalid, match="whole path"):
        load_workflow_text("name: test\nsteps:\n  - {name: a, run: [x], workdir: sub}\n")


def test_json_has_no_lines() -> None:
    (problem,) = problems('{"name": "test", "steps": [{"name": "a", "run": "x"}]}', "x.json")
    assert (problem.field, problem.line) == ("steps[0].run", None)


words = st.sampled_from(
    [
        "a", "b", "run", "DAG", "StepByStep", "5s", "${{ item }}", "${{ params.a }}", "${{ steps.a.output }}",
    "${{", "always", "m:f", "0 3 * * *", "UTC", "queue", "1Gi", "x\0", "é\n", "", "(", "[a-z]+",
    "a" * 70,
]
)  # fmt: skip
keys = st.sampled_from(
    [
    "name", "mode", "params", "timeout", "schedule", "concurrency", "steps", "run", "shell", "python", "with",
    "needs", "when", "queue", "env", "limits", "retry", "forEach", "maxParallel", "workdir", "cron",
    "timezone", "key", "policy", "default", "pattern", "secret", "memory", "cpu", "pids", "limit", "delay",
    "maxDelay", "causes", "components", "x\ny", "a", "${{ item }}",
]
)  # fmt: skip
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**6) | st.floats(-1, 1e9) | words | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=30,
)
a_step = st.dictionaries(keys, anything, max_size=6).map(lambda step: {"name": "a", "run": ["x"]} | step)
a_workflow = st.builds(
    lambda head, steps: {"name": "ab", "params": {"a": 1}} | head | {"steps": steps},
    st.dictionaries(keys, anything, max_size=4),
    st.lists(a_step, max_size=4),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(anything | a_workflow)
def test_any_document(data: Any) -> None:
    try:
        compile_workflow(Document(data), "/srv")
    except Invalid as exc:
        for problem in exc.problems:
            assert problem.code
            assert str(problem).isprintable()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(a_workflow, st.randoms(use_true_random=False))
def test_any_damaged_file(data: Any, random: Any) -> None:
    import yaml

    text = yaml.safe_dump(data, allow_unicode=True, sort_keys=False)
    at = random.randrange(len(text))
    damaged = random.choice(
        [text[:at], text[:at] + random.choice("{}[]:-\t\0&*!'\"\n") + text[at:], text[:at] + text[at + 1 :]]
    )
    for each in (text, damaged):
        try:
            load_workflow_text(each, "x.yaml", "/srv")
        except Invalid as exc:
            assert str(exc)
