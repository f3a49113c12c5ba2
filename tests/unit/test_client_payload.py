"""What a client accepts as arguments, and what it makes of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubemin import clock
from kubemin.api import options
from kubemin.api.inline import map_definition
from kubemin.api.payload import Template, check_json, encode_json, function_path, slices
from kubemin.errors import Invalid
from kubemin.model.ids import run_ids
from kubemin.model.records import Submission
from kubemin.model.states import Kind

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
NOT_JSON = [
    float("nan"),
    float("inf"),
    b"bytes",
    {1},
    {1: 2},
    {None: 1},
    object(),
    datetime.now(),
    [1, [2, {3}]],
    {"a": {"b": b""}},
    1j,
    range(3),
    "\ud800",
]


def decoded(bodies: list[bytes]) -> list[Submission]:
    return [msgspec.json.decode(body, type=Submission) for body in bodies]


@given(JSON)
def test_json_goes_through_unchanged(value: Any) -> None:
    body = Template("m:f").one("r1", [value], {"k": value})
    work = msgspec.json.decode(body, type=Submission).work
    assert work is not None and work["args"] == [value] and work["with"] == {"k": value}


@pytest.mark.parametrize("value", NOT_JSON, ids=lambda value: type(value).__name__)
def test_what_json_cannot_hold_is_refused(value: Any) -> None:
    for attempt in (
        lambda: Template("m:f").one("r1", [value], {}),
        lambda: Template("m:f").one("r1", [], {"k": value}),
        lambda: Template("m:f").many(["r1"], [((value,), {})]),
        lambda: Template("m:f").many(["r1", "r2"], [((1,), {}), ((1,), {"k": value})]),
        lambda: encode_json(value, "params"),
    ):
        with pytest.raises(Invalid):
            attempt()


def test_the_message_says_where() -> None:
    with pytest.raises(Invalid, match=r"items\[1\]\[1\].rows.deep\[0\]: a set has no JSON form"):
        Template("m:f").many(["a", "b"], [((1,), {}), ((1,), {"rows": {"deep": [{1}]}})])


def test_nesting_is_bounded() -> None:
    value: Any = 1
    for _ in range(5000):
        value = [value]
    with pytest.raises(Invalid, match="nested deeper"):
        check_json(value, "args")


@pytest.mark.parametrize(
    "calls", [[1], [(1, {})], [((1,),)], [((1,), {}, 3)], [((1,), [])], ["ab"], [({1}, {})]], ids=repr
)
def test_items_have_to_be_pairs(calls: Any) -> None:
    with pytest.raises(Invalid, match="pair"):
        Template("m:f").many(["r1"], calls)


def test_what_is_common_is_in_every_submission() -> None:
    template = Template("m:f", queue="etl", timeout=5.0, retry={"limit": 2}, start_at=7)
    one, two = decoded(template.many(["a", "b"], [((1,), {}), ([], {"x": 2})]))
    assert (one.id, two.id) == ("a", "b")
    assert one.work == {"python": "m:f", "args": [1], "with": {}} and two.work == {
        "python": "m:f",
        "args": [],
        "with": {"x": 2},
    }
    for submission in (one, two):
        assert (submission.queue, submission.timeout, submission.retry, submission.start_at) == (
            "etl",
            5.0,
            {"limit": 2},
            7,
        )


def test_a_payload_is_bounded() -> None:
    with pytest.raises(Invalid, match=r"items\[1\].*at most"):
        Template("m:f").many(["a", "b"], [((1,), {}), (("x" * 2_000_000,), {})])
    with pytest.raises(Invalid, match="at most"):
        Template("m:f").one("a", ["x" * 2_000_000], {})


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 10), st.integers(1, 100))
def test_slices_keep_everything_in_order(sizes: list[int], count: int, size: int) -> None:
    bodies = [bytes(n) for n in sizes]
    parts = list(slices(bodies, count, size))
    assert [body for part in parts for body in part] == bodies
    assert all(1 <= len(part) <= count for part in parts)
    assert all(sum(map(len, part)) <= size or len(part) == 1 for part in parts)


def local() -> Callable[[], None]:
    def inner() -> None: ...

    return inner


def test_function_paths() -> None:
    assert function_path("a.b:c") == "a.b:c"
    assert function_path(time.sleep) == "time:sleep"
    for bad in ("a.b", "a:b:c", "a b:c", "", ":c", "a:", "a.:c"):
        with pytest.raises(Invalid, match=r"package.module:function"):
            function_path(bad)
    with pytest.raises(Invalid, match="local or a lambda"):
        function_path(local())
    with pytest.raises(Invalid, match="local or a lambda"):
        function_path(lambda: None)
    with pytest.raises(Invalid, match="import"):
        function_path(3)  # type: ignore[arg-type]


def test_a_function_of_the_main_script_is_refused() -> None:
    def main_function() -> None: ...

    main_function.__module__, main_function.__qualname__ = "__main__", "main_function"
    with pytest.raises(Invalid, match="main script"):
        function_path(main_function)


def test_encoding_an_item_costs_less_than_two_microseconds() -> None:
    """The design's figure, with room for a busy machine: the best of several, ids included."""
    calls = [((n,), {"rows": 2}) for n in range(20_000)]
    template, best = Template("m:f"), 9.0
    for _ in range(7):
        begun = time.process_time()
        template.many(list(run_ids(len(calls))), calls)
        best = min(best, time.process_time() - begun)
    print(f"{best / len(calls) * 1e6:.2f} µs an item")
    assert best / len(calls) < 4e-6


