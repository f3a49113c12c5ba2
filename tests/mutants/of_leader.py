"""Defects of the election, of the fence behind it, of the leader's duties, and of what is told about them."""

from __future__ import annotations

from mutants import Mutant

TERM = "tests/leader/test_term.py::"
ELECTOR = "tests/leader/test_elector.py::"
SIMULATION = "tests/leader/test_simulation.py::"
LEASE = "tests/leader/test_lease.py::"
KUBERNETES = "tests/leader/test_kubernetes_backend.py::"
REDIS = "tests/leader/test_redis_elector.py::"
PROCESSES = "tests/leader/test_processes.py::"
CAMPAIGN = "tests/leader/test_campaign.py::"
SCENARIOS = "tests/leader/test_scenarios.py::"
RULES = "tests/fleet/test_redis_rules.py::"
SLOTS = "tests/unit/test_missed_slots.py::"
METRICS = "tests/fleet/test_metrics_fleet.py::"
OPERATORS = "tests/fleet/test_operators_fleet.py::"

ELECTION = (
    Mutant(
        "a term goes on after its end until somebody says so",
        "kubemin/leader/term.py",
        "        return grant if grant is not None and self._now() < grant.until else None",
        "        return grant",
        (f"{TERM}test_a_term_ends_by_the_clock_alone",),
    ),
    Mutant(
        "an answer that comes late revives a term",
        "kubemin/leader/term.py",
        "            if grant is None or grant.epoch != epoch:",
        "            grant = self._grant\n            if grant is None or grant.epoch != epoch:",
        (f"{TERM}test_a_late_answer_revives_nothing",),
    ),
    Mutant(
        "a term begins although the daemon stops",
        "kubemin/leader/term.py",
        "            if self._barred or self._now() >= grant.until:",
        "            if self._now() >= grant.until:",
        (f"{TERM}test_a_barred_term_does_not_begin",),
    ),
    Mutant(
        "a renewal is valid from its answer, not from before it was sent",
        "kubemin/leader/elector.py",
        "        if not self.term.extend(self._epoch, sent + self._settings.renew_deadline):",
        "        if not self.term.extend(self._epoch, self._now() + self._settings.renew_deadline):",
        (f"{ELECTOR}test_a_term_counts_from_before_its_renewal_was_sent",),
    ),
    Mutant(
        "a candidate does not wait for the holder's duration",
        "kubemin/leader/sight.py",
        "            self._expiry = now + (record.duration or self._duration)",
        "            self._expiry = now + 0.5 * (record.duration or self._duration)",
        (f"{SIMULATION}test_nobody_leads_beside_another[1]",),
    ),
    Mutant(
        "a lease that vanished is taken at once",
        "kubemin/leader/sight.py",
        "        if record is None:\n            return",
        "        if record is None:\n            self._expiry = None\n            return",
        (f"{LEASE}test_deleted_after_its_leader_died",),
    ),
    Mutant(
        "an epoch is not above the store's",
        "kubemin/leader/sight.py",
        "        return max(self.highest + 1, floor, 0)",
        "        return max(self.highest + 1, 0)",
        (f"{LEASE}test_a_fresh_candidate_after_a_deletion_is_above_the_stores_epoch",),
    ),
    Mutant(
        "a node campaigns although the store cannot say its epoch",
        "kubemin/leader/elector.py",
        '            raise Unanswered(f"{NO_FLOOR}: {exc}") from exc',
        "            floor = 0",
        (f"{ELECTOR}test_a_free_lease_is_left_alone_while_the_store_cannot_say_its_epoch",),
    ),
    Mutant(
        "after a conflict another's lease is taken for one's own",
        "kubemin/leader/elector.py",
        "        ours = record.holder == self.identity and record.transitions == held.transitions",
        "        ours = True",
        (f"{LEASE}test_another_holder_in_the_same_lease",),
    ),
    Mutant(
        "a lease that somebody made anew is taken for one's own",
        "kubemin/leader/elector.py",
        '        if not ours or held.uid not in ("", record.uid):',
        "        if not ours:",
        (f"{ELECTOR}test_a_lease_made_anew_under_our_name_is_not_ours",),
    ),
    Mutant(
        "work that hangs keeps the lease",
        "kubemin/leader/elector.py",
        "        stalled = not self._working()",
        "        stalled = False",
        (f"{PROCESSES}test_work_that_hangs_loses_the_lease",),
    ),
    Mutant(
        "a lease is released while the leader's work goes on",
        "kubemin/leader/wishes.py",
        "            self._term.bar()",
        "            pass",
        (f"{CAMPAIGN}test_the_term_is_over_when_step_down_returns",),
    ),
    Mutant(
        "who stepped down campaigns at once",
        "kubemin/leader/elector.py",
        '        self._resume_at = float("inf") if wish.stop else self._now() + STAND_BACK * '
        "self._settings.retry_period",
        '        self._resume_at = float("inf") if wish.stop else 0.0',
        (f"{ELECTOR}test_who_steps_down_lets_the_others_go_first",),
    ),
    Mutant(
        "who stepped down waits although its successor has left",
        "kubemin/leader/elector.py",
        '            if self._sight.holder in ("", self.identity) and self._sight.highest == self._gave_up:',
        '            if self._sight.holder in ("", self.identity):',
        (f"{ELECTOR}test_who_stepped_down_goes_on_when_its_successor_leaves_too",),
    ),
    Mutant(
        "a second stop cuts the release off",
        "kubemin/leader/wishes.py",
        "            if self._stopping:",
        "            if False:",
        (f"{CAMPAIGN}test_a_second_stop_does_not_cut_the_release_off",),
    ),
    Mutant(
        "a word that the lease is free is not acted upon",
        "kubemin/leader/campaign.py",
        "        if not self.figures.outage:\n            self._wake.set()",
        "        pass",
        (f"{CAMPAIGN}test_who_has_let_go_tells_the_others_and_they_look_at_once",),
    ),
    Mutant(
        "a request that hangs is waited for",
        "kubemin/leader/bounded.py",
        "            job.woken.wait(max(timeout, 0.0))",
        "            job.woken.wait(30.0)",
        (f"{TERM}test_a_call_that_hangs_is_left_and_its_answer_thrown_away",),
    ),
    Mutant(
        "the settings leave no time to stop the leader's work",
        "kubemin/leader/campaign.py",
        "    if lease - renew < gap:",
        "    if lease <= renew:",
        (f"{TERM}test_parameters_that_would_let_two_nodes_act",),
    ),
)

