"""Defects of the move from a node's own store into its fleet's: twice, too early, or with something left behind."""

from __future__ import annotations

from mutants import Mutant

MOVING = "tests/store/test_moving.py::"
SQLITE = "kubemin/store/sqlite/moving.py"
REDIS = "kubemin/store/redis"
LUA = "kubemin/store/redis/lua"

ONCE = (
    Mutant(
        "no tombstone is asked for",
        f"{LUA}/arriving.lua",
        " or call('HEXISTS', ARRIVED, id) == 1 end",
        " end",
        (f"{MOVING}test_a_run_that_was_pruned_meanwhile_does_not_come_back",),
    ),
    Mutant(
        "a part that comes late is written",
        f"{LUA}/unload.lua",
        "if call('EXISTS', KEYS[1]) == 1 or call('HEXISTS', KEYS[4], REQ.id) == 1 then return 0 end",
        "",
        (f"{MOVING}test_a_part_that_comes_late_changes_nothing",),
    ),
    Mutant(
        "a run becomes visible without all of its parts",
        f"{LUA}/arrive.lua",
        "if call('HLEN', KEYS[3]) ~= REQ.tasks then return M.reply('-') end",
        "",
        (f"{MOVING}test_parts_that_the_server_lost_are_sent_again",),
    ),
    Mutant(
        "a run whose task runs moves",
        SQLITE,
        "if run.id in claimed or not self._may_go(run):",
        "if not self._may_go(run):",
        (f"{MOVING}test_who_waits_for_a_key_does_not_pass_its_holder",),
    ),
    Mutant(
        "what is packed stays where the engine finds it",
        SQLITE,
        'for query in ("delete_tasks_of", "delete_tails_of", "delete_payload"):',
        'for query in ("delete_tails_of", "delete_payload"):',
        (f"{MOVING}test_nothing_happens_to_a_run_that_is_carried",),
    ),
)

WHOLE = (
    Mutant(
        "tokens begin anew",
        f"{LUA}/arriving.lua",
        "if tonumber(call('GET', P .. 'seq') or '0') < floor then",
        "if false then",
        (f"{MOVING}test_tokens_rise_where_a_fan_out_is_made_anew",),
    ),
    Mutant(
        "attempts are forgotten",
        f"{REDIS}/arrivals.py",
        '"a": task.used or None, ',
        "",
        (f"{MOVING}test_attempts_and_the_retrys_due_time",),
    ),
    Mutant(
        "what a step heard from its needs is forgotten",
        f"{REDIS}/arrivals.py",
        "return task.heard | (SETTLED",
        "return (SETTLED",
        (f"{MOVING}test_a_failure_before_the_move_is_still_one_after_it",),
    ),
    Mutant(
        "a retry is never due",
        f"{LUA}/building.lua",
        "if run.mv then M.set_due(task, task.d) end",
        "local _ = nil",
        (f"{MOVING}test_attempts_and_the_retrys_due_time",),
    ),
    Mutant(
        "children that were queued are left out",
        f"{LUA}/building.lua",
        "local last = run.mv or run.N",
        "local last = run.N",
        (f"{MOVING}test_a_fan_out_goes_on_with_the_children_made_so_far",),
    ),
    Mutant(
        "a deadline counts from the arrival",
        f"{REDIS}/arrivals.py",
        '"dl": deadline,',
        "",
        (f"{MOVING}test_a_deadline_counts_from_the_first_start",),
    ),
    Mutant(
        "instants of one clock are taken for another's",
        f"{REDIS}/arrivals.py",
        '"d": None if task.due is None else task.due + shift,',
        '"d": task.due,',
        (f"{MOVING}test_instants_to_come_are_of_the_fleets_clock",),
    ),
    Mutant(
        "who waits for a concurrency key passes its holder",
        SQLITE,
        "or run.due is not None or not self._held(run.ckey)",
        "or True",
        (f"{MOVING}test_who_waits_for_a_key_does_not_pass_its_holder",),
    ),
)

ALL = ONCE + WHOLE
