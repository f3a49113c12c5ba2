"""References: syntax, rendering, escapes, and that what is pasted in is never read as a reference."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubemin.model.references import (
    Reference,
    ReferenceMissing,
    find,
    has_reference,
    render,
    render_work,
    rewrite,
    whole,
)

INPUTS: dict[str, Any] = {
    "params": {"day": "monday", "n": 3, "evil": "${{ params.day }}", "none": None},
    "steps": {"extract": {"rows": 7, "tables": ["a", {"b": 1.5}]}, "publish/upload": "done"},
    "item": {"id": 4},
    "run": {"id": "r1", "name": "nightly", "scheduledAt": None, "attempt": 1},
}


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("${{ params.day }}", Reference("params", "day")),
        ("${{params.day}}", Reference("params", "day")),
        ("${{  steps.extract.output  }}", Reference("steps", "extract")),
        ("${{ steps.publish/upload.output.a.0 }}", Reference("steps", "publish/upload", ("a", "0"))),
        ("${{ item }}", Reference("item", "")),
        ("${{ item.id }}", Reference("item", "", ("id",))),
        ("${{ run.scheduledAt }}", Reference("run", "scheduledAt")),
    ],
)
def test_find(text: str, reference: Reference) -> None:
    assert find(f"a {text} b") == [reference]
    assert whole(text) == reference
    assert whole(f" {text}") is None
    assert find(str(reference)) == [reference]


@pytest.mark.parametrize(
    "text",
    ["${{", "${{ params.day", "${{ }}", "${{ params }}", "${{ param.day }}", "${{ steps.a }}", "${{ steps.a.outputs }}",
     "${{ steps.A.output }}", "${{ run.pid }}", "${{ params.day || 1 }}", "${{ item. }}", "${{ params.a..b }}",
     "${{ run.id.x }}", "${{ ${{ item }} }}", "ok ${{ item }} ${{ bad }}"],
)  # fmt: skip
def test_bad_reference(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a reference; use params|has no closing }}"):
        find(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${{ params.n }}", 3),
        ("${{ steps.extract.output }}", {"rows": 7, "tables": ["a", {"b": 1.5}]}),
        ("${{ steps.extract.output.tables.1.b }}", 1.5),
        ("${{ params.none }}", None),
        ("${{ run.scheduledAt }}", None),
        ("n=${{ params.n }} ${{ params.day }}", "n=3 monday"),
        ("${{ item.id }}${{ item.id }}", "44"),
        ("x ${{ steps.extract.output.tables }}", 'x ["a",{"b":1.5}]'),
        ("${{ params.evil }}", "${{ params.day }}"),
        ("-${{ params.evil }}", "-${{ params.day }}"),
        ("$${{ params.day }}", "${{ params.day }}"),
        ("$$${{ x", "$${{ x"),
        ("$${{ ${{ params.n }}", "${{ 3"),
        ("${{ params.n }}${{ params.n }}$${{", "33${{"),
        ("$ {{ }} $x", "$ {{ }} $x"),
    ],
)
def test_render(text: str, value: Any) -> None:
    assert render(text, INPUTS) == value
    assert render({"k": [text, 1]}, INPUTS) == {"k": [value, 1]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("${{ params.no }}", '${{ params.no }} has no value: "no" is not set'),
        ("${{ steps.no.output }}", "step no made no output"),
        ("${{ steps.extract.output.no }}", 'the value has no "no"'),
        ("${{ steps.extract.output.tables.9 }}", 'the value.tables has no "9"'),
        ("${{ steps.extract.output.tables.-1 }}", 'has no "-1"'),
        ("${{ steps.extract.output.rows.x }}", 'the value.rows has no "x"'),
        ("${{ params.day.0 }}", 'has no "0"'),
    ],
)
def test_missing(text: str, reason: str) -> None:
    with pytest.raises(ReferenceMissing) as caught:
        render(["fine", text], INPUTS)
    assert reason in str(caught.value)


def test_no_item_outside_of_for_each() -> None:
    with pytest.raises(ReferenceMissing, match='no "item" here'):
        render("${{ item }}", {"params": {}})


def test_has_reference_counts_escapes() -> None:
    assert has_reference({"a": ["x", {"b": "${{ item }}"}]})
    assert has_reference("$${{")  # it has to be rendered, too
    assert not has_reference({"a": ["x", 1, None, "${x}", "{{ item }}"]})


def test_rewrite_keeps_all_else() -> None:
    text = "a $${{ b }} ${{ steps.x.output.y }} ${{ params.p }} $"
    changed = rewrite(text, lambda r: Reference("steps", "g/x", r.path) if r.root == "steps" else r)
    assert changed == "a $${{ b }} ${{ steps.g/x.output.y }} ${{ params.p }} $"


def test_work_becomes_text_where_the_kernel_wants_text() -> None:
    work = {
        "run": ["x", "${{ params.n }}", "${{ steps.extract.output.tables }}"],
        "env": {
            "N": "${{ params.n }}",
            "M": "${{ steps.extract.output }}",
            "S": {"secret": "pw"},
            "T": "${{ params.none }}",
        },
        "workdir": "${{ params.n }}",
    }
    assert render_work(work, INPUTS) == {
        "run": ["x", "3", '["a",{"b":1.5}]'],
        "env": {"N": "3", "M": '{"rows":7,"tables":["a",{"b":1.5}]}', "S": {"secret": "pw"}, "T": "null"},
        "workdir": "3",
    }
    assert render_work({"python": "a:b", "with": {"n": "${{ params.n }}"}}, INPUTS)["with"] == {"n": 3}


def test_a_value_cannot_name_a_secret() -> None:
    inputs = {"params": {"x": {"secret": "root-password"}}}
    assert render_work({"env": {"A": "${{ params.x }}"}}, inputs)["env"] == {"A": '{"secret":"root-password"}'}


@given(st.text(alphabet="${} aparms.ditem/-0", max_size=60))
def test_any_text(text: str) -> None:
    try:
        references = find(text)
    except ValueError as problem:
        assert str(problem)
        return
    same = rewrite(text, lambda reference: reference)
    assert find(same) == references
    assert rewrite(same, lambda reference: reference) == same


@given(st.text(alphabet="${} ab", max_size=40))
def test_an_escaped_text_comes_back(text: str) -> None:
    assert render(text.replace("${{", "$${{"), {}) == text
