"""What follows from what, in whole graphs: conditions, groups, fan-outs, cascades."""

from __future__ import annotations

import msgspec
import pytest
from driving import ALICE, complete_all, drain, ended, finish, outcome, run_one, shape, start, steps, take
from engines import Engine
from graphs import join, node, workflow

from kubemin.model.graph import Retry
from kubemin.model.states import Cause, TaskState
from kubemin.store.base import WINDOW

FAILED = (TaskState.FAILED, Cause.EXIT)


def test_a_diamond_runs_in_order(engine: Engine) -> None:
    run = start(engine.store, workflow("w", node("a"), node("b", 0), node("c", 0), node("d", 1, 2)))
    assert complete_all(engine.store) == ["a", "b", "c", "d"]
    assert ended(engine.store, run) == ("completed", None)
    engine.check()


def test_a_failure_skips_what_needs_it_and_wakes_the_alert(engine: Engine) -> None:
    definition = workflow(
        "w", node("a"), node("b", 0), node("other"), node("alert", 1, when="failure"), node("after", 3),
        node("clean", 1, when="always"),
    )  # fmt: skip
    run = start(engine.store, definition)
    run_one(engine.store, "a", *FAILED)
    assert sorted(complete_all(engine.store)) == ["alert", "clean", "other"]
    assert shape(engine.store, run) == {
        "a": ("failed", "exit"), "b": ("skipped", "upstream"), "other": ("completed", None),
        "alert": ("completed", None), "after": ("skipped", "upstream"), "clean": ("completed", None),
    }  # fmt: skip
    assert ended(engine.store, run) == ("failed", "exit")


def test_an_alert_without_reason_does_not_stop_what_comes_after_it_softly(engine: Engine) -> None:
    run = start(
        engine.store,
        workflow("w", node("a"), node("alert", soft=(0,), when="failure"), node("b", soft=(1,)), node("hard", 1)),
    )
    assert sorted(complete_all(engine.store)) == ["a", "b"]
    assert shape(engine.store, run)["alert"] == ("skipped", "condition")
    assert shape(engine.store, run)["hard"] == ("skipped", "condition")
    assert ended(engine.store, run) == ("completed", None)


def test_a_cleanup_in_the_middle_does_not_hide_a_failure(engine: Engine) -> None:
    run = start(engine.store, workflow("w", node("a"), node("clean", 0, when="always"), node("b", 1)))
    run_one(engine.store, "a", *FAILED)
    assert complete_all(engine.store) == ["clean"]
    assert shape(engine.store, run)["b"] == ("skipped", "upstream")


# --- groups ---

GROUP = (node("a"), node("g/", 0), node("g/x", 1), node("g/y", 2), join("g", 1, 2, 3), node("b", 4))


def test_a_group_completes_with_its_members(engine: Engine) -> None:
    run = start(engine.store, workflow("w", *GROUP))
    assert complete_all(engine.store) == ["a", "g/x", "g/y", "b"]
    assert "g/" not in shape(engine.store, run)
    assert shape(engine.store, run)["g"] == ("completed", None)


@pytest.mark.parametrize("when", ["failure", "always"])
def test_a_groups_own_condition_judges_what_is_before_it_and_its_members_theirs(engine: Engine, when: str) -> None:
    """A remedy of several steps is a group with `when: failure`: its plain steps run, one after the other."""
    definition = workflow(
        "w", node("a"), node("g/", 0, when=when), node("g/x", 1), node("g/h/", 2), node("g/h/y", 3),
        node("g/h/told", 3, when="failure"), join("g/h", 3, 4, 5), node("g/z", 6), join("g", 1, 2, 6, 7, when=when),
        node("after", 8), node("alert", 8, when="failure"),
    )  # fmt: skip
    run = start(engine.store, definition)
    run_one(engine.store, "a", *FAILED)
    run_one(engine.store, "g/x")
    found = {claim.step: claim for claim in take(engine.store)}
    assert found.keys() == {"g/h/y", "g/h/told"}
    finish(engine.store, outcome(found["g/h/y"], *FAILED), outcome(found["g/h/told"]))
    assert complete_all(engine.store) == ["alert"]
    told = shape(engine.store, run)
    assert (told["g/z"], told["g"], told["after"]) == (
        ("skipped", "upstream"), ("failed", "group"), ("skipped", "upstream"),
    )  # fmt: skip


def test_what_comes_after_a_group_for_failures_sees_the_failure_before_it(engine: Engine) -> None:
    definition = workflow(
        "w", node("a"), node("g/", 0, when="failure"), node("g/x", 1), join("g", 1, 2, when="failure"), node("b", 3)
    )
    run = start(engine.store, definition)
    run_one(engine.store, "a", *FAILED)
    assert complete_all(engine.store) == ["g/x"]
    assert shape(engine.store, run)["g"] == ("completed", None)
    assert shape(engine.store, run)["b"] == ("skipped", "upstream")
    assert ended(engine.store, run) == ("failed", "exit")