# --- options ---


def test_durations_and_instants() -> None:
    assert options.seconds("5m", "d") == options.seconds(300, "d") == options.seconds(timedelta(minutes=5), "d") == 300
    for bad in ("5", -1, float("nan"), float("inf"), None):
        with pytest.raises(Invalid):
            options.seconds(bad, "d")  # type: ignore[arg-type]
    at = datetime(2026, 11, 24, 10, tzinfo=UTC)
    assert options.start_at(None, at) == options.start_at(None, "2026-11-24T10:00:00Z") == 1_795_514_400_000_000
    assert options.start_at(None, "2026-11-24T11:00+01:00") == 1_795_514_400_000_000
    local = datetime(2026, 11, 24, 10)
    assert options.start_at(None, "2026-11-24T10:00") == options.start_at(None, local) == round(local.timestamp() * 1e6)
    delayed = options.start_at("1h", None)
    assert delayed is not None and abs(delayed - clock.wall() - 3_600_000_000) < 5_000_000
    assert options.start_at(None, None) is None
    with pytest.raises(Invalid, match="either"):
        options.start_at(1, at)
    for bad_at in ("tomorrow", "2026-13-01T00:00", "2026-11-24T25:00", "10:00", 5):
        with pytest.raises(Invalid):
            options.start_at(None, bad_at)  # type: ignore[arg-type]


def test_since() -> None:
    ago = options.past("1h", "since")
    assert ago is not None and abs(clock.wall() - ago - 3_600_000_000) < 5_000_000
    assert options.past("2026-11-24T10:00Z", "since") == 1_795_514_400_000_000
    with pytest.raises(Invalid, match="neither a duration"):
        options.past("yesterday", "since")


def test_queues_that_are_no_name() -> None:
    for bad in (5, ["etl"], "\udcff", ""):
        with pytest.raises(Invalid, match="queue"):
            options.queue_name(bad)  # type: ignore[arg-type]


def test_retry_policies() -> None:
    assert options.retry_policy(None) is None
    assert options.retry_policy(3) == {"limit": 3}
    policy = options.retry_policy({"limit": 2, "delay": "1s", "maxDelay": "1m", "factor": 3})
    assert policy == {"limit": 2, "delay": 1.0, "factor": 3.0, "max_delay": 60.0}
    for bad in ({"limit": "x"}, {}, {"limit": 1, "dealy": 1}, -1, {"limit": -1}, "3", [3], True):
        with pytest.raises(Invalid, match="retry"):
            options.retry_policy(bad)


# --- map ---


def test_a_map_is_one_definition_for_all_its_items() -> None:
    each, then = Template("m:f", queue="etl", retry={"limit": 2}), Template("m:g")
    definition = map_definition(each, then)
    assert definition.hash == map_definition(each, then).hash != map_definition(each, None).hash
    first, second = definition.graph.nodes
    assert (first.kind, first.queue, first.items) == (Kind.FANOUT, "etl", "${{ params.items }}")
    assert first.work == {"python": "m:f", "args": ["${{ item }}"]} and first.retry is not None
    assert second.work == {"python": "m:g", "args": ["${{ steps.each.output }}"]} and second.refs == (0,)
    assert definition.graph.workflow == "map-f"
