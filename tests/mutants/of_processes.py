"""Defects of the processes: coordinator, supervisor, worker, their channels, and the client."""

from __future__ import annotations

from mutants import Mutant

PROMISES = "tests/process/test_promises.py::"
COMMITTED = "tests/process/test_commit_then_send.py::"
SUPERVISOR = "tests/process/test_supervisor.py::"
SILENCE = "tests/unit/test_silence.py::"
HANGS = "tests/process/test_hangs.py::"
CONTROL = "tests/process/test_supervisor_control.py::"
WORKER = "tests/integration/test_worker_process.py::"
PYTHON = "tests/integration/test_python_step.py::"
LEFTOVERS = "tests/integration/test_python_leftovers.py::"
BROKER = "tests/unit/test_worker_link.py::"
CHANNEL = "tests/unit/test_channel.py::"
GATEWAY = "tests/unit/test_client_gateway.py::"

COORDINATOR = (
    Mutant(
        "a reply leaves before its commit",
        "kubemin/coordinator/process.py",
        "                reply.ok(carry_out(self.store, request))",
        "                reply.ok(carry_out(self.store, request)); self.server.flush([reply])",
        (f"{COMMITTED}test_what_a_client_was_told_is_there_after_a_kill_before_the_commit",),
    ),
    Mutant(
        "a task is handed out before its commit",
        "kubemin/coordinator/process.py",
        "            grants = self.pool.claim(self.store, self.settings.queues) if self.handing else []",
        "            grants = [(link, [claim for claim in claims if link.hand([claim])]) "
        "for link, claims in (self.pool.claim(self.store, self.settings.queues) if self.handing else [])]",
        (f"{COMMITTED}test_a_kill_before_the_commit_runs_nothing_twice_and_loses_no_report",),
    ),
    Mutant(
        "what a failed transaction was to apply is forgotten",
        "kubemin/coordinator/process.py",
        "        self._health.fails(exc)",
        "        self._health.fails(exc); self.pending.clear()",
        (f"{COMMITTED}test_a_report_outlives_a_store_that_fails",),
    ),
    Mutant(
        "what was taken back is not given back",
        "kubemin/coordinator/pending.py",
        "        if claims:",
        "        if False:",
        (f"{COMMITTED}test_what_stands_behind_a_long_task_runs_elsewhere",),
    ),
    Mutant(
        "nothing is taken back from behind a long task",
        "kubemin/coordinator/link.py",
        "return len(self.held) > 1 and now - self.last_report > STALL_SECONDS",
        "return False",
        (f"{BROKER}test_stalled_only_when_something_stands_behind",),
    ),
    Mutant(
        "a new coordinator says no hello",
        "kubemin/coordinator/pool.py",
        "            link.hello()",
        "            pass",
        (f"{COMMITTED}test_a_kill_before_the_commit_runs_nothing_twice_and_loses_no_report",),
    ),
    Mutant(
        "a hello met while taking back is swallowed",
        "kubemin/coordinator/link.py",
        "        if HELLO_KIND in kinds:",
        "        if False:",
        (f"{BROKER}test_taking_back_repeats_a_hello_it_met",),
    ),
    Mutant(
        "reports are acknowledged that were never read",
        "kubemin/coordinator/link.py",
        "sent, acked = 0, self.received",
        "sent, acked = 0, self.received + len(self.held)",
        (f"{BROKER}test_a_report_settles_what_was_held_and_is_acknowledged_by_the_next_task",),
    ),
    Mutant(
        "a crash of the step's own making is taken for a kill from outside",
        "kubemin/coordinator/deaths.py",
        "    if number in OWN_SIGNALS:",
        "    if False:",
        (
            f"{BROKER}test_what_a_death_means",
            f"{PROMISES}test_a_python_step_that_ends_badly_fails_with_its_cause[segv-signal]",
        ),
    ),
    Mutant(
        "a worker that had begun nothing is charged",
        "kubemin/coordinator/deaths.py",
        'return link.held.get(record["token"]) if record["state"] in BEGUN else None',
        "return next(iter(link.held.values()), None)",
        (f"{BROKER}test_a_worker_that_took_a_task_and_did_not_begin_it_is_blamed_for_nothing",),
    ),
)