def test_a_group_fails_with_a_member(engine: Engine) -> None:
    run = start(engine.store, workflow("w", *GROUP))
    run_one(engine.store, "a")
    run_one(engine.store, "g/x", *FAILED)
    assert complete_all(engine.store) == []
    assert shape(engine.store, run) == {
        "a": ("completed", None), "g/x": ("failed", "exit"), "g/y": ("skipped", "upstream"), "g": ("failed", "group"),
        "b": ("skipped", "upstream"),
    }  # fmt: skip
    assert ended(engine.store, run) == ("failed", "exit")


def test_a_group_is_skipped_as_a_whole(engine: Engine) -> None:
    run = start(engine.store, workflow("w", *GROUP))
    run_one(engine.store, "a", *FAILED)
    states = shape(engine.store, run)
    assert {states[step] for step in ("g", "g/x", "g/y", "b")} == {("skipped", "upstream")}
    conditional = (
        node("a"),
        node("g/", 0, when="failure"),
        node("g/x", 1),
        join("g", 1, 2, when="failure"),
        node("b", 3),
    )
    run = start(engine.store, workflow("w", *conditional))
    run_one(engine.store, "a")
    assert set(shape(engine.store, run).values()) == {("completed", None), ("skipped", "condition")}
    assert ended(engine.store, run) == ("completed", None)


def test_a_member_without_reason_to_run_does_not_fail_its_group(engine: Engine) -> None:
    nodes = (node("g/"), node("g/x", 0), node("g/alert", 1, when="failure"), join("g", 0, 1, 2))
    run = start(engine.store, workflow("w", *nodes))
    complete_all(engine.store)
    assert shape(engine.store, run)["g"] == ("completed", None)


# --- fan-outs ---


def test_a_fan_out_gives_each_item_a_task_and_the_outputs_in_order(engine: Engine) -> None:
    work = {"python": "a:b", "args": ["${{ item }}"]}
    run = start(engine.store, workflow("w", node("f", items=["x", "y", "z"], work=work), node("after", 0)))
    claims = take(engine.store)
    assert steps(claims) == ["f[0]", "f[1]", "f[2]"]
    assert all(claim.inputs is not None for claim in claims)
    finish(engine.store, *(outcome(claim, output=claim.step) for claim in reversed(claims)))
    assert complete_all(engine.store) == ["after"]
    assert engine.store.outputs([run])[run]["f"] == ["f[0]", "f[1]", "f[2]"]
    assert [task.step for task in engine.store.run(run).tasks] == ["f", "f[0]", "f[1]", "f[2]", "after"]


def test_items_may_come_from_an_output(engine: Engine) -> None:
    fan = node("f", 0, items="${{ steps.a.output.tables }}", refs=(0,), work={"run": ["${{ item.name }}"]})
    run = start(
        engine.store, workflow("w", node("a"), fan, node("sum", 1, refs=(1,), work={"run": ["${{ steps.f.output }}"]}))
    )
    run_one(engine.store, "a", output={"tables": [{"name": "t"}, {"name": "u"}]})
    claims = take(engine.store)
    assert [b'"item":{"name":"t"}' in bytes(claims[0].inputs or b""), len(claims)] == [True, 2]
    finish(engine.store, outcome(claims[0], output=1), outcome(claims[1]))
    (claim,) = take(engine.store)
    assert b'"f":[1,null]' in bytes(claim.inputs or b"")
    finish(engine.store, outcome(claim))
    assert ended(engine.store, run) == ("completed", None)


@pytest.mark.parametrize(("items", "value"), [("${{ steps.a.output.no }}", {}), ("${{ steps.a.output }}", {"n": 1})])
def test_items_that_are_no_list_fail_the_step(engine: Engine, items: str, value: object) -> None:
    run = start(engine.store, workflow("w", node("a"), node("f", 0, items=items, refs=(0,)), node("b", 1)))
    run_one(engine.store, "a", output=value)
    assert shape(engine.store, run)["f"] == ("failed", "reference")
    assert shape(engine.store, run)["b"] == ("skipped", "upstream")
    task = next(task for task in engine.store.run(run).tasks if task.step == "f")
    assert task.message


def test_an_item_s_task_does_not_carry_the_list(engine: Engine) -> None:
    """Only what its work refers to, or the packets of a fan-out would grow with the square of its length."""
    words = [f"word-{n:04}" for n in range(500)]
    work = {"run": ["echo", "${{ item }}", "${{ params.greeting }}"]}
    each = node("each", items="${{ params.words }}", work=work)
    definition = workflow("greet", each, params={"words": {}, "greeting": {}})
    start(engine.store, definition, params={"words": words, "greeting": "hello"})
    [claim] = take(engine.store, 1)
    inputs = msgspec.json.decode(bytes(claim.inputs or b""))
    assert (inputs["item"], inputs["params"]) == ("word-0000", {"greeting": "hello"})
    assert len(bytes(claim.inputs or b"")) < 500


