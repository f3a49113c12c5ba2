"""Defects of the local engine: transitions, claims, accepting, duties, the database."""

from __future__ import annotations

from mutants import Mutant

SQLITE = "kubemin/store/sqlite"
ACCEPTING = "tests/store/test_accepting.py::"
WORKING = "tests/store/test_working.py::"
CONTROL = "tests/store/test_control.py::"
GRAPHS = "tests/store/test_graphs_run.py::"
DUTIES = "tests/store/test_duties.py::"
FAULTS = "tests/store/test_sqlite_faults.py::"
SCHEDULE = "tests/unit/test_schedule.py::"

FENCING = (
    Mutant(
        "no token compare",
        f"{SQLITE}/outcomes.py",
        "if held is None or held.token != outcome.token or held.owner != key:",
        "if held is None or held.owner != key:",
        (f"{WORKING}test_what_is_given_back_is_next_again[sqlite-step]",),
    ),
    Mutant(
        "no owner compare",
        f"{SQLITE}/outcomes.py",
        "if held is None or held.token != outcome.token or held.owner != key:",
        "if held is None or held.token != outcome.token:",
        (f"{WORKING}test_one_outcome_is_accepted_and_a_repeat_is_known_as_one[sqlite-step]",),
    ),
    Mutant(
        "a repeated outcome is not known as one",
        f"{SQLITE}/outcomes.py",
        "task.flags |= SETTLED",
        "pass",
        (f"{WORKING}test_one_outcome_is_accepted_and_a_repeat_is_known_as_one[sqlite-step]",),
    ),
    Mutant(
        "a retired incarnation may claim",
        f"{SQLITE}/claims.py",
        "if self.s.owners.retired(key):",
        "if False:",
        (f"{WORKING}test_a_retired_worker_claims_and_finishes_nothing[sqlite]",),
    ),
    Mutant(
        "a death retires nobody",
        f"{SQLITE}/owners.py",
        'self._session.write("retire_owner", (self._session.now, key))',
        "pass",
        (f"{WORKING}test_a_retired_worker_claims_and_finishes_nothing[sqlite]",),
    ),
    Mutant(
        "an attempt is known as settled because the one before it was",
        f"{SQLITE}/claims.py",
        "        task.flags &= ~SETTLED",
        "        pass",
        (f"{WORKING}test_a_late_outcome_of_a_second_attempt_is_not_taken_for_a_repeat_of_the_first[sqlite]",),
    ),
    Mutant(
        "a paused queue is served",
        f"{SQLITE}/claims.py",
        "if queue not in self.s.paused:",
        "if True:",
        (f"{WORKING}test_a_paused_queue_hands_out_nothing[sqlite]",),
    ),
    Mutant(
        "a single task's own time-out is ignored",
        f"{SQLITE}/claims.py",
        "self.task_timeout if more.timeout is None else more.timeout",
        "self.task_timeout",
        (f"{WORKING}test_a_single_task_has_a_retry_and_a_timeout_too[sqlite]",),
    ),
    Mutant(
        "a delayed run does not look at its concurrency key",
        f"{SQLITE}/duties.py",
        "        self.intake.acquire(run, rule)",
        "        pass",
        (f"{CONTROL}test_a_delayed_run_takes_its_key_when_it_is_due[sqlite]",),
    ),
    Mutant(
        "publishing again forgets which slots were fired",
        f"{SQLITE}/duties.py",
        "mark = old[3] if old is not None and same_schedule else self.s.now",
        "mark = self.s.now",
        (f"{DUTIES}test_a_schedule_that_changed_starts_from_now[sqlite]",),
    ),
    Mutant(
        "a workflow whose file is gone stays published",
        f"{SQLITE}/duties.py",
        '            self.s.write("delete_workflow", (name,))',
        "            pass",
        (f"{DUTIES}test_publishing_tells_what_changed[sqlite]",),
    ),
    Mutant(
        "the key of a run that was dropped is kept",
        f"{SQLITE}/duties.py",
        'self.s.write_many("delete_key", ((row[2], row[0]) for row in gone if row[2] is not None))',
        "pass",
        (f"{DUTIES}test_a_key_is_forgotten_with_its_run_only[sqlite]",),
    ),
    Mutant(
        "parameters of a run that was dropped are kept",
        f"{SQLITE}/duties.py",
        'self.s.write_many("delete_payload", ((row[0],) for row in gone))',
        "pass",
        (f"{DUTIES}test_nothing_is_left_of_a_run_that_was_dropped[sqlite]",),
    ),
    Mutant(
        "a definition that was dropped is still accepted",
        f"{SQLITE}/duties.py",
        "            self.s.plans.drop(digest)",
        "            pass",
        (f"{DUTIES}test_definitions_that_nothing_refers_to_are_dropped[sqlite]",),
    ),
    Mutant(
        "a batch that was never sealed is kept",
        f"{SQLITE}/duties.py",
        'self.s.write("prune_unsealed", (now - max(minimum, KEPT_FOR_REPEATS),))',
        "pass",
        (f"{DUTIES}test_owners_and_batches_are_forgotten_in_time[sqlite]",),
    ),
    Mutant(
        "that a batch was sealed is kept",
        f"{SQLITE}/duties.py",
        'self.s.write("prune_sealed", (now - max(minimum, KEPT_FOR_REPEATS),))',
        "pass",
        (f"{DUTIES}test_owners_and_batches_are_forgotten_in_time[sqlite]",),
    ),
    Mutant(
        "any number of runs is kept",
        f"{SQLITE}/duties.py",
        "row[1] <= aged or place < excess",
        "row[1] <= aged",
        (f"{DUTIES}test_the_oldest_go_when_there_are_too_many_but_none_within_the_minimum[sqlite]",),
    ),
    Mutant(
        "of missed slots the oldest fires",
        "kubemin/leader/schedule.py",
        "return missed[-1:]",
        "return missed[:1]",
        ("tests/unit/test_missed_slots.py::test_missed_policy[once-slots2-fired2]",),
    ),
    Mutant(
        "tokens are not reserved durably",
        f"{SQLITE}/session.py",
        'self.write("reserve", (self._reserved,))',
        "pass",
        (f"{ACCEPTING}test_tokens_are_never_handed_out_twice[sqlite]",),
    ),
    Mutant(
        "blame is taken without its token",
        f"{SQLITE}/losses.py",
        "(blame.run, blame.idx, blame.token) == (*task_key, held.token)",
        "(blame.run, blame.idx) == task_key",
        (f"{WORKING}test_blame_with_an_old_token_charges_nobody[sqlite]",),
    ),
    Mutant(
        "anybody may give a claim back",
        f"{SQLITE}/losses.py",
        "return held is not None and held.owner == owner and held.token == token",
        "return held is not None and held.token == token",
        (f"{WORKING}test_what_is_given_back_is_next_again[sqlite-step]",),
    ),
)