WORKERS = (
    Mutant(
        "a report is not kept until it is acknowledged",
        "kubemin/worker/reports.py",
        "        self._kept.append((self._seq, body))",
        "        pass",
        (f"{WORKER}test_reports_are_numbered_and_repeated_to_a_new_coordinator",),
    ),
    Mutant(
        "an acknowledgement drops one report too many",
        "kubemin/worker/reports.py",
        "while kept and kept[0][0] <= seq:",
        "while kept and kept[0][0] <= seq + 1:",
        (f"{WORKER}test_reports_are_numbered_and_repeated_to_a_new_coordinator",),
    ),
    Mutant(
        "a hello is not answered",
        "kubemin/worker/reports.py",
        "        self._deliver(HELLO, pack_hello())",
        "        pass",
        (f"{WORKER}test_reports_are_numbered_and_repeated_to_a_new_coordinator",),
    ),
    Mutant(
        "a worker outlives its supervisor",
        "kubemin/kernel.py",
        "    _control(_PR_SET_PDEATHSIG, signal.SIGKILL)",
        "    pass",
        (f"{WORKER}test_dies_with_its_supervisor",),
    ),
    Mutant(
        "a cancel that came first does not stop its task",
        "kubemin/worker/execute.py",
        'return None if cause is None else Ended(TaskState.CANCELLED, cause, "was stopped before it started")',
        "return None",
        (f"{WORKER}test_a_cancel_that_comes_first_stops_the_task_before_it_starts",),
    ),
    Mutant(
        "what a Python step left behind is not killed",
        "kubemin/worker/execute.py",
        "        if self._containment.kill_leftovers():",
        "        if False:",
        (f"{LEFTOVERS}test_a_worker_that_was_left_unclean_is_replaced",),
    ),
    Mutant(
        "a forked child becomes a second worker",
        "kubemin/worker/execute.py",
        "            os._exit(0)  # a child that the function forked",
        "            pass  # a child that the function forked",
        (f"{LEFTOVERS}test_a_forked_child_does_not_become_a_second_worker",),
    ),
    Mutant(
        "after INT the task counts as failed",
        "kubemin/worker/execute.py",
        "        if self._interrupts.draining:  # the function may",
        "        if False:  # the function may",
        (f"{PYTHON}test_int_puts_the_task_back",),
    ),
    Mutant(
        "any function is admitted",
        "kubemin/steps/python.py",
        "if not any(fnmatchcase(path, pattern) for pattern in self._allow):",
        "if False:",
        (f"{PYTHON}test_nothing_is_admitted_by_default",),
    ),
    Mutant(
        "a large packet need not be sealed",
        "kubemin/channel.py",
        "    if not sealed:",
        "    if False:",
        (f"{CHANNEL}test_a_large_packet_must_be_a_sealed_memfd",),
    ),
    Mutant(
        "half a scoreboard record is believed",
        "kubemin/scoreboard.py",
        "    if crc32(body) != crc:",
        "    if False:",
        ("tests/unit/test_scoreboard.py::test_torn_record_is_unknown",),
    ),
)