def test_no_items_no_tasks(engine: Engine) -> None:
    run = start(engine.store, workflow("w", node("f", items=[]), node("b", 0)))
    assert complete_all(engine.store) == ["b"]
    assert engine.store.outputs([run]) == {run: {"f": []}}


def test_a_failed_item_does_not_stop_the_others(engine: Engine) -> None:
    run = start(engine.store, workflow("w", node("f", items=[0, 1, 2], retry=Retry(1, delay=0)), node("b", 0)))
    claims = take(engine.store)
    finish(engine.store, outcome(claims[1], *FAILED))
    assert engine.store.promote() == 1
    (again,) = take(engine.store)
    assert (again.step, again.attempt) == ("f[1]", 2)
    finish(engine.store, outcome(again, *FAILED), outcome(claims[0]), outcome(claims[2]))
    assert shape(engine.store, run) == {
        "f": ("failed", "group"), "f[0]": ("completed", None), "f[1]": ("failed", "exit"), "f[2]": ("completed", None),
        "b": ("skipped", "upstream"),
    }  # fmt: skip
    assert ended(engine.store, run) == ("failed", "exit")


def test_max_parallel_holds(engine: Engine) -> None:
    run = start(engine.store, workflow("w", node("f", items=list(range(7)), max_parallel=2)))
    seen = []
    while claims := take(engine.store):
        assert len(claims) <= 2
        (more,) = [take(engine.store)]
        assert more == []
        seen += [claim.step for claim in claims]
        finish(engine.store, *map(outcome, claims))
    assert len(seen) == 7 and ended(engine.store, run) == ("completed", None)


def test_a_wide_fan_out_keeps_few_records_ready_and_all_workers_busy(engine: Engine) -> None:
    count = 5000
    run = start(engine.store, workflow("w", node("f", items=list(range(count))), node("b", 0)))
    assert len(engine.store.run(run).tasks) <= WINDOW + 2
    (queue,) = engine.store.queues()
    assert queue.length == count
    busy = take(engine.store, 300)
    while len(busy) < 300:  # one call of the fleet's engine refills the queue as far as it may write
        some = take(engine.store, 300 - len(busy))
        assert some
        busy += some
    finish(engine.store, *map(outcome, busy))
    assert len(complete_all(engine.store)) == count - 300 + 1
    assert len(engine.store.outputs([run])[run]["f"]) == count
    engine.check()


def test_a_fan_out_goes_on_after_a_crash_where_it_was(engine: Engine) -> None:
    count = 3 * WINDOW
    run = start(engine.store, workflow("w", node("f", items=list(range(count))), node("b", 0)))
    drain(engine.store)
    first = take(engine.store, WINDOW)  # others have taken their places in the queue
    engine.reopen()
    drain(engine.store)
    finish(engine.store, *map(outcome, first))
    engine.reopen()
    rest = complete_all(engine.store)
    assert sorted([*(claim.step for claim in first), *rest]) == sorted([*(f"f[{n}]" for n in range(count)), "b"])
    assert ended(engine.store, run) == ("completed", None)
    engine.check()


# --- cascades ---


def test_a_chain_of_skips_is_a_loop_and_goes_on_after_a_crash(engine: Engine) -> None:
    length = 5000
    chain = [node("s0"), *(node(f"s{n}", n - 1) for n in range(1, length)), node("alert", length - 1, when="failure")]
    run = start(engine.store, workflow("w", *chain))
    drain(engine.store)
    run_one(engine.store, "s0", *FAILED)
    assert ended(engine.store, run) == ("running", None)
    engine.store.advance()
    engine.reopen()
    assert complete_all(engine.store) == ["alert"]
    states = shape(engine.store, run)
    assert states[f"s{length - 1}"] == ("skipped", "upstream")
    assert ended(engine.store, run) == ("failed", "exit")
    engine.check()


def test_many_dependents_are_told_in_slices(engine: Engine) -> None:
    run = start(
        engine.store, workflow("w", node("a"), *(node(f"s{n}", 0) for n in range(3000)), node("end", *range(1, 3001)))
    )
    drain(engine.store)
    run_one(engine.store, "a")
    assert len(complete_all(engine.store)) == 3001
    assert ended(engine.store, run) == ("completed", None)
    engine.check()


def test_a_failed_step_in_another_branch_does_not_stop_this_one(engine: Engine) -> None:
    run = start(engine.store, workflow("w", node("a"), node("b"), node("c", 1)))
    claims = take(engine.store)
    finish(engine.store, outcome(claims[0], *FAILED), outcome(claims[1]), owner=ALICE)
    assert complete_all(engine.store) == ["c"]
    assert ended(engine.store, run) == ("failed", "exit")
