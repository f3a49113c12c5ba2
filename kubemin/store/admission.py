"""What is checked of a submission before anything of it is written, the same for every engine.

Pure: what is known already the engine looks up, and it decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from kubemin.errors import Invalid, KubeminError, NotFound, Refused
from kubemin.model.graph import Retry
from kubemin.model.ids import RUN_ID_PATTERN
from kubemin.model.records import Accepted, Rejection, Submission
from kubemin.model.references import as_text, render
from kubemin.store.plans import CorruptDefinition, Plan, Plans

Answer = Accepted | Rejection

is_run_id = re.compile(RUN_ID_PATTERN).match
decode_submissions = msgspec.json.Decoder(list[Submission]).decode


def rejection(error: KubeminError) -> Rejection:
    return Rejection(error.code, str(error), error.exit_code)


# --- what is wrong with it by itself ---------------------------------------------------------------------------------


def check_id(run: str) -> None:
    if not is_run_id(run):
        raise Invalid(f'"{run[:40]}" is not a run id: 20 characters of 0-9 and a-z')


def check_single(submission: Submission) -> None:
    """A task without a workflow. Raises Invalid."""
    check_id(submission.id)
    work = submission.work or {}
    if ("python" in work) + ("run" in work) + ("shell" in work) != 1 or not submission.queue:
        raise Invalid("a single task is one of python, run or shell, and needs a queue")
    if submission.retry is not None:
        as_retry(submission.retry)


def as_retry(given: dict[str, Any]) -> Retry:
    try:
        return msgspec.convert(given, Retry)
    except msgspec.ValidationError as error:
        raise Invalid(f"retry: {error}") from error


def read_part(batch: str, body: bytes, find_plan: Callable[[Submission], Plan]) -> list[Submission]:
    """One part of a batch. All that could be said against it is said now: after the seal nobody listens."""
    try:
        submissions = decode_submissions(body)
    except msgspec.DecodeError as error:
        raise Invalid(f"part of batch {batch}: {error}") from error
    for submission in submissions:
        if submission.key is not None:
            raise Invalid("a submission with a key cannot be part of a batch in parts; submit it by itself")
        if submission.work is not None:
            check_single(submission)
        else:
            check_id(submission.id)
            plan = find_plan(submission)
            concurrency_key(plan, bind(plan, submission.params))
    return submissions


# --- with its definition ---------------------------------------------------------------------------------------------


def plan_of(plans: Plans, submission: Submission, published: Callable[[str], str | None]) -> Plan:
    """Of the definition that it names, else of the published one. Raises NotFound, Invalid."""
    digest = submission.definition or published(submission.workflow)
    if digest is None:
        raise NotFound(f"there is no workflow {submission.workflow!r}; `kubeminctl workflows` lists the published ones")
    try:
        plan = plans.find(digest)
    except CorruptDefinition as error:
        raise Invalid(f"{error}; publish it again") from error
    if plan is None:
        raise NotFound(f"definition {digest[:12]} of workflow {submission.workflow!r} is not known here; send it along")
    return plan


def bind(plan: Plan, given: dict[str, Any]) -> dict[str, Any]:
    """Parameters with defaults filled in. Raises Invalid."""
    if not plan.graph.params and not given:
        return {}
    from kubemin.files import bind_params  # many runs have none, and spare the readers of files

    return bind_params(plan.graph, given)


def concurrency_key(plan: Plan, params: dict[str, Any]) -> str | None:
    rule = plan.graph.concurrency
    if rule is None:
        return None
    try:
        return as_text(render(rule.key, {"params": params}))
    except (KubeminError, ValueError) as error:
        raise Invalid(f"concurrency.key: {error}") from error


# --- with what is there already --------------------------------------------------------------------------------------


def key_taken(key: str | None, run: str) -> Refused:
    what = f'the key "{key}" belongs to run {run} with another workflow or other parameters'
    return Refused(what, code="key_conflict")


def concurrency_held(holder: str, ckey: str | None) -> Refused:
    return Refused(f'run {holder} holds the concurrency key "{ckey}"; wait for its end', code="concurrency")