SUPERVISORS = (
    Mutant(
        "a stopped worker keeps its task until its deadline",
        "kubemin/supervisor/enforcing.py",
        "        self._end_stopped(now)",
        "        pass",
        (f"{PROMISES}test_a_stopped_worker_is_killed_and_its_task_started_again",),
    ),
    Mutant(
        "a schedule that was published after the start does not fire",
        "kubemin/coordinator/duties.py",
        "            self._scheduler.reload()",
        "            pass",
        (f"{PROMISES}test_a_schedule_fires_once_a_slot_over_a_reload_and_a_kill_of_everything",),
    ),
    Mutant(
        "start time of a pid is not compared",
        "kubemin/processes.py",
        "    if now is not None and now.start == process.start and not now.dead:",
        "    if now is not None and not now.dead:",
        (f"{CONTROL}test_pid_file_never_names_a_stranger",),
    ),
    Mutant(
        "children outlive a killed supervisor",
        "kubemin/kernel.py",
        "    _control(_PR_SET_PDEATHSIG, signal.SIGKILL)",
        "    pass",
        (f"{SUPERVISOR}test_supervisor_killed_and_restarted",),
    ),
    Mutant(
        "what a killed daemon left is not killed at the restart",
        "kubemin/supervisor/orphans.py",
        "        found = [process for process in processes.everyone() if _carries(process, entry)]",
        "        found = []",
        (f"{SUPERVISOR}test_supervisor_killed_and_restarted",),
    ),
    Mutant(
        "orphans of a dead worker live on",
        "kubemin/supervisor/orphans.py",
        "        self.killed += sum(processes.send(process, signal.SIGKILL) for process in frozen)",
        "        pass",
        (f"{SUPERVISOR}test_orphans_of_a_dead_worker_are_killed",),
    ),
    Mutant(
        "a kill order hits whatever task runs",
        "kubemin/supervisor/enforcing.py",
        "        if life is not None and record is not None and record.token == order.token:",
        "        if life is not None and record is not None:",
        (f"{SUPERVISOR}test_kill_order_hits_only_the_task_that_is_meant",),
    ),
    Mutant(
        "a kill order hits a later life",
        "kubemin/supervisor/enforcing.py",
        "if life is not None and life.incarnation == order.incarnation else None",
        "if life is not None else None",
        (f"{SUPERVISOR}test_kill_order_hits_only_the_task_that_is_meant",),
    ),
    Mutant(
        "a deadline is not enforced",
        "kubemin/supervisor/enforcing.py",
        "            if deadline and deadline <= at:",
        "            if False:",
        (f"{SUPERVISOR}test_deadline_kills",),
    ),
    Mutant(
        "a worker keeps the channels of the others",
        "kubemin/supervisor/forking.py",
        "            _close(self.private.difference(child.keep))",
        "            pass",
        (f"{SUPERVISOR}test_a_worker_holds_nobody_elses_channel",),
    ),
    Mutant(
        "a death is not told to the next coordinator",
        "kubemin/supervisor/coordinator.py",
        "        for life in (*(grave.life for grave in self._graves), *self._lives()):",
        "        for life in self._lives():",
        (f"{SUPERVISOR}test_death_that_the_coordinator_did_not_survive_is_told_again",),
    ),
    Mutant(
        "a coordinator that waits for its disk is taken for one that hangs",
        "kubemin/store/sqlite/session.py",
        '        self.beat(DISK)\n        self.db.execute("COMMIT")',
        '        self.db.execute("COMMIT")',
        (f"{HANGS}test_one_that_waits_for_its_disk_is_not_replaced",),
    ),
    Mutant(
        "a coordinator that others keep from the processor is taken for one that hangs",
        "kubemin/supervisor/silence.py",
        "            self._seconds += process.cpu - self._cpu",
        "            self._seconds += min(now - self._looked, LONGEST_LOOK)",
        (f"{SILENCE}test_one_that_computes_hangs_by_its_own_time",),
    ),
    Mutant(
        "a coordinator that hangs is never replaced",
        "kubemin/supervisor/coordinator.py",
        "        if self._silence.is_hang(self.pid, now):",
        "        if False:",
        (f"{HANGS}test_one_that_hangs_is_replaced_and_what_runs_goes_on[hang]",),
    ),
    Mutant(
        "a second daemon takes the state directory",
        "kubemin/supervisor/statelock.py",
        "        fcntl.flock(fd, fcntl.LOCK_EX)",
        "        pass",
        (f"{SUPERVISOR}test_second_daemon_is_refused",),
    ),
    Mutant(
        "a dead daemon's lock is waited for, however long",
        "kubemin/supervisor/statelock.py",
        "            _end_heirs(fd, pid)",
        "            pass",
        ("tests/process/test_promises.py::test_a_child_that_a_python_step_forked_does_not_hold_up_a_restart",),
    ),
    Mutant(
        "a stop does not keep the coordinator from handing out",
        "kubemin/supervisor/stopping.py",
        "            self._keeper.stop()",
        "            pass",
        (f"{SUPERVISOR}test_clean_stop_leaves_nothing",),
    ),
    Mutant(
        "a second TERM lengthens the grace",
        "kubemin/supervisor/stopping.py",
        "min(self._deadline, now + grace)",
        "max(self._deadline, now + grace)",
        (f"{CONTROL}test_second_term_ends_the_grace",),
    ),
    Mutant(
        "another daemon's pid file is removed",
        "kubemin/supervisor/pidfile.py",
        "if process is not None and process.pid == os.getpid():",
        "if process is not None:",
        (f"{CONTROL}test_pid_file_never_names_a_stranger",),
    ),
    Mutant(
        "a wish is granted again with the next signal",
        "kubemin/supervisor/wishes.py",
        "if wish is None or wish.request == self._last:",
        "if wish is None:",
        (f"{CONTROL}test_drain",),
    ),
    Mutant(
        "busy workers are replaced before idle ones",
        "kubemin/supervisor/rolling.py",
        "return idle[0].slot",
        "return candidates[0].slot",
        ("tests/process/test_supervisor_rules.py::test_idle_ones_first",),
    ),
    Mutant(
        "a run that failed is no failure to who waits for it",
        "kubemin/cli/commands/submit.py",
        "return 0 if status in (None, RunState.COMPLETED) else 1",
        "return 0",
        ("tests/integration/test_cli_runs.py::test_a_failed_run",),
    ),
    Mutant(
        "workers that cannot start are forked for ever",
        "kubemin/supervisor/loop.py",
        "        if reason and not self.stop.active:",
        "        if False:",
        (f"{SUPERVISOR}test_coordinator_that_cannot_start_stops_the_daemon",),
    ),
    Mutant(
        "a reload goes on though its canary died",
        "kubemin/supervisor/pool.py",
        "return life is not None and canary is not None and life.generation == canary.generation and life.was_idle",
        "return True",
        (f"{CONTROL}test_canary_that_cannot_start_keeps_the_old_generation",),
    ),
)

CLIENT = (
    Mutant(
        "a lost connection loses its requests",
        "kubemin/api/gateway.py",
        "                time.sleep(pause)\n                pause = min(pause * 2, 0.2)\n\n    def _over",
        "                return []\n\n    def _over",
        (f"{GATEWAY}test_a_dropped_connection_submits_once",),
    ),
    Mutant(
        "the file is written while a daemon holds it",
        "kubemin/api/gateway.py",
        "            yield _flock(fd)",
        "            yield True",
        (f"{GATEWAY}test_a_client_does_not_write_past_somebody_who_holds_the_lock",),
    ),
    Mutant(
        "a retry whose answer was lost is an error",
        "kubemin/client.py",
        "            if now > before:",
        "            if False:",
        (f"{GATEWAY}test_a_retry_whose_answer_was_lost",),
    ),
)

ALL = COORDINATOR + WORKERS + SUPERVISORS + CLIENT
