"""Defects of batches in a fleet: who owns a task, what goes back, what is told, what is charged."""

from __future__ import annotations

from mutants import Mutant

BATCHES = "tests/fleet/test_batches_fleet.py::"
STORE = "tests/fleet/test_batches_store.py::"
UNIT = "tests/unit/test_batches.py::"
RULES = "tests/fleet/test_redis_rules.py::"
LUA = "kubemin/store/redis/lua"

ALL = (
    Mutant(
        "nothing is taken back from behind a long task of a batch",
        "kubemin/coordinator/fleet/batches.py",
        "        if stalled:",
        "        if False:",
        (f"{BATCHES}test_nothing_waits_behind_a_task_that_turns_out_long",),
    ),
    Mutant(
        "results that wait behind a long task are not told",
        "kubemin/coordinator/fleet/batches.py",
        "        if told:",
        "        if False:",
        (f"{STORE}test_of_a_stalled_batch_ends_are_told_and_the_rest_goes_back",),
    ),
    Mutant(
        "a batch that goes on is taken for a stalled one",
        "kubemin/coordinator/fleet/batches.py",
        "        if not whole or self._running(link) != token or all(number != token for _, _, number in held):",
        "        if False:",
        (f"{STORE}test_when_not_all_ends_can_be_read_only_what_was_received_goes_back",),
    ),
    Mutant(
        "results of a dead worker's batch are not told",
        "kubemin/coordinator/fleet/batches.py",
        "            pending.report(owner, read(path_of(self._folder, owner))[0])",
        "            pass",
        (f"{STORE}test_ends_of_a_dead_worker_count_before_its_death",),
    ),
    Mutant(
        "a task is started though its ticket is another's",
        "kubemin/worker/fleet/batch.py",
        "            if earlier == token:",
        "            if True:",
        (f"{UNIT}test_tickets_before_the_one_received_were_taken_back",),
    ),
    Mutant(
        "a result of an older batch is taken for one of this",
        "kubemin/outbox.py",
        "            if crc32(body, batch & 0xFFFFFFFF) != crc:",
        "            if crc32(body, batch & 0xFFFFFFFF) != crc and False:",
        (f"{UNIT}test_torn_results_and_those_of_an_older_batch_are_not_taken",),
    ),
    Mutant(
        "all of a lost batch are charged",
        f"{LUA}/taking_back.lua",
        "    if count == 1 then return M.charge(run, task, REQ.cause) end",
        "    do return M.charge(run, task, REQ.cause) end",
        (f"{RULES}test_of_a_batch_that_was_lost_nobody_is_charged_and_each_goes_alone",),
    ),
    Mutant(
        "a task given back keeps a number that another may have",
        f"{LUA}/claiming.lua",
        "  return max(call('INCR', P .. 'seq'), before + 1)",
        "  return before + 1",
        (f"{RULES}test_a_task_given_back_gets_a_number_that_no_other_has",),
    ),
)
