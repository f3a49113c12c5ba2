"""Defects of a fleet that signs: each lets something run that no key holder signed, or signs what nobody asked for."""

from __future__ import annotations

from mutants import Mutant

REDIS = "kubemin/store/redis"
RECORDS = "tests/fleet/test_signing_records.py::"
ATTACKS = "tests/fleet/test_signing_fleet.py::"

ALL = (
    Mutant(
        "the MAC is not compared",
        "kubemin/signing.py",
        "if not _equal(mac.encode(), _mac(key, int(instant), parts).encode()):",
        "if False:",
        ("tests/unit/test_signing.py::test_nothing_else_verifies",),
    ),
    Mutant(
        "a single task is not verified",
        f"{REDIS}/claims.py",
        "            self.s.signatures.check_task(run, work.encode(), extra.encode() if extra else None)\n",
        "            pass\n",
        (f"{RECORDS}test_what_nobody_signed_is_not_run_and_not_signed_by_a_retry",),
    ),
    Mutant(
        "a claim is not held against its signed run",
        f"{REDIS}/signatures.py",
        "if seal.definition != digest or seal.turn != turn:",
        "if False:",
        (f"{RECORDS}test_a_run_that_is_changed_after_its_signature_was_seen",),
    ),
    Mutant(
        "a definition is not held against its name",
        f"{REDIS}/session.py",
        "and not is_named(digest, found):",
        "and False:",
        (f"{ATTACKS}test_a_definition_that_was_changed",),
    ),
    Mutant(
        "the output of a step is not verified",
        f"{REDIS}/signed_inputs.py",
        "self._signatures.check_output(run, node.step, task, output)",
        "pass",
        (f"{ATTACKS}test_outputs_and_items_that_were_changed",),
    ),
    Mutant(
        "the length of a join is Redis' word",
        f"{REDIS}/signed_inputs.py",
        "if task.b is None or total != task.N:",
        "if task.b is None:",
        (f"{ATTACKS}test_joined_outputs_that_were_changed",),
    ),
    Mutant(
        "a retry signs what nobody had signed",
        f"{REDIS}/control.py",
        "        self.s.signatures.verify_task(run, work, extra)\n",
        "",
        (f"{RECORDS}test_what_nobody_signed_is_not_run_and_not_signed_by_a_retry",),
    ),
    Mutant(
        "who unpacks a batch signs it",
        f"{REDIS}/intake.py",
        "signatures = None if staged else self.s.signatures\n        for queue",
        "signatures = self.s.signatures\n        for queue",
        (f"{ATTACKS}test_a_batch_that_nobody_sent",),
    ),
    Mutant(
        "a leader fires again what it fired",
        f"{REDIS}/duties.py",
        "if submission is None or self._was_fired(workflow, slot):",
        "if submission is None:",
        (f"{RECORDS}test_a_leader_fires_no_slot_again_that_it_fired_and_none_of_long_ago",),
    ),
    Mutant(
        "an old token begins again",
        "kubemin/worker/fleet/replays.py",
        "if token <= tokens[number]:",
        "if False:",
        ("tests/unit/test_replays.py::test_a_token_has_to_rise",),
    ),
)