CHARGING = (
    Mutant(
        "a single task that is given back goes to the end of its queue",
        f"{SQLITE}/queries.sql",
        "UPDATE tasks SET state = 1, started = NULL WHERE run = ? AND idx = 0;",
        "UPDATE tasks SET state = 1, started = NULL, seq = seq + 1000000 WHERE run = ? AND idx = 0;",
        (f"{WORKING}test_what_is_given_back_is_next_again[sqlite-single]",),
    ),
    Mutant(
        "a step that is given back goes to the end of its queue",
        f"{SQLITE}/losses.py",
        "self.settler.requeue(self.outcomes.run_of(task), task)",
        "self.settler.enqueue(self.outcomes.run_of(task), task)",
        (f"{WORKING}test_what_is_given_back_keeps_its_place[sqlite-step]",),
    ),
    Mutant(
        "giving back charges an attempt",
        f"{SQLITE}/losses.py",
        "task.started = None",
        "task.attempt += 1",
        (f"{WORKING}test_what_is_given_back_is_next_again[sqlite-step]",),
    ),
    Mutant(
        "a worker's death charges an attempt",
        f"{SQLITE}/outcomes.py",
        "            return self.requeue(run, task, cause)",
        "            task.attempt += 1; return self.requeue(run, task, cause)",
        (f"{WORKING}test_a_death_from_outside_costs_no_attempt[sqlite-step]",),
    ),
    Mutant(
        "quarantine one death late",
        f"{SQLITE}/outcomes.py",
        "if task.strike(kind) < limit:",
        "if task.strike(kind) <= limit:",
        (
            f"{WORKING}test_a_task_that_kills_its_workers_is_quarantined[sqlite-step]",
            f"{WORKING}test_a_task_lost_with_its_node_too_often_is_quarantined[sqlite]",
        ),
    ),
    Mutant(
        "quarantine one death early",
        "kubemin/store/base.py",
        "CRASH_LIMIT = 3 ",
        "CRASH_LIMIT = 2 ",
        ("tests/process/test_promises.py::test_a_poison_task_is_quarantined_and_others_go_on",),
    ),
    Mutant(
        "a drain is charged one too early",
        "kubemin/model/transitions.py",
        "if drains <= limit:",
        "if drains < limit:",
        (f"{WORKING}test_drains_are_free_up_to_a_limit[sqlite]",),
    ),
    Mutant(
        "what would only happen again is tried again",
        "kubemin/model/transitions.py",
        "or cause in NOT_TRIED_AGAIN",
        "or False",
        ("tests/unit/test_transitions.py::test_what_an_attempt_s_end_becomes",),
    ),
    Mutant(
        "what a dead predecessor held is not recovered",
        "kubemin/coordinator/process.py",
        "if count := self.store.recover(live, started):",
        "if count := 0:",
        ("tests/process/test_promises.py::test_daemon_killed_and_restarted_takes_its_tasks_back_within_three_seconds",),
    ),
)