BACKENDS = (
    Mutant(
        "a lease is written over whatever is there",
        "kubemin/leader/lease/kubernetes.py",
        '        metadata = {key: value for key, value in source["metadata"].items() if key != "managedFields"}',
        '        metadata = {"name": self._name, "resourceVersion": self.read(timeout).version}',
        (f"{KUBERNETES}test_only_what_was_read_is_written",),
    ),
    Mutant(
        "a deleted lease is made again by a renewal",
        "kubemin/leader/lease/kubernetes.py",
        'if key != "managedFields"}',
        'if key not in ("managedFields", "uid")}',
        (f"{KUBERNETES}test_a_deleted_lease_is_not_made_again_by_a_renewal",),
    ),
    Mutant(
        "a missing namespace is taken for a missing lease",
        "kubemin/leader/lease/kubernetes.py",
        '    if status == 404 and (answer.get("details") or {}).get("kind") == "leases":',
        "    if status == 404:",
        (f"{KUBERNETES}test_a_missing_namespace_is_somebodys_mistake",),
    ),
    Mutant(
        "times lose their fraction",
        "kubemin/leader/lease/kubernetes.py",
        '    return rfc3339(at if at % SECOND else at + 1) or ""',
        '    return rfc3339(at - at % SECOND) or ""',
        (f"{TERM}test_times_never_have_an_empty_fraction",),
    ),
    Mutant(
        "the lock of another is prolonged",
        "kubemin/leader/lease/lua/renew.lua",
        "if holder ~= ARGV[1] or epoch ~= ARGV[2] then",
        "if false then",
        (f"{REDIS}test_acquired_by_one_renewed_and_released_by_its_owner",),
    ),
    Mutant(
        "an epoch is given out twice when the counter is gone",
        "kubemin/leader/lease/lua/acquire.lua",
        "if epoch < lowest then --",
        "if false then --",
        (f"{REDIS}test_each_acquisition_has_a_higher_epoch_above_what_the_store_says",),
    ),
    Mutant(
        "two backends elect two leaders",
        "kubemin/leader/lease/redis.py",
        "        if in_force != place:",
        "        if False:",
        (f"{REDIS}test_a_node_with_another_backend_does_not_campaign",),
    ),
)

