"""Defects of a fleet's connection to Redis, and of what its nodes make of outages and moves."""

from __future__ import annotations

from mutants import Mutant

CLIENT = "kubemin/store/redis/client.py"
REFUSALS = "tests/fleet/test_refusals_fleet.py::"
WAITS = "tests/fleet/test_waits.py::"
REPLIES = "tests/fleet/test_lost_replies.py::"
TOPOLOGIES = "tests/fleet/test_redis_topologies.py::"
PROMISES = "tests/fleet/test_promises_fleet.py::"

ALL = (
    Mutant(
        "who is refused asks again at once",
        CLIENT,
        "            self._calls.failed()",
        "            pass",
        (f"{REFUSALS}test_a_refusing_server_is_waited_for[readonly]",),
    ),
    Mutant(
        "scripts begin while the slot leaves key by key",
        CLIENT,
        'return guarded(loaded) if self.address.kind == "cluster" else loaded',
        "return loaded",
        (f"{TOPOLOGIES}test_scripts_change_nothing_while_the_slot_leaves_key_by_key[redis]",),
    ),
    Mutant(
        "a wait takes what stands in a paused queue",
        "kubemin/store/redis/lua/waited.lua",
        " and call('EXISTS', held_list) == 0",
        "",
        (f"{WAITS}test_a_wait_takes_nothing_of_a_paused_queue[redis]",),
    ),
    Mutant(
        "a wait that found nothing is not told again when its reply is lost",
        "kubemin/store/redis/lua/claim_next.lua",
        "if ARGV[9] == '?' and raw",
        "if raw",
        (f"{WAITS}test_a_wait_whose_reply_is_lost_is_told_again_and_runs_nowhere_later[redis]",),
    ),
    Mutant(
        "what was popped is asked for by name no more",
        "kubemin/store/redis/claims.py",
        "if entry is not None and not life.taken:",
        "if False:",
        (f"{WAITS}test_what_is_no_task_does_not_keep_a_wait_from_what_it_popped[redis]",),
    ),
    Mutant(
        "claims are dropped when something after their reply fails",
        "kubemin/store/redis/claims.py",
        "        life.taken += claims\n        life.unanswered = None\n",
        "        life.taken = []\n        life.unanswered = None\n",
        (f"{REPLIES}test_what_follows_a_reply_may_fail",),
    ),
    Mutant(
        "a fenced step is told as cancelled",
        "kubemin/worker/execute.py",
        "            ended.state = None  # fenced",
        "            pass  # fenced",
        ("tests/integration/test_worker_process.py::test_a_fenced_step_is_ended_and_not_told_as_cancelled",),
    ),
    Mutant(
        "a Python step has the grace of a command",
        "kubemin/coordinator/link.py",
        "self.kill_after = KILL_AFTER_PYTHON if within else KILL_AFTER_COMMAND",
        "self.kill_after = KILL_AFTER_COMMAND",
        (f"{PROMISES}test_a_python_step_that_ignores_its_cancel_is_killed",),
    ),
)