GRAPH = (
    Mutant(
        "countdown twice",
        f"{SQLITE}/settle.py",
        "other.open -= 1",
        "other.open -= 2",
        (f"{GRAPHS}test_a_diamond_runs_in_order[sqlite]",),
    ),
    Mutant(
        "a kept step of a retried run counts down again",
        f"{SQLITE}/building.py",
        "if need.state == WAITING or need.flags & KEPT:",
        "if need.state == WAITING:",
        (f"{CONTROL}test_a_cleanup_that_is_kept_passes_on_what_is_true_now[sqlite]",),
    ),
    Mutant(
        "a completed step passes no taint on",
        "kubemin/model/transitions.py",
        "            return OUTSIDE if told else 0\n        return told",
        "            return OUTSIDE if told else 0\n        return 0",
        (f"{GRAPHS}test_a_cleanup_in_the_middle_does_not_hide_a_failure[sqlite]",),
    ),
    Mutant(
        "what failed before a group skips the members of a group for failures",
        "kubemin/model/transitions.py",
        "return OUTSIDE if told else 0",
        "return told",
        (f"{GRAPHS}test_a_groups_own_condition_judges_what_is_before_it_and_its_members_theirs[sqlite-failure]",),
    ),
    Mutant(
        "in a group for failures the failure before it is forgotten",
        "kubemin/model/transitions.py",
        "return OUTSIDE if told else 0",
        "return 0",
        ("tests/unit/test_transitions.py::test_a_gate_tells_its_members_of_a_failure_outside",),
    ),
    Mutant(
        "a soft edge is treated as a hard one",
        "kubemin/model/transitions.py",
        "(0 if soft else UNMET)",
        "UNMET",
        (f"{GRAPHS}test_an_alert_without_reason_does_not_stop_what_comes_after_it_softly[sqlite]",),
    ),
    Mutant(
        "cancel stops `always` steps too",
        "kubemin/model/transitions.py",
        "    if when is When.ALWAYS:\n        return None\n    if stopped",
        "    if when is When.ALWAYS and stopped is None:\n        return None\n    if stopped",
        (f"{CONTROL}test_cancel_stops_what_runs_and_starts_only_always_steps[sqlite]",),
    ),
    Mutant(
        "the plain steps of an `always` group are cancelled",
        "kubemin/model/states.py",
        "frozenset({When.ALWAYS, When.CLEANUP})",
        "frozenset({When.ALWAYS})",
        (f"{CONTROL}test_the_plain_steps_of_an_always_group_run_after_a_cancel[sqlite]",),
    ),
    Mutant(
        "a plain step of an `always` group is like any other",
        "kubemin/files/compiler.py",
        "When.CLEANUP if group in STARTS_IN_STOPPED_RUN else When.SUCCESS",
        "When.SUCCESS",
        ("tests/unit/test_files_compiler.py::test_plain_members_of_an_always_group_start_in_a_stopped_run",),
    ),
    Mutant(
        "a failure after a cancel is tried again",
        f"{SQLITE}/outcomes.py",
        "retry, stopped=stopped is not None,",
        "retry, stopped=False,",
        (f"{CONTROL}test_a_failure_after_a_cancel_is_not_tried_again[sqlite]",),
    ),
    Mutant(
        "a stopped task whose worker dies is queued again",
        f"{SQLITE}/settle.py",
        "        task.due = None\n        stopped = self.stopped(run, task)",
        "        task.due = None\n        stopped = None",
        (f"{CONTROL}test_a_stopped_task_whose_worker_dies_or_drains_is_not_queued_again[sqlite]",),
    ),
    Mutant(
        "retry runs what completed again",
        "kubemin/model/transitions.py",
        "return forced or state is not TaskState.COMPLETED",
        "return True",
        (f"{CONTROL}test_retry_keeps_what_completed[sqlite]",),
    ),
    Mutant(
        "a retry's delay is ignored",
        f"{SQLITE}/outcomes.py",
        "task.due = self.s.now + round(then.delay * SECOND)",
        "task.due = self.s.now",
        (f"{WORKING}test_failed_attempts_are_tried_again_after_a_backoff[sqlite]",),
    ),
    Mutant(
        "a run's end lets its concurrency key go to nobody",
        f"{SQLITE}/settle.py",
        "if key is not None and held:",
        "if False:",
        (f"{CONTROL}test_queue_runs_one_after_the_other_in_order[sqlite]",),
    ),
    Mutant(
        "the window of a run is not refilled",
        f"{SQLITE}/settle.py",
        "        if run.parked:\n            self._short",
        "        if False:\n            self._short",
        (f"{WORKING}test_a_run_with_many_ready_tasks_does_not_hold_up_another[sqlite]",),
    ),
    Mutant(
        "a run may fill the whole queue",
        f"{SQLITE}/settle.py",
        "elif run.listed.get(task.queue, 0) < self.window:",
        "elif True:",
        (f"{WORKING}test_a_run_with_many_ready_tasks_does_not_hold_up_another[sqlite]",),
    ),
    Mutant(
        "maxParallel is ignored",
        f"{SQLITE}/fanout.py",
        "most = node.max_parallel or task.total",
        "most = task.total",
        (f"{GRAPHS}test_max_parallel_holds[sqlite]",),
    ),
    Mutant(
        "the cursor of a fan-out is not persisted",
        f"{SQLITE}/fanout.py",
        "                task.made += 1\n                self.s.touch(task)",
        "                task.made += 1",
        (f"{GRAPHS}test_a_fan_out_goes_on_after_a_crash_where_it_was[sqlite]",),
    ),
    Mutant(
        "the cursor of a cascade is not persisted",
        f"{SQLITE}/settle.py",
        'self.s.write_many("insert_ripple", ((run, kind, idx, pos) for kind, run, idx, pos in self._queue))',
        "pass",
        (f"{GRAPHS}test_a_chain_of_skips_is_a_loop_and_goes_on_after_a_crash[sqlite]",),
    ),
)