FENCE = (
    Mutant(
        "an old leader's write is let through",
        "kubemin/store/redis/lua/token.lua",
        "  if known ~= string.format('%.0f', REQ.epoch) .. ' ' .. REQ.holder then",
        "  if false then",
        (f"{RULES}test_duties_of_an_old_term_are_refused",),
    ),
    Mutant(
        "the fence knows the epoch and not the holder",
        "kubemin/store/redis/lua/token.lua",
        "  if known ~= string.format('%.0f', REQ.epoch) .. ' ' .. REQ.holder then",
        "  if string.match(known or '', '^%d+') ~= string.format('%.0f', REQ.epoch) then",
        (f"{RULES}test_duties_of_an_old_term_are_refused",),
    ),
    Mutant(
        "the store takes an epoch that it has had",
        "kubemin/store/redis/lua/lead.lua",
        "if REQ.epoch > newest then",
        "if REQ.epoch >= newest then",
        (f"{RULES}test_duties_of_an_old_term_are_refused",),
    ),
    Mutant(
        "duties do not say under which term they act",
        "kubemin/store/redis/session.py",
        '            more["epoch"], more["holder"] = self.term',
        "            pass",
        (f"{RULES}test_duties_of_an_old_term_are_refused",),
    ),
    Mutant(
        "a leader acts before the store has taken its epoch",
        "kubemin/coordinator/fleet/office.py",
        "        if not self._store.lead(epoch, holder):",
        "        if False:",
        (f"{SCENARIOS}test_a_leader_that_is_paused_between_its_check_and_its_write[redis]",),
    ),
    Mutant(
        "a step-down that was asked for is not heard",
        "kubemin/coordinator/fleet/office.py",
        "            if self._wishes.due() and self._store.handover.asked(grant.holder):",
        "            if False:",
        (f"{OPERATORS}test_step_down_hands_over_within_three_seconds",),
    ),
)

DUTIES = (
    Mutant(
        "missed slots are not looked at",
        "kubemin/leader/schedule.py",
        '    if schedule.missed == "all":',
        '    if schedule.missed == "none":',
        (f"{SLOTS}test_missed_policy",),
    ),
    Mutant(
        "a gap's latest slot is taken before its end is known",
        "kubemin/leader/schedule.py",
        " and all_seen and not timely:",
        " and not timely:",
        (f"{SLOTS}test_once_waits_for_the_end_of_a_long_gap",),
    ),
    Mutant(
        "every node says that it leads",
        "kubemin/coordinator/exposition.py",
        "    return record.term_until > boottime() if elects(record.mode) else record.leader == header.node",
        "    return True",
        (f"{METRICS}test_the_election",),
    ),
    Mutant(
        "changes of leader are not counted",
        "kubemin/coordinator/fleet/office.py",
        '            "kubemin_leader_transitions": {(): figures.transitions},',
        '            "kubemin_leader_transitions": {(): 0},',
        (f"{METRICS}test_the_election",),
    ),
    Mutant(
        "an outage of Redis is not counted",
        "kubemin/coordinator/fleet/outages.py",
        "            self._count += 1",
        "            pass",
        (f"{METRICS}test_redis_and_its_outages",),
    ),
    Mutant(
        "locks that had lapsed are not counted",
        "kubemin/coordinator/fleet/locks.py",
        '            "kubemin_locks_lapsed_total": {(): self.lapsed},',
        '            "kubemin_locks_lapsed_total": {(): 0},',
        (f"{METRICS}test_locks_and_recoveries",),
    ),
)

ALL = (*ELECTION, *BACKENDS, *FENCE, *DUTIES)
