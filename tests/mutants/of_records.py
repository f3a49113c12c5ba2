"""Defects of what keeps records and runs apart: the id of a fleet, versions, durability, spoilt records, onFailure."""

from __future__ import annotations

from mutants import Mutant

REDIS = "kubemin/store/redis"
LUA = f"{REDIS}/lua"
IDENTITY = "tests/fleet/test_identity_fleet.py::"
DURABILITY = "tests/fleet/test_durability_fleet.py::"
VERSIONS = "tests/fleet/test_versions_fleet.py::"
PLAIN = "tests/fleet/test_plain_steps.py::"
SPOILT = "tests/fleet/test_spoilt_fleet.py::"
ONFAILURE = "tests/fleet/test_onfailure_fleet.py::"

ALL = (
    Mutant(
        "a stranger's server is taken for ours",
        f"{REDIS}/identity.py",
        "if own and other and own != other:",
        "if False:",
        (f"{IDENTITY}test_a_node_of_another_fleet_is_refused_and_says_how_to_go_on",),
    ),
    Mutant(
        "a flushed server keeps its life",
        f"{REDIS}/identity.py",
        "return bool(own) and known != own",
        "return bool(own) and not found",
        (f"{IDENTITY}test_after_a_flushall_the_fleet_goes_on_and_says_what_is_gone",),
    ),
    Mutant(
        "a new connection confirms what another has written",
        "kubemin/api/fleet.py",
        "if store.client.serial == serial:",
        "if True:",
        (f"{DURABILITY}test_cut_off_in_the_wait_the_request_is_repeated_and_counts_once[redis]",),
    ),
    Mutant(
        "a due time stands under the writer's version",
        f"{LUA}/dues.lua",
        "M.mark((run or task).v)",
        "M.mark(REQ.version)",
        (f"{VERSIONS}test_old_work_that_the_new_touches_stays_old[redis]",),
    ),
    Mutant(
        "a key is handed to a run of a newer version",
        f"{LUA}/handing.lua",
        "if run and M.is_newer(run) then return M.leave_ripple(run, 'grant', 0, 0) end",
        "",
        (f"{VERSIONS}test_a_concurrency_key_passes_between_them[redis]",),
    ),
    Mutant(
        "a newer record in an older list is dropped",
        f"{LUA}/claiming.lua",
        "if M.leave(id, idx, pending, found and found[2]) then return nil end",
        "",
        (f"{VERSIONS}test_a_newer_record_in_an_older_list_goes_to_its_own[redis]",),
    ),
    Mutant(
        "a spoilt record fails the whole script",
        f"{LUA}/settle.lua",
        "local done, one, two = pcall(act, ...)",
        "local done, one, two = true, act(...)",
        (f"{SPOILT}test_any_bytes_in_a_record_end_its_run_alone[redis-running-run]",),
    ),
    Mutant(
        "what runs of a run that was put aside counts",
        f"{LUA}/settling.lua",
        "if M.is_aside(run) then return false end",
        "",
        (f"{SPOILT}test_what_runs_of_it_is_stopped_and_refused[redis]",),
    ),
    Mutant(
        "a key is lost with its deleted holder",
        f"{LUA}/stopping.lua",
        "return known and known.s < COMPLETED and holder or nil",
        "return holder",
        (f"{SPOILT}test_a_concurrency_key_is_not_lost_with_its_holder[redis]",),
    ),
    Mutant(
        "a call of onFailure has no key",
        f"{REDIS}/hooks.py",
        'key=f"on-failure/{run}/{turn}"',
        "key=None",
        (f"{ONFAILURE}test_killed_between_the_end_and_the_call_there_is_one[failhook.paid]",),
    ),
    Mutant(
        "a call of onFailure is not owed",
        f"{LUA}/ending.lua",
        "if REQ.hook then call('RPUSH'",
        "if false then call('RPUSH'",
        (f"{ONFAILURE}test_killed_between_the_end_and_the_call_there_is_one[worker.settled]",),
    ),
    Mutant(
        "steps of a run that is being stopped go on",
        f"{LUA}/writing.lua",
        "local plain = run.g == RELEASED and not run.st",
        "local plain = run.g == RELEASED",
        (f"{PLAIN}test_a_run_that_is_stopped_takes_no_plain_end[redis]",),
    ),
    Mutant(
        "what a task has heard is forgotten by its short form",
        f"{LUA}/forms.lua",
        "if not plain[name] then return pack(task) end",
        "",
        (f"{PLAIN}test_bad_news_is_heard_between_plain_ends[redis]",),
    ),
    Mutant(
        "a count that is gone is taken for nothing to count",
        f"{LUA}/core.lua",
        "if live == '' then return run.l end",
        "if not live or live == '' then return run.l end",
        (f"{PLAIN}test_a_count_that_somebody_deleted_ends_its_run_alone[redis]",),
    ),
)