INTAKE = (
    Mutant(
        "a used key is accepted for something else",
        f"{SQLITE}/intake.py",
        "if not self._same(row[0], submission, body):",
        "if False:",
        (f"{ACCEPTING}test_a_key_with_something_else_is_refused[sqlite]",),
    ),
    Mutant(
        "a key is not kept",
        f"{SQLITE}/intake.py",
        "if submission.key is not None:\n            self.s.write(",
        "if False:\n            self.s.write(",
        (f"{ACCEPTING}test_the_same_key_a_thousand_times_is_one_run[sqlite-workflow]",),
    ),
    Mutant(
        "a repeat by id runs again",
        f"{SQLITE}/queries.sql",
        "INSERT OR IGNORE INTO tasks (run, idx, node, state, flags, open, queue, seq, due,",
        "INSERT OR REPLACE INTO tasks (run, idx, node, state, flags, open, queue, seq, due,",
        (f"{ACCEPTING}test_a_repeat_of_a_finished_task_changes_nothing[sqlite]",),
    ),
    Mutant(
        "a repeat by id of a workflow's run is an error",
        f"{SQLITE}/intake.py",
        'if self.s.find_run(run) is not None or self.s.one("known_id", (run,)):',
        "if False:",
        (f"{ACCEPTING}test_a_repeat_by_id_is_the_same_run[sqlite]",),
    ),
    Mutant(
        "sealing again is an error",
        f"{SQLITE}/intake.py",
        "        if known is not None:\n            return int(known[0])",
        "        if False:\n            return int(known[0])",
        (f"{ACCEPTING}test_a_batch_in_parts_is_one_commit[sqlite]",),
    ),
    Mutant(
        "a part of a sealed batch is dropped in a transaction of its own",
        f"{SQLITE}/intake.py",
        "        self.submit(admission.decode_submissions(body), patient=True)",
        '        self.s.write("delete_part", (batch, part)); self.s.db.execute("COMMIT"); self.s.begin(); '
        "self.submit(admission.decode_submissions(body), patient=True)",
        (f"{ACCEPTING}test_a_sealed_batch_is_unpacked_once_whenever_the_process_dies[sqlite]",),
    ),
    Mutant(
        "a sealed part is kept and unpacked for ever",
        f"{SQLITE}/intake.py",
        '        self.s.write("delete_part", (batch, part))',
        "        pass",
        (f"{ACCEPTING}test_a_sealed_batch_is_unpacked_once_whenever_the_process_dies[sqlite]",),
    ),
    Mutant(
        "a failed call leaves the rest of its group",
        f"{SQLITE}/group.py",
        "self._failure = self._failure or self._seen(error)",
        "raise self._seen(error) from error",
        (f"{FAULTS}test_a_failed_call_spoils_its_whole_group",),
    ),
    Mutant(
        "commits do not reach the disk",
        f"{SQLITE}/database.py",
        "synchronous = FULL",
        "synchronous = OFF",
        (f"{FAULTS}test_a_commit_is_on_the_disk_before_it_returns",),
    ),
)

TIME = (
    Mutant(
        "a schedule's mark is not raised",
        f"{SQLITE}/duties.py",
        'if not self.s.write("raise_mark", (slot, workflow)):',
        "if False:",
        (f"{DUTIES}test_a_slot_fires_once[sqlite]",),
    ),
    Mutant(
        "a slot of the hour that comes twice fires twice",
        "kubemin/model/schedule.py",
        "if instant > last:",
        "if True:",
        (f"{SCHEDULE}test_within_the_hour_that_comes_twice",),
    ),
    Mutant(
        "a missed slot fires",
        "kubemin/leader/schedule.py",
        "timely = slots[len(missed) :]",
        "timely = slots",
        ("tests/unit/test_missed_slots.py::test_missed_policy",),
    ),
    Mutant(
        "a run's time-out counts from its submission",
        f"{SQLITE}/intake.py",
        "            start_at, submission.scheduled_at, None, None, due, None, ckey,",
        "            start_at, submission.scheduled_at, None, None, due, self.s.now + 1, ckey,",
        (f"{CONTROL}test_a_run_times_out_from_its_first_claim[sqlite]",),
    ),
    Mutant(
        "young runs are pruned",
        f"{SQLITE}/duties.py",
        "(now - round(retention.minimum * SECOND), limit)",
        "(now, limit)",
        (f"{DUTIES}test_the_oldest_go_when_there_are_too_many_but_none_within_the_minimum[sqlite]",),
    ),
)

ALL = FENCING + CHARGING + GRAPH + INTAKE + TIME
